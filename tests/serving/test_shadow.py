"""Shadow transcripts: drawn by chance, made after the answer, logged without their texts, counted apart."""

import threading
from dataclasses import dataclass, field

import pandas as pd
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient
from waiting import wait_until

from whisper_router.audio import SAMPLE_RATE
from whisper_router.decision import Segment, Transcript
from whisper_router.disagreement import disagreements
from whisper_router.router import Router
from whisper_router.serving import batcher as batchers
from whisper_router.serving.batcher import Batcher, Job
from whisper_router.serving.metrics import Metrics
from whisper_router.serving.settings import Settings
from whisper_router.serving.shadow import Shadow

URL = "/v1/audio/transcriptions"


def figure(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"whisper_router_shadow_{name}"))


@pytest.mark.parametrize("text", [False, True])
def test_both_arms_are_compared_on_what_was_routed(serving, waves, router, tmp_path, text):
    with serving(log=tmp_path, shadow=1, log_text=text) as client:
        plain = [
            client.post(URL, files={"file": wave}, data={"response_format": "verbose_json"}) for wave in waves
        ]
        for model in ("weak", "strong"):
            client.post(URL, files={"file": waves[0]}, data={"model": model})
        client.post("/v1/decide", files={"file": waves[0]})
        wait_until(lambda: figure(client, "windows_total") >= len(waves))
        assert figure(client, "windows_total") == len(waves)
        assert figure(client, "macs_total") > 0
        assert figure(client, "seconds_total") > 0
    rows = pd.concat([pd.read_parquet(path) for path in tmp_path.glob("shadow-*.parquet")])
    rows = rows.set_index("request").loc[[answer.headers["x-request-id"] for answer in plain]]
    texts = {arm: [one.text for one in router.transcribe(waves, policy=arm)] for arm in ("weak", "strong")}
    expected = disagreements(texts["weak"], texts["strong"])
    names = ("words_weak", "words_strong", "differences")
    assert rows[list(names)].values.tolist() == [[getattr(one, name) for name in names] for one in expected]
    assert rows["differences"].sum() > 0
    assert rows["route"].tolist() == [answer.headers["x-whisper-router-arm"] for answer in plain]
    assert rows["avg_logprob_weak"].notna().all()
    assert rows["avg_logprob_strong"].notna().all()
    for arm, column in texts.items():
        assert rows[f"text_{arm}"].isna().all() if not text else rows[f"text_{arm}"].tolist() == column
    costs = [answer.json()["whisper_router"]["cost"] for answer in plain]
    with serving() as client:
        alone = [
            client.post(URL, files={"file": wave}, data={"response_format": "verbose_json"}) for wave in waves
        ]
    assert costs == [answer.json()["whisper_router"]["cost"] for answer in alone]


def test_nothing_is_logged_without_a_share(serving, waves, tmp_path):
    with serving(log=tmp_path) as client:
        client.post(URL, files={"file": waves[0]})
        assert client.app.state.service.shadow is None
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["predictions"]


def test_answers_go_first_and_a_full_queue_drops(serving, waves, tmp_path, monkeypatch):
    monkeypatch.setattr(batchers, "MAX_IDLE", 2)
    hear, opened, at_once = Router.hear, threading.Event(), []

    def held(self, windows, routes, transcribe):
        if routes[0].arm is None:
            return hear(self, windows, routes, transcribe)
        at_once.append(1)
        opened.wait(120)
        made = hear(self, windows, routes, transcribe)
        at_once.pop()
        return made

    monkeypatch.setattr(Router, "hear", held)
    with serving(log=tmp_path, shadow=1, workers=2) as client:
        for wave in waves:  # one worker is held by shadow work all the while
            assert client.post(URL, files={"file": wave}).status_code == 200
            wait_until(lambda: at_once)
        assert at_once == [1]
        assert figure(client, 'windows_total{result="dropped"}') == len(waves) - 3
        opened.set()
        wait_until(lambda: figure(client, 'windows_total{result="done"}') >= 3)
    assert at_once == []


def test_idle_work_waits_for_every_window_and_faults_stay_alone(router, speech):
    batcher, order = Batcher(1, 1000), []

    def fails() -> None:
        order.append("fails")
        raise RuntimeError("damaged")

    jobs = [Job(router, [(0, speech(1.0, i))], router.route(), True) for i in range(6)]
    for number, job in enumerate(jobs):
        job.future.add_done_callback(lambda _, number=number: order.append(number))
    futures = [batcher.submit(job) for job in jobs]
    assert batcher.when_idle(fails)
    assert batcher.when_idle(lambda: order.append("works"))
    for future in futures:
        future.result(120)
    wait_until(lambda: "works" in order)
    assert batcher.alive
    batcher.stop()
    assert order[-2:] == ["fails", "works"]
    assert not batcher.when_idle(fails)


@dataclass
class Taken:
    """Stands where the batcher does."""

    work: list = field(default_factory=list)

    def when_idle(self, work) -> bool:
        self.work.append(work)
        return True


def test_windows_are_drawn_whatever_their_score(tmp_path):
    taken = Taken()
    shadow = Shadow(Settings(log=tmp_path, shadow=0.25), taken, Metrics())
    segments = tuple(
        Segment(i, i + 1.0, i / 4000, "strong" if i >= 2000 else "weak", "m", "t") for i in range(4000)
    )
    made = Transcript(1.0, 0.5, "strong", "m", 4000.0, segments, None, "half", "t")
    shadow.offer(None, [(i * SAMPLE_RATE, None) for i in range(4000)], made, "r")
    shadow.stop()
    drawn = [work.args[2].score for work in taken.work]
    low, high = sum(score < 0.5 for score in drawn), sum(score >= 0.5 for score in drawn)
    assert 400 < low < 600  # 500 expected, 5 standard deviations
    assert 400 < high < 600


def test_a_share_needs_a_log():
    with pytest.raises(ValidationError, match="set log to a folder"):
        Settings(shadow=0.05)
    with pytest.raises(ValidationError):
        Settings(shadow=1.5, log="log")

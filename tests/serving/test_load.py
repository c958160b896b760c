"""Real weights under load: several clients, a long file, MLflow's own server."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile
import torch
from serving_process import ROOT, TRANSCRIBE, server

from benchmarks.serving import load
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import SAMPLE_RATE
from whisper_router.corpus.demo import make_demo
from whisper_router.decode import load_audio
from whisper_router.registry import model_parts
from whisper_router.router import Router
from whisper_router.scoring import word_errors

pytestmark = [pytest.mark.acceptance, pytest.mark.real]
SENTENCES = ROOT / "data/corpora/demo/sentences.txt"


@pytest.fixture(scope="module")
def folder(package_router, tmp_path_factory) -> Path:
    """tiny.en -> base; a threshold between the scores of the demo's speech."""
    options = DecodeOptions()
    return package_router(
        tmp_path_factory.mktemp("real") / "router",
        "confidence",
        weak=options,
        strong=options,
        weak_weights=find_checkpoint("tiny.en").path,
        strong_weights=find_checkpoint("base").path,
        batch_size=16,
    )


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> list[dict]:
    """Sentences with their audio."""
    folder = tmp_path_factory.mktemp("demo")
    lines = SENTENCES.read_text().splitlines()[:40]
    (folder / "sentences.txt").write_text("\n".join(lines) + "\n")
    return make_demo(folder / "sentences.txt", folder, 40, seed=7)


@pytest.fixture(scope="module")
def files(spoken) -> list[Path]:
    return [Path(row["audio"]) for row in spoken]


@pytest.fixture(scope="module")
def expected(folder, files):
    """What the router says of each; both arms have their share."""
    torch.set_num_threads(1)
    router = Router.load(folder)
    threshold = float(np.median([one.score for one in router.decide(files)]))
    for path in (folder / "policies").glob("half.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": threshold}))
    made = Router.load(folder).transcribe(files)
    assert {one.arm for one in made} == {"weak", "strong"}
    return made


def test_eight_clients_at_once_get_what_one_gets(folder, files, expected):
    with server(str(folder)) as started:
        one, eight = load(started.url, files, 1, 15), load(started.url, files, 8, 90)
    assert one["errors"] == eight["errors"] == 0
    for run in (one, eight):
        assert run["texts"]
        for i, texts in run["texts"].items():
            assert texts == [expected[int(i)].text]


def test_ten_minutes_in_bounded_memory(folder, spoken, files, expected, tmp_path):
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    clips = [part for path in files for part in (load_audio(path), pause)]
    whole = np.concatenate(clips)
    once, path = tmp_path / "once.flac", tmp_path / "long.flac"
    soundfile.write(once, whole, SAMPLE_RATE)
    rounds = -(-600 * SAMPLE_RATE // whole.size)
    soundfile.write(path, np.tile(whole, rounds), SAMPLE_RATE)
    router = Router.load(folder)
    windows = router.process([once], [router.route()], transcribe=False)[0].segments
    threshold = float(np.median([window.score for window in windows]))
    policy = json.loads((folder / "policies/half.json").read_text())
    policy |= {"name": "windows", "threshold": threshold}
    (folder / "policies/windows.json").write_text(json.dumps(policy))
    seconds = rounds * whole.size / SAMPLE_RATE
    with server(str(folder), workers=2) as started:
        load(started.url, files, 2, 10)
        before, peak, done = started.memory(), [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                peak[0] = max(peak[0], started.memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        form = {"response_format": "verbose_json", "model": "routed-windows"}
        with path.open("rb") as file:
            answer = httpx.post(started.url + TRANSCRIBE, files={"file": file}, data=form, timeout=300)
        done.set()
        watcher.join()
    assert answer.status_code == 200
    told = answer.json()
    segments, routes = told["segments"], told["whisper_router"]["segments"]
    assert told["duration"] == pytest.approx(seconds, abs=0.01)
    assert [s["start"] for s in segments] == [0, *(s["end"] for s in segments[:-1])]
    assert len(segments) >= 20
    assert {route["arm"] for route in routes} == {"weak", "strong"}
    assert peak[0] - before < 900 << 20
    errors = word_errors([" ".join(row["text"] for row in spoken) * 1], [" ".join(e.text for e in expected)])
    joined = word_errors([" ".join([" ".join(row["text"] for row in spoken)] * rounds)], [told["text"]])
    alone = errors[0].errors / errors[0].reference_words
    assert joined[0].errors / joined[0].reference_words < alone + 0.08


def test_mlflow_s_own_server_and_command(folder, files, expected, tmp_path):
    model = tmp_path / "model"
    before = sys.path.copy()
    mlflow.pyfunc.save_model(str(model), **model_parts(folder))
    sys.path[:] = before
    rows = [{"audio": base64.b64encode(path.read_bytes()).decode()} for path in files[:8]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    bin_ = Path(sys.executable).parent
    environment["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = "600"
    environment["PATH"] = f"{bin_}:{environment['PATH']}"
    command = [str(bin_ / "mlflow"), "models"]
    options = ["-m", str(model), "--env-manager", "local"]
    serving = subprocess.Popen(
        [*command, "serve", *options, "--port", str(port), "--host", "127.0.0.1"],
        cwd=tmp_path,
        env=environment,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"{url}/ping").status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.5)
        answer = httpx.post(f"{url}/invocations", json={"dataframe_records": rows}, timeout=600)
        assert [row["text"] for row in answer.json()["predictions"]] == [one.text for one in expected[:8]]
        wrong = httpx.post(f"{url}/invocations", json={"inputs": {"audio": [rows[0]["audio"]]}}, timeout=60)
        assert wrong.status_code == 400
        assert "dataframe_split" in wrong.text
    finally:
        for process in psutil.Process(serving.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        serving.kill()
        serving.wait()
    (tmp_path / "in.json").write_text(json.dumps({"dataframe_records": rows[:2]}))
    predict = ["predict", *options, "-i", "in.json", "-o", "out.json", "--content-type", "json"]
    subprocess.run([*command, *predict], cwd=tmp_path, env=environment, check=True)
    made = pd.DataFrame(json.loads((tmp_path / "out.json").read_text())["predictions"])
    assert made["text"].tolist() == [one.text for one in expected[:2]]

"""A real server process: curl, hostile input, a clean end, a killed one."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving_process import TRANSCRIBE, hostile_bodies, hostile_files, hostile_names, server
from waiting import wait_until

from whisper_router.router import Router

EXAMPLES = Path(__file__).parents[2] / "examples"
MEMORY = 400 << 20  # more than this a hostile request must not take


@pytest.fixture(scope="module")
def running(routers):
    with server(str(routers["confidence"])) as started:
        yield started


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")


def ask(url: str, audio: bytes, **more) -> httpx.Response:
    return httpx.post(url + TRANSCRIBE, files={"file": ("a.wav", audio)}, timeout=60, **more)


@needs_curl
def test_curl(running, routers, waves, tmp_path):
    (tmp_path / "sound.wav").write_bytes(waves[0])
    command = ["curl", "-sS", "-F", "file=@sound.wav", "-F", "model=routed", running.url + TRANSCRIBE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (expected,) = Router.load(routers["confidence"]).transcribe(waves[:1])
    assert json.loads(done.stdout) == {"text": expected.text}


@needs_curl
def test_examples(running, routers, waves, tmp_path):
    sound = tmp_path / "sound.wav"
    sound.write_bytes(waves[0])
    (expected,) = Router.load(routers["confidence"]).transcribe(waves[:1])
    for command in (["sh", EXAMPLES / "curl.sh"], [sys.executable, EXAMPLES / "sdk.py"]):
        done = subprocess.run([*command, sound, running.url], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert expected.text in done.stdout
        assert expected.model in done.stdout


def test_hostile_input_is_answered_4xx_in_bounded_time_and_memory(running, waves):
    (good,) = (ask(running.url, wave).json() for wave in waves[:1])
    before = running.memory()
    told = {}

    def send(name, **request):
        begun = time.monotonic()
        answer = httpx.post(running.url + TRANSCRIBE, timeout=60, **request)
        assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text[:200])
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, name
        assert "Traceback" not in answer.text
        assert time.monotonic() - begun < 30, name
        assert running.memory() - before < MEMORY, name
        told[name] = answer.json()["error"]["code"]

    for name, data in hostile_files().items():
        send(name, files={"file": ("a.wav", data)})
    for name, (kind, body) in hostile_bodies(waves[0]).items():
        send(name, content=body, headers={"content-type": kind})
    assert len(told) >= 50
    assert told["flac of 10 hours of silence"] == told["opus of 2 hours of silence"] == "audio_too_long"
    assert told["larger than the limit"] == "file_too_large"
    for name in hostile_names():
        answer = httpx.post(running.url + TRANSCRIBE, files={"file": (name, waves[0])}, timeout=60)
        assert answer.status_code == 400 or answer.json() == good, name
    assert ask(running.url, waves[0]).json() == good


def test_a_client_that_goes_away_leaves_the_server_alive(running, waves):
    for _ in range(5):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(running.url + TRANSCRIBE, files={"file": ("a.wav", waves[0] * 1)}, timeout=0.001)
    assert ask(running.url, waves[0]).status_code == 200
    metrics = running.url + "/metrics"
    wait_until(lambda: "whisper_router_open_requests 0.0" in httpx.get(metrics, timeout=60).text)


@pytest.mark.acceptance
def test_sigterm_finishes_what_was_taken_on(routers, waves, tmp_path):
    with server(str(routers["confidence"]), log=tmp_path / "log", workers=1) as started:
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(ask, started.url, waves[i % 6]) for i in range(12)]
            metrics = started.url + "/metrics"
            wait_until(
                lambda: (
                    any(answer.done() for answer in answers)
                    or "open_requests 0.0" not in httpx.get(metrics, timeout=60).text
                )
            )
            code = started.stop()
            done = [answer.exception() or answer.result().status_code for answer in answers]
        assert code == 0
    taken = [one for one in done if one == 200]
    refused = [one for one in done if one != 200]
    assert taken
    assert all(isinstance(one, httpx.NetworkError | httpx.RemoteProtocolError) for one in refused)
    assert list((tmp_path / "log").glob("*.parquet"))


@pytest.mark.acceptance
def test_a_killed_server_fails_cleanly_and_serves_again(routers, waves):
    router = str(routers["confidence"])
    outcomes: list[object] = []
    stop = threading.Event()
    with server(router) as first:
        port = int(first.url.rsplit(":", 1)[1])

        def load() -> None:
            while not stop.is_set():
                try:
                    outcomes.append(ask(first.url, waves[0]).status_code)
                except httpx.TransportError as error:
                    outcomes.append(type(error).__name__)
                    time.sleep(0.05)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        while outcomes.count(200) < 5:
            time.sleep(0.02)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        with server(router, port=port):
            served = outcomes.count(200)
            while outcomes.count(200) < served + 5:
                time.sleep(0.02)
            stop.set()
            for thread in threads:
                thread.join()
    assert set(outcomes) - {200} <= {"ConnectError", "ReadError", "RemoteProtocolError", "WriteError"}
    assert set(outcomes) - {200}


@pytest.mark.acceptance
def test_a_swap_under_load_loses_nothing(routers, waves, tmp_path):
    folder = tmp_path / "router"
    folder.symlink_to(routers["confidence"])
    answers: list[httpx.Response] = []
    stop = threading.Event()
    with server(str(folder), reload_s=0) as started:

        def load() -> None:
            while not stop.is_set():
                answers.append(ask(started.url, waves[len(answers) % 6]))

        threads = [threading.Thread(target=load) for _ in range(6)]
        for thread in threads:
            thread.start()
        for kind in ("encoder", "strong_encoder", "confidence"):
            link = tmp_path / "next"
            link.symlink_to(routers[kind])
            link.replace(folder)
            before = httpx.get(started.url + "/ready").json()["version"]
            started.process.send_signal(signal.SIGHUP)
            while httpx.get(started.url + "/ready").json()["version"] == before:
                time.sleep(0.05)
            seen = len(answers)
            while len(answers) < seen + 10:
                time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-whisper-router-version"] for answer in answers}) == 3


@pytest.mark.acceptance
def test_a_port_that_is_taken_is_told(running, routers):
    port = running.url.rsplit(":", 1)[1]
    command = ["--router", str(routers["confidence"]), "--port", port]
    done = subprocess.run(
        [shutil.which("env") or "env", *serve_command(), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "address already in use" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def serve_command() -> list[str]:
    return [sys.executable, "-c", "from whisper_router.cli import app; app()", "serve"]

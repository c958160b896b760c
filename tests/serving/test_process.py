"""A real server process: curl, hostile input, a clean end, a killed one."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from serving_process import TRANSCRIBE, hostile_bodies, hostile_files, hostile_names, server
from sounds import bombs
from waiting import wait_until

from whisper_router.router import Router
from whisper_router.serving.connections import ACCEPTED, ROUNDS

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


@pytest.mark.acceptance
def test_bombs_at_once_stop_no_honest_client(running, waves):
    """Prints p95 of four honest clients alone and beside four that send bombs, and what the service holds."""
    bombs_ = [data for name, data in bombs().items() if not name.startswith("A-law at 8 kHz, one")]
    process = psutil.Process(running.process.pid)

    def held() -> tuple[int, int, int]:
        family = [process, *process.children()]
        return sum(one.memory_info().rss for one in family) >> 20, process.num_threads(), process.num_fds()

    def honest(_: int) -> list[float]:
        took = []
        for i in range(25):
            begun = time.monotonic()
            assert ask(running.url, waves[i % 6]).status_code == 200
            took.append(time.monotonic() - begun)
        return took

    def bomb(i: int) -> int:
        sent = 0
        while not done.is_set():
            assert ask(running.url, bombs_[(i + sent) % len(bombs_)]).status_code in (400, 413)
            sent += 1
        return sent

    def p95(clients: ThreadPoolExecutor) -> float:
        return float(np.quantile([t for took in clients.map(honest, range(4)) for t in took], 0.95))

    done = threading.Event()
    with ThreadPoolExecutor(4) as clients, ThreadPoolExecutor(4) as attackers:
        p95(clients)
        alone, before = p95(clients), held()
        sent = [attackers.submit(bomb, 4 * i) for i in range(4)]
        try:
            beside = p95(clients)
        finally:
            done.set()
        bombs_sent = sum(one.result() for one in sent)
    wait_until(lambda: "whisper_router_open_requests 0.0" in httpx.get(running.url + "/metrics").text)
    after = held()
    print(f"p95 {alone:.2f} s alone, {beside:.2f} s beside {bombs_sent} bombs")
    print(f"MiB, threads, files: {before} -> {after}")
    assert beside < 10
    assert after[0] - before[0] < 400
    assert after[2] - before[2] <= 20  # two more decoders, and connections that close


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


def opened(port: int, count: int, first: bytes) -> list[socket.socket]:
    """Connections that have sent the beginning of something, or nothing."""
    made = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(count)]
    for one in made:
        one.sendall(first)
        one.setblocking(False)
    return made


def dripped(held: list[socket.socket]) -> None:
    """A byte on each that is open; those that the server closed are left out from now on."""
    for one in list(held):
        try:
            one.send(b"0")
            gone = one.recv(10_000) == b""
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            held.remove(one)
            one.close()


HEAD = f"POST {TRANSCRIBE} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
BODY = (
    HEAD + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n--x\r\n"
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)


@pytest.mark.acceptance
def test_silent_and_half_open_connections_keep_nobody_out_and_are_closed(routers, waves):
    with server(str(routers["confidence"]), header_s=3, max_connections=200) as started:
        port, parent = int(started.url.rsplit(":", 1)[1]), psutil.Process(started.process.pid)
        good, before = ask(started.url, waves[0]).json(), parent.num_fds()
        held = [*opened(port, 400, b""), *opened(port, 200, HEAD)]
        assert parent.num_fds() <= before + 200 + ROUNDS * ACCEPTED  # of 600
        for path in ("/health", "/ready"):
            assert httpx.get(started.url + path, timeout=10).status_code == 200
        assert ask(started.url, waves[0]).json() == good
        wait_until(lambda: parent.num_fds() <= before + 2, 20)
        for one in held:
            one.close()
        assert ask(started.url, waves[0]).json() == good


@pytest.mark.acceptance
def test_more_connections_than_descriptors_neither_fill_the_log_nor_stop_the_service(
    routers, waves, tmp_path
):
    errors = tmp_path / "errors"
    limits = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))\n"
    code = f"{limits}from whisper_router.cli import app; app()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", "--router", str(routers["confidence"])]
    with ExitStack() as stack:
        log = stack.enter_context(errors.open("w"))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        stack.callback(process.kill)
        url = process.stdout.readline().split(" at ")[1].strip()
        held = opened(int(url.rsplit(":", 1)[1]), 600, HEAD)
        for _ in range(5):
            assert httpx.get(url + "/ready", timeout=10).status_code == 200
        assert ask(url, waves[0]).status_code == 200
        for one in held:
            one.close()
        process.terminate()
        assert process.wait(30) == 0
    assert "at most 148 connections" in errors.read_text()
    assert errors.stat().st_size < 2000


@pytest.mark.acceptance
def test_dripping_bodies_take_no_slot_and_sigterm_ends_whatever_drips(routers, waves, tmp_path):
    more = {"max_requests": 4, "max_uploads": 16, "log": tmp_path / "log", "stop_s": 10}
    with server(str(routers["confidence"]), **more) as started:
        port = int(started.url.rsplit(":", 1)[1])
        held = opened(port, 64, BODY)
        for i in range(8):
            dripped(held)
            answer = ask(started.url, waves[i % 6])
            if answer.status_code == 429:  # all of them have just begun, so none is known to be slow
                time.sleep(int(answer.headers["retry-after"]))
                answer = ask(started.url, waves[i % 6])
            assert answer.status_code == 200
        wait_until(lambda: dripped(held) or not held, 30)  # each is cut, for it is too slow
        held = [*opened(port, 40, BODY), *opened(port, 40, HEAD), *opened(port, 40, b"")]
        ended, done = threading.Event(), threading.Event()

        def drip() -> None:
            while not ended.wait(0.1):
                dripped(held)
            done.set()

        threading.Thread(target=drip).start()
        begun = time.monotonic()
        assert started.stop() == 0
        assert time.monotonic() - begun < 10
        ended.set()
        done.wait()
    rows = pd.concat(map(pd.read_parquet, (tmp_path / "log").glob("predictions-*.parquet")))
    assert len(rows) == 8


@pytest.mark.acceptance
def test_sigterm_gives_up_what_takes_too_long_and_keeps_the_log(routers, waves, speech, wav, tmp_path):
    more = {"workers": 1, "log": tmp_path / "log", "stop_s": 1}
    with server(str(routers["confidence"]), **more) as started:
        assert ask(started.url, waves[0]).status_code == 200
        long = wav(speech(600))
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, started.url, long) for _ in range(4)]
            metrics = started.url + "/metrics"
            wait_until(lambda: "whisper_router_queue_windows 0.0" not in httpx.get(metrics, timeout=60).text)
            begun = time.monotonic()
            started.process.terminate()
            assert started.process.wait(30) == 0
            assert time.monotonic() - begun < 12
            outcomes = {one.exception() or one.result().status_code for one in asked}
    assert {one for one in outcomes if isinstance(one, int)} <= {503}
    assert sum(len(pd.read_parquet(path)) for path in (tmp_path / "log").glob("predictions-*.parquet")) == 1


def serve_command() -> list[str]:
    return [sys.executable, "-c", "from whisper_router.cli import app; app()", "serve"]

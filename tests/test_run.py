"""The Prefect server of a run: it answers, and nothing of it outlives the run."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid

import psutil
import pytest
from waiting import wait_until

from whisper_router import environment
from whisper_router.run import RunError, prefect_server

pytestmark = pytest.mark.acceptance

HOLD = """
import time
from whisper_router import environment
environment.prepare()
from whisper_router.run import prefect_server
print("begun", flush=True)
with prefect_server() as url:
    print(url, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def mark(tmp_path, monkeypatch) -> str:
    """A variable that every process of the test inherits, wherever it ends up in the tree."""
    for name in list(os.environ):
        if name.startswith("PREFECT_"):
            monkeypatch.delenv(name)
    value = uuid.uuid4().hex
    monkeypatch.setenv("WHISPER_ROUTER_TEST", value)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for name, setting in environment._DEFAULTS.items():
        monkeypatch.setenv(name, setting)
    return value


def marked(value: str) -> list[psutil.Process]:
    """Living processes that carry the mark, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("WHISPER_ROUTER_TEST") == value:
                found.append(process)
        except psutil.Error:
            continue
    return found


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_the_server_answers_and_is_gone_after_the_block(mark):
    assert children() == []
    handler = signal.getsignal(signal.SIGTERM)
    with prefect_server() as url:
        assert healthy(url)
        assert marked(mark)
    assert children() == []
    assert marked(mark) == []
    assert not healthy(url)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_server_that_is_given_is_used_and_left_running(mark, monkeypatch):
    with prefect_server() as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        before = set(children())
        with prefect_server() as given:
            assert given == url
            assert set(children()) == before
        assert healthy(url)


def test_the_server_is_gone_after_an_exception(mark):
    urls = []

    def fail() -> None:
        with prefect_server() as url:
            urls.append(url)
            assert healthy(url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert children() == []
    assert marked(mark) == []
    assert not healthy(urls[0])


def test_what_the_block_started_is_gone_too(mark):
    sleeper = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"

    def be_interrupted() -> None:
        with prefect_server():
            before = len(marked(mark))
            subprocess.Popen([sys.executable, "-c", sleeper])
            wait_until(lambda: len(marked(mark)) >= before + 2)
            assert len(marked(mark)) == before + 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert children() == []
    assert marked(mark) == []


def test_a_server_that_dies_is_told_with_its_log(monkeypatch, tmp_path, mark):
    script = tmp_path / "broken-prefect"
    script.write_text("#!/bin/sh\necho broken installation\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr("whisper_router.run.script", lambda name: str(script))
    with pytest.raises(RunError, match=r"stopped with code 3; see .*server\.log"), prefect_server():
        pass
    assert "broken installation" in (tmp_path / "prefect" / "server.log").read_text()
    assert marked(mark) == []


@pytest.fixture
def holder(tmp_path):
    """A Python process that keeps a server until it is told to stop."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # a job in the background ignores SIGINT, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    descendants: list[psutil.Process] = []
    yield process, descendants
    for left in [*descendants, *marked(os.environ["WHISPER_ROUTER_TEST"])]:
        if left.is_running():
            left.kill()
    process.wait()


def wait_gone(process: subprocess.Popen, descendants: list[psutil.Process], mark: str) -> None:
    process.wait(timeout=180)
    psutil.wait_procs(descendants, timeout=60)
    assert [left for left in descendants if left.is_running() and left.status() != "zombie"] == []
    assert marked(mark) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGINT, -signal.SIGINT),
        pytest.param(signal.SIGHUP, 128 + signal.SIGHUP),
    ],
    ids=["SIGTERM", "SIGINT", "SIGHUP"],
)
def test_nothing_of_the_session_survives_a_signal(holder, mark, number, code):
    process, descendants = holder
    assert process.stdout.readline() == "begun\n"
    url = process.stdout.readline().strip()
    assert healthy(url)
    descendants += psutil.Process(process.pid).children(recursive=True)
    assert descendants
    process.send_signal(number)
    wait_gone(process, descendants, mark)
    assert not healthy(url)
    assert process.returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_nothing_survives_a_signal_while_the_server_starts(holder, mark, number):
    process, descendants = holder
    assert process.stdout.readline() == "begun\n"
    wait_until(lambda: psutil.Process(process.pid).children())
    descendants += psutil.Process(process.pid).children(recursive=True)
    time.sleep(0.5)
    process.send_signal(number)
    wait_gone(process, descendants, mark)


def test_nothing_survives_two_interrupts(holder, mark):
    process, descendants = holder
    assert process.stdout.readline() == "begun\n"
    assert healthy(process.stdout.readline().strip())
    descendants += psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    wait_gone(process, descendants, mark)

"""The DAG: one Prefect server for all stages, `dvc repro`, and nothing left running."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import psutil
from rich.console import Console

from whisper_router import environment, installed
from whisper_router.errors import UserError

START_TIMEOUT_S = 180.0
PATIENCE_S = 15.0  # of waiting, before it is said
AT_ONCE = {"PYTHONUNBUFFERED": "1"}  # a stage's lines reach a log when they are written
STOP_S = 10.0  # for a stage that was interrupted
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has one
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # what is asked runs on this machine


class RunError(UserError):
    """The DAG did not run to its end."""


def free_port(wanted: int = 0) -> int:
    """The wanted port of this machine if it is free, else one that is."""
    try:
        with socket.create_server(("127.0.0.1", wanted)) as probe:
            return int(probe.getsockname()[1])
    except OSError:
        return free_port()


def script(name: str) -> str:
    """The command of an installed package, of this environment first.

    Raises
    ------
    RunError
        It is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise RunError(f"{name} is not installed beside {sys.executable}; run `make install`")
    return found


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _stop(children: set[psutil.Process]) -> None:
    """End processes, gently first."""
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=5)


def launch(command: list[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start a server that writes into a log; Ctrl-C reaches it only through ``nothing_left``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        return subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=output, stderr=output, start_new_session=True
        )


def wait_for(name: str, health: str, log: Path, server: subprocess.Popen[bytes] | None = None) -> None:
    """Return when a server of this machine answers.

    Parameters
    ----------
    server : Popen, optional
        Its process. None where another process has started it: then a long wait is said.

    Raises
    ------
    RunError
        It stopped, or does not answer in time.
    """
    began, told = time.monotonic(), server is not None
    while True:
        if server is not None and server.poll() is not None:
            raise RunError(f"{name} stopped with code {server.returncode}; see {log}")
        if _answers(health):
            return
        waited = time.monotonic() - began
        if waited > PATIENCE_S and not told:
            print(f"waiting for {name}", file=sys.stderr, flush=True)
            told = True
        if waited > START_TIMEOUT_S:
            raise RunError(f"{name} did not answer within {START_TIMEOUT_S:.0f} s; see {log}")
        time.sleep(0.1)


def _answers(health: str) -> bool:
    with suppress(urllib.error.URLError, OSError), _DIRECT.open(health, timeout=2):
        return True
    return False


def _raise_exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


@contextmanager
def nothing_left() -> Iterator[None]:
    """End all processes that the block started, on every way out; SIGTERM and SIGHUP are ways out."""
    before = _children()
    previous = {number: signal.signal(number, _raise_exit) for number in ENDS}
    previous[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # a second one must not cut the end short
        _stop(_children() - before)
        for number, handler in previous.items():
            signal.signal(number, handler)


def api(port: int) -> str:
    """The URL of a Prefect server's API on this machine."""
    return f"http://127.0.0.1:{port}/api"


def prefect_command(port: int, *options: str) -> list[str]:
    """The command of a Prefect server on this machine alone."""
    return [script("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port), *options]


def prefect_log() -> Path:
    """Where a Prefect server of this machine writes its log."""
    return Path(os.environ["PREFECT_HOME"]) / "server.log"


def await_api(url: str) -> None:
    """Return when a Prefect server answers that is starting on this machine; others are not asked.

    Raises
    ------
    RunError
        It does not answer in time.
    """
    if url.startswith("http://127.0.0.1:"):
        wait_for(f"the Prefect server {url}", f"{url}/health", prefect_log())


@contextmanager
def prefect_server() -> Iterator[str]:
    """Yield the API's URL of the server in PREFECT_API_URL; else run one, and stop it on every way out."""
    with starting_server() as (url, wait):
        with Console(stderr=True).status("starting a Prefect server"):
            wait()
        yield url


@contextmanager
def starting_server() -> Iterator[tuple[str, Callable[[], None]]]:
    """As ``prefect_server``, and a function that waits until it answers: other things can start meanwhile."""
    if given := os.environ.get("PREFECT_API_URL"):
        yield given, lambda: None
        return
    port = free_port()
    url = api(port)
    log = prefect_log()
    with nothing_left():
        server = launch(prefect_command(port, "--no-ui"), log)
        yield url, partial(wait_for, "the Prefect server", f"{url}/health", log, server)


def dvc_call(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """A command of DVC and the environment in which its stages find Python and keep their memory.

    Raises
    ------
    RunError
        DVC is not installed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return [script("dvc"), *arguments], {**os.environ, **environment.KEEP_BLOCKS, "PATH": path}


def run(*stages: str) -> None:
    """Run what is not up to date of the DAG, or of some stages and all before them.

    Raises
    ------
    RunError
        A stage failed; DVC has said which.
    """
    environment.prepare()
    installed.refresh()
    _, variables = dvc_call()
    command = [sys.executable, "-m", "whisper_router.repro", *stages]
    with starting_server() as (url, wait):
        process = subprocess.Popen(command, env=variables | {"PREFECT_API_URL": url, **AT_ONCE})
        try:
            wait()
            code = process.wait()
        except KeyboardInterrupt:  # it has reached the stage too, which tells the server
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=STOP_S)
            raise
    if code:
        raise RunError(f"a stage stopped with code {code}; its own message stands above")

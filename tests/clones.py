"""Copies of this tree in which tests run whole stages, with the copy's own code and content store."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from whisper_router import environment
from whisper_router.run import prefect_server

ROOT = Path(__file__).parents[1]


def make_clone(folder: Path) -> Path:
    """Copy what git tracks into a repository of its own, where small corpora have splits too."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = folder / "params.yaml"
    params.write_text(
        params.read_text().replace("cross_validation: {below: 400,", "cross_validation: {below: 0,")
    )
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "clone"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@contextmanager
def own_server(home: Path) -> Iterator[str]:
    """A Prefect server with its state in ``home``; its API's URL."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("PREFECT_"):
                patch.delenv(name)
        for name, value in environment._DEFAULTS.items():
            patch.setenv(name, value)
        patch.setenv("PREFECT_HOME", str(home))
        with prefect_server() as url:
            yield url


def variables(clone: Path, **more: str) -> dict[str, str]:
    """The environment of a command in a clone."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    own = {"PYTHONPATH": str(clone / "src"), "WHISPER_ROUTER_CACHE": str(clone / ".cache")}
    return {**kept, **own, **more}


def call(clone: Path, *arguments: str, **more: str) -> str:
    """Run whisper-router's command in a clone; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", "from whisper_router.cli import app; app()", *arguments],
        cwd=clone,
        env=variables(clone, **more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(clone: Path, *arguments: str) -> str:
    """Run DVC in a clone; its standard output."""
    command = [str(Path(sys.executable).with_name("dvc")), *arguments]
    done = subprocess.run(
        command, cwd=clone, env=variables(clone), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(clone: Path, stage: str, **more: str) -> subprocess.Popen[bytes]:
    """Start a stage's flow without DVC, which would bring back outputs that it has in its cache."""
    command = [sys.executable, "-m", f"flows.{stage}"]
    with (clone / f"{stage}.log").open("w") as log:
        return subprocess.Popen(
            command, cwd=clone, env=variables(clone, **more), stdout=log, stderr=log, start_new_session=True
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all it started, at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_when(clone: Path, stage: str, reached: Callable[[], bool]) -> None:
    """Kill a stage's flow as soon as it got that far."""
    process = start(clone, stage)
    while not reached():
        assert process.poll() is None, (clone / f"{stage}.log").read_text()
        time.sleep(0.02)
    kill(process)

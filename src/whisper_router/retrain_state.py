"""What a retraining leaves in the project for the next one: its lock, its branch, its outcome."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from whisper_router import git
from whisper_router.errors import UserError, without_passwords

BRANCH = "retrain/"  # prefix of the branches that retrainings commit on
STATE = Path(".dvc/tmp")
LOCK = STATE / "retrain.lock"
HOLDER = STATE / "retrain.json"  # who holds the lock
BEGUN = STATE / "retrain.begun"  # stands from the start of a retraining to its end
OUTCOMES = STATE / "retrain.jsonl"  # one line per retraining that ended

Ending = Literal["promoted", "gate failed", "nothing new", "nothing to do", "error"]


class RetrainError(UserError):
    """A retraining cannot go on."""


class Outcome(BaseModel):
    """What came of a retraining."""

    model_config = ConfigDict(frozen=True)

    ending: Ending
    version: str | None = None
    failed: dict[str, str] = {}  # rules of the gate, with their figures
    error: str | None = None


class Retraining(BaseModel):
    """A retraining that ended; times are UTC, ISO 8601."""

    model_config = ConfigDict(frozen=True)

    began: str
    ended: str
    outcome: Outcome

    @property
    def seconds(self) -> float:
        """From its start, or its continuation after a kill, to its end."""
        return (datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.began)).total_seconds()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def alone() -> Iterator[None]:
    """One retraining at a time in a project.

    Raises
    ------
    RetrainError
        Another one runs; it says which.
    """
    from whisper_router.files import write_text  # imports pandas, which reading the state does not need

    path = LOCK.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = HOLDER.absolute()
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)  # `running` holds it for a moment
    except Timeout as error:
        raise RetrainError(
            f"another retraining of {Path.cwd()} runs: {_holder(holder)}; it holds {path}"
        ) from error
    try:
        if holder.is_file():  # its process was killed, maybe in a git command
            git.drop_stale_locks()
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}, since {_now()}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else "a process that has just begun"


def running() -> str | None:
    """Which process retrains in this project now; None where none does."""
    if not LOCK.is_file():
        return None
    lock = FileLock(LOCK.absolute())
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return _holder(HOLDER)
    lock.release()
    return None


def own_files(tracked: Path | None) -> list[str]:
    """Files that a retraining commits: dvc.lock, and what makes DVC track the corpus."""
    return ["dvc.lock", *([str(tracked), str(tracked.with_name(".gitignore"))] if tracked else [])]


def foreign_changes(own: list[str]) -> list[str]:
    """Files that git tracks and that differ from HEAD, without those that a retraining commits.

    Raises
    ------
    UserError
        This is no repository, or it has no commit.
    """
    others = [f":!{name}" for name in own]
    return git.do("diff", "--name-only", "--relative", "HEAD", "--", ".", *others).splitlines()


def keep(began: str, outcome: Outcome) -> None:
    """Append the outcome of a retraining to those of the project."""
    line = Retraining(began=began, ended=_now(), outcome=outcome).model_dump_json()
    OUTCOMES.parent.mkdir(parents=True, exist_ok=True)
    with OUTCOMES.open("a") as file:
        file.write(f"{line}\n")


@contextmanager
def errors_kept() -> Iterator[str]:
    """Keep an error of the block as a retraining's outcome; yields when the block began."""
    began = _now()
    try:
        yield began
    except BaseException as error:
        name, said = type(error).__name__, without_passwords(str(error))
        if not isinstance(error, UserError):
            said = f"{name}: {said}" if said else name
        keep(began, Outcome(ending="error", error=said))
        raise


def last(most: int = 10) -> list[Retraining]:
    """The last retrainings that ended, the newest first."""
    lines = OUTCOMES.read_text().splitlines() if OUTCOMES.is_file() else []
    found: list[Retraining] = []
    for number, line in enumerate(lines[-most:], start=max(0, len(lines) - most) + 1):
        try:
            found.append(Retraining.model_validate_json(line))
        except ValidationError:  # its process was killed while it wrote
            print(f"{OUTCOMES}: line {number} cannot be read and is left out", file=sys.stderr)
    return found[::-1]

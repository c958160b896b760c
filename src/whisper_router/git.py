"""git, as the project asks it."""

import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from whisper_router.errors import UserError


def ask(*arguments: str) -> bytes | None:
    """What git prints; None where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def text(*arguments: str) -> str:
    """What git prints, stripped; empty where it fails."""
    return (ask(*arguments) or b"").decode().strip()


def do(*arguments: str) -> str:
    """Run git.

    Raises
    ------
    UserError
        With what git says.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise UserError(f"git {' '.join(arguments)} in {Path.cwd()}: {said}")
    return done.stdout.strip()


def drop_stale_locks() -> list[str]:
    """Remove the lock files that a git which was killed has left, if no git runs in this repository.

    git holds one for the milliseconds of a write, and refuses to work beside one that is left.
    """
    folder, here = text("rev-parse", "--absolute-git-dir"), Path.cwd()
    if not folder:
        return []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == "git" and Path(process.cwd()).is_relative_to(here):
                return []
    root = Path(folder)
    found = [*root.glob("*.lock"), *(root / "refs").rglob("*.lock")]
    for path in found:
        path.unlink(missing_ok=True)
    return [str(path) for path in found]

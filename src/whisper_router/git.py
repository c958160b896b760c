"""git, as the project asks it."""

import subprocess
from pathlib import Path

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

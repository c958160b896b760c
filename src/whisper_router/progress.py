"""Bars of progress, on a terminal and while there is something to do; and how much is said."""

import os
from collections.abc import Iterable, Sized
from textwrap import fill
from typing import Never, TypeVar

from tqdm import tqdm

VERBOSE = "WHISPER_ROUTER_VERBOSE"
COLUMNS = 80  # of what is printed

T = TypeVar("T")


def progress(rows: Iterable[T], title: str, total: int | None = None, *, unit: str = "utt") -> Iterable[T]:
    """Go through rows behind a bar, which leaves no line behind."""
    total = len(rows) if total is None and isinstance(rows, Sized) else total
    return tqdm(rows, title, total, leave=False, unit=unit, disable=_disabled(total))


def bar(total: int, title: str, *, unit: str = "utt", initial: int = 0, quiet: bool = False) -> "tqdm[Never]":
    """A bar that the caller updates.

    Parameters
    ----------
    initial : int
        How many of ``total`` were done before.
    quiet : bool
        Whether another process shows progress.
    """
    disable = _disabled(0 if quiet else total - initial)
    return tqdm(None, title, total, leave=False, unit=unit, initial=initial, disable=disable)


def _disabled(todo: int | None) -> bool | None:
    """tqdm's ``disable``; None shows the bar on a terminal alone."""
    return True if todo == 0 else None


def say(message: str) -> None:
    """Print what a stage has to say, wrapped to 80 columns."""
    print(fill(message, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def is_verbose() -> bool:
    """Whether intervals and whole sentences are asked for: ``run -v``, or WHISPER_ROUTER_VERBOSE=1."""
    return os.environ.get(VERBOSE, "") not in ("", "0")

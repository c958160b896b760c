"""What retrainings did, whether one runs, and what waits for the next."""

from datetime import datetime
from pathlib import Path
from textwrap import shorten, wrap

from pydantic import BaseModel, ConfigDict

from whisper_router.errors import UserError
from whisper_router.intake import complete_batches
from whisper_router.params import load_params
from whisper_router.retrain_state import BEGUN, Retraining, last, running

WIDTH = 80


class Status(BaseModel):
    """The state of a project's retrainings."""

    model_config = ConfigDict(frozen=True)

    running: str | None  # which process
    unfinished: bool  # the last one did not end, or ended in an error: the next one has a reason to run
    drop: str | None
    waiting: list[str]  # complete batches of the drop folder
    incomplete: int  # other folders there
    drop_error: str | None
    last: list[Retraining]  # the newest first


def status() -> Status:
    """Read the state of the project's retrainings; nothing is changed.

    Raises
    ------
    UserError
        params.yaml is refused.
    """
    drop = load_params().retrain.drop
    waiting: list[str] = []
    incomplete, trouble = 0, None
    if drop is not None:
        try:
            waiting = [batch.name for batch in complete_batches(Path(drop))]
            incomplete = sum(path.is_dir() for path in Path(drop).iterdir()) - len(waiting)
        except (UserError, OSError) as error:
            trouble = str(error)
    now = running()
    return Status(
        running=now,
        unfinished=now is None and BEGUN.is_file(),
        drop=drop,
        waiting=waiting,
        incomplete=incomplete,
        drop_error=trouble,
        last=last(),
    )


def lines(status: Status) -> list[str]:
    """The status for a terminal of 80 columns."""
    shown = [
        *_entry("running", status.running or ("no; the last one did not end" if status.unfinished else "no")),
        *_entry("waiting", _waiting(status)),
        "",
    ]
    if not status.last:
        return [*shown, "No retraining has ended in this project yet."]
    shown.append(f"{'ended (UTC)':16}  {'took':>7}  version  outcome")
    for retraining in status.last:
        outcome = retraining.outcome
        why = ", ".join(outcome.failed) or (outcome.error or "")
        told = shorten(f"{outcome.ending}{f': {why}' if why else ''}", WIDTH - 36, placeholder=" ...")
        ended = datetime.fromisoformat(retraining.ended)
        shown.append(
            f"{ended:%Y-%m-%d %H:%M}  {_duration(retraining.seconds):>7}  {outcome.version or '-':>7}  {told}"
        )
    return [*shown, *_explained(status.last[0])]


def _entry(name: str, text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=f"{name:9}", subsequent_indent=" " * 9)


def _waiting(status: Status) -> str:
    if status.drop is None:
        return "no drop folder is set (retrain.drop in params.yaml)"
    if status.drop_error:
        return status.drop_error
    count = len(status.waiting)
    text = f"{count or 'no'} {'batch' if count == 1 else 'batches'} in {status.drop}"
    if count:
        text += f": {', '.join(status.waiting[:5])}{', ...' if count > 5 else ''}"
    return f"{text}; {status.incomplete} not complete" if status.incomplete else text


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _explained(newest: Retraining) -> list[str]:
    """What the newest outcome's row has no room for."""
    outcome = newest.outcome
    texts = [f"{rule}: {detail}" for rule, detail in outcome.failed.items()]
    if outcome.error:
        texts += outcome.error.splitlines()
    wrapped = [line for text in texts for line in wrap(text, WIDTH - 2, subsequent_indent="  ")]
    return ["", *wrapped] if wrapped else []

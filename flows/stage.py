"""How a stage's flow is run as a command."""

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from whisper_router.errors import UserError

Result = TypeVar("Result")


class _Expected(logging.Filter):
    """Keeps Prefect from logging a stack trace for an error that the message explains."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], UserError))


def main(stage: Callable[[], Result]) -> Result:
    """Run a flow and return its result; errors that a user can mend are printed without a stack trace."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_Expected())
    try:
        return stage()
    except UserError as error:
        sys.exit(f"{getattr(stage, 'name', stage)}: {error}")

"""How a stage's flow is run as a command."""

import gc
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

import psutil
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings

from whisper_router.errors import UserError
from whisper_router.run import await_api

Result = TypeVar("Result")

INTERRUPTED = 130  # exit code, as of a shell's command


class _Expected(logging.Filter):
    """Keeps Prefect from logging what the stage's own message explains: such errors, and Ctrl-C."""

    def filter(self, record: logging.LogRecord) -> bool:
        expected = record.exc_info and isinstance(record.exc_info[1], UserError)
        return not (expected or record.getMessage().startswith("Crash detected!"))


def main(stage: Callable[[], Result]) -> Result:
    """Run a flow and return its result; errors that a user can mend, and Ctrl-C, show no stack trace."""
    for logger in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(logger).addFilter(_Expected())
    name = getattr(stage, "name", stage)
    try:
        url = os.environ.get("PREFECT_API_URL")
        if url is None:
            return stage()
        await_api(url)
        with temporary_settings({PREFECT_API_URL: url}):  # it may have been set after Prefect was imported
            return stage()
    except UserError as error:
        sys.exit(f"{name}: {error}")
    except (KeyboardInterrupt, TerminationSignal):
        _leave(f"{name}: stopped; the same command goes on from here")
    finally:
        if "triton" not in sys.modules:  # its binding would list as leaks what is not freed at the end
            gc.freeze()  # else the interpreter searches all modules for what could be freed: a second


def _leave(message: str) -> NoReturn:
    """End this process at once: batches in work are not waited for, nor is what Prefect still logs."""
    print(f"\n{message}", file=sys.stderr)
    for child in psutil.Process().children(recursive=True):  # the server of a stage that runs alone
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)

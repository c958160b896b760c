"""How a stage's flow is run as a command."""

import sys
from collections.abc import Callable

from whisper_router.errors import UserError


def main(stage: Callable[[], None]) -> None:
    """Run a flow; errors that a user can mend are printed without a stack trace."""
    try:
        stage()
    except UserError as error:
        sys.exit(f"{getattr(stage, 'name', stage)}: {error}")

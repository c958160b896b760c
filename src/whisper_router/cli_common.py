"""What all commands share."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from whisper_router.errors import UserError

RouterOption = Annotated[
    str | None,
    typer.Option(
        "--router",
        help="A packaged folder, or a models:/ URI.",
        show_default="models:/whisper-router@champion, else data/router",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that a user can mend into one line and exit code 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            print(f"whisper-router: {error}", file=sys.stderr)
            raise SystemExit(1) from error
        except KeyboardInterrupt:
            print("\nwhisper-router: stopped; the same command goes on from here", file=sys.stderr)
            raise SystemExit(130) from None

    return wrapped

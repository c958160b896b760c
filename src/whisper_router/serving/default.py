"""The router that a command takes where none is named."""

import os
import sys
from pathlib import Path

from whisper_router.errors import UserError
from whisper_router.paths import ROUTER

DATABASE = Path("mlruns/mlflow.db")


def default_router() -> str:
    """The registered champion, else the packaged folder of this project; says on standard error which.

    Returns
    -------
    str
        What ``Router.load`` takes: a ``models:/`` URI or a folder.

    Raises
    ------
    UserError
        There is neither, or the registry does not answer.
    """
    if version := _champion():
        from whisper_router.promotion import CHAMPION, MODEL

        uri = f"models:/{MODEL}@{CHAMPION}"
        print(f"router: {uri}, version {version}", file=sys.stderr)
        return uri
    if not (ROUTER / "router.json").is_file():
        raise UserError(
            f"there is no router here: no registered champion, and no {ROUTER} in {Path.cwd()}; "
            "`whisper-router run` packages one, --router names another"
        )
    print(f"router: {ROUTER}; no version is registered as champion", file=sys.stderr)
    return str(ROUTER)


def _champion() -> str | None:
    """The version that the registry calls champion; no registry is created by asking."""
    if not os.environ.get("MLFLOW_TRACKING_URI") and not DATABASE.is_file():
        return None
    from mlflow.exceptions import MlflowException

    from whisper_router.promotion import CHAMPION, MODEL, registry

    client = registry()
    try:
        version = client.get_registered_model(MODEL).aliases.get(CHAMPION)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise UserError(
            f"the registry cannot be asked for its champion: {error}; mend it, or name a router with --router"
        ) from error
    return None if version is None else str(version)

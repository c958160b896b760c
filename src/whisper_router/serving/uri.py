"""Models by MLflow URI. MLflow is imported where it is asked: who routes with a folder does without it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from whisper_router.errors import UserError


def use_registry() -> str:
    """Point MLflow at the project's database, unless MLFLOW_TRACKING_URI says otherwise; return the URI."""
    import mlflow

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlruns/mlflow.db').absolute()}"
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri)
    return uri


@contextmanager
def _known(uri: str) -> Iterator[None]:
    """Ask the project's registry; what it does not know is said by URI and registry."""
    from mlflow.exceptions import MlflowException

    tracking = use_registry()
    try:
        yield
    except MlflowException as error:
        raise UserError(
            f"{uri} is not in the registry {tracking}: {error}; run `whisper-router register`"
        ) from error


def router_folder(uri: str) -> Path:
    """The router's folder inside a registered model, fetched if it lies elsewhere.

    Raises
    ------
    UserError
        There is no such model, version or alias, or its files are gone.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    model_version(uri)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{uri} is in the registry, but its files are gone: {place_of(uri)}; restore that folder, or "
            "serve another version (`whisper-router models`)"
        ) from error
    return folder / "artifacts" / "router"


def place_of(uri: str) -> str:
    """Where the files of a registered model are, or should be: a local path, or a URI."""
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

    return local_path(ModelsArtifactRepository.get_underlying_uri(uri))  # type: ignore[no-untyped-call]


def local_path(uri: str) -> str:
    """The path of a ``file:`` URI; another URI as it is."""
    return url2pathname(urlsplit(uri).path) if uri.startswith("file:") else uri


def model_version(uri: str) -> tuple[str, str]:
    """The version that a ``models:/`` URI stands for now, and the URI of just that version.

    Raises
    ------
    UserError
        There is no such model, version or alias.
    """
    import mlflow
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    with _known(uri):
        found = get_model_name_and_version(mlflow.MlflowClient(), uri)  # type: ignore[no-untyped-call]
    return str(found[-1]), "models:/" + "/".join(map(str, found))

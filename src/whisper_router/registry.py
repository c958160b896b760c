"""MLflow: one run and one model version for each state of the DAG, built from the stages' outputs."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from whisper_router.asr.reference import arm_references
from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.hashing import file_sha256
from whisper_router.params import load_params
from whisper_router.paths import ARMS, DECIDER, METRICS, PLOTS, REPORT, ROUTER
from whisper_router.report import DEMO_NOTE, is_demo
from whisper_router.router import WEIGHTS
from whisper_router.serving.signature import example, signature
from whisper_router.serving.uri import use_registry

MODEL = "whisper-router"
CHAMPION = "champion"
EXPERIMENT = "whisper-router"
LOCK = Path("dvc.lock")
SERVING = ("openai-whisper", "torch", "av", "jiwer", "numpy", "pandas", "pydantic", "safetensors",
           "scikit-learn", "lightgbm", "scipy", "soundfile", "tqdm", "mlflow")  # fmt: skip


@dataclass(frozen=True)
class Registered:
    """A version of the model in the registry."""

    version: str
    run_id: str | None
    new: bool
    champion: bool


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, dict):
        parts = [_flat(value, f"{prefix}{key}.") for key, value in values.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {prefix.rstrip("."): str(values)[:6000]}


def _metrics() -> list[Metric]:
    found: dict[tuple[str, int], float] = {}
    for name, value in read_json(METRICS / "summary.json").items():
        if value is not None:
            found[name, 0] = float(value)
    for folder in sorted(path for path in DECIDER.iterdir() if path.is_dir()):
        for step, point in enumerate(read_json(folder / "curve.json")):
            for name in ("train_loss", "dev_loss"):
                found[f"{folder.name}.{name}", step] = point[name]
    return [Metric(name, value, 0, step) for (name, step), value in found.items()]


@contextmanager
def _router(embed: bool) -> Iterator[Path]:
    """The packaged router; with its checkpoints beside if they are to be embedded."""
    if not embed:
        yield ROUTER
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "router"
        shutil.copytree(ROUTER, folder)
        (folder / WEIGHTS).mkdir()
        for arm, reference in arm_references(read_json(ARMS)).items():
            path = reference.checkpoint().path
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / WEIGHTS / f"{arm}.pt")
        yield folder


def register(alias: bool = False, embed_weights: bool = False) -> Registered:
    """Register the DAG's outputs: once for each content of dvc.lock.

    Parameters
    ----------
    alias : bool
        Move ``champion`` to this version; without it the alias is set only where there is none.
    embed_weights : bool
        Put the Whisper checkpoints into the model; else it refers to them by name, SHA-256 and size.

    Raises
    ------
    UserError
        The DAG has not run yet.
    """
    for path in (LOCK, ROUTER / "router.json", METRICS / "summary.json", REPORT):
        if not path.exists():
            raise UserError(f"{path}: not there yet; run `whisper-router run` first")
    use_registry()
    client = MlflowClient()
    lock = file_sha256(LOCK)
    weights = "embedded" if embed_weights else "referenced"
    known = client.search_model_versions(
        f"name='{MODEL}' and tags.dvc_lock_sha256='{lock}' and tags.weights='{weights}'"
    )
    if known:
        newest = max(known, key=lambda entry: int(entry.version))
        found = str(newest.version)
        return Registered(found, newest.run_id, False, _set_alias(client, found, alias))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    artifacts = Path("mlruns/artifacts").absolute().as_uri()
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    )
    tags = {"dvc_lock_sha256": lock, "weights": weights, "git_commit": _git("rev-parse", "HEAD") or "none"}
    tags["git_dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    if is_demo(load_params()):
        tags["mlflow.note.content"] = DEMO_NOTE
    with (
        _router(embed_weights) as router,
        mlflow.start_run(experiment_id=experiment_id, run_name=f"router-{lock[:8]}", tags=tags) as run,
    ):
        run_id = run.info.run_id
        params = [Param(key, value) for key, value in _flat(load_params().model_dump(mode="json")).items()]
        client.log_batch(
            run_id, metrics=_metrics(), params=params, tags=[RunTag("policy", load_params().router.policy)]
        )
        for path in (REPORT, LOCK, Path("params.yaml"), Path("dvc.yaml"), ARMS):
            client.log_artifact(run_id, str(path))
        for folder in (PLOTS, METRICS):
            client.log_artifacts(run_id, str(folder), folder.name)
        package = Path(__file__).parent
        info = mlflow.pyfunc.log_model(
            name="router",
            python_model=str(package / "serving" / "pyfunc.py"),
            artifacts={"router": str(router)},
            code_paths=[str(package)],
            signature=signature(),
            input_example=example(),
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in SERVING],
            metadata={"dvc_lock_sha256": lock},
        )
    created = mlflow.register_model(info.model_uri, MODEL, tags=tags)
    made = str(created.version)
    return Registered(made, run_id, True, _set_alias(client, made, alias))


def _set_alias(client: MlflowClient, model_version: str, wanted: bool) -> bool:
    """Set the alias where there is none or it is wanted; say whether it stands on this version."""
    current = client.get_registered_model(MODEL).aliases.get(CHAMPION)
    if wanted or current is None:
        client.set_registered_model_alias(MODEL, CHAMPION, model_version)
        return True
    return str(current) == model_version

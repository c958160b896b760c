"""MLflow: one run and one model version for each state of the DAG, built from the stages' outputs."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion

from whisper_router import git
from whisper_router.asr.engine import PACKAGES
from whisper_router.asr.reference import arm_references
from whisper_router.contest import SPEAKERS, seen_speakers
from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.hashing import file_sha256
from whisper_router.params import load_params
from whisper_router.paths import ARMS, DECIDER, LABELS, METRICS, PLOTS, REPORT, ROUTER
from whisper_router.promotion import MODEL, champion, move_champion, registry
from whisper_router.report.words import DEMO_NOTE, is_demo
from whisper_router.router import HF, WEIGHTS
from whisper_router.serving.signature import example, signature

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
        described = read_json(folder / "router.json")["extractor"]
        for part in (described, *described.get("parts", ())):
            if part["kind"] == "hf":
                shutil.copytree(part["model"], folder / WEIGHTS / HF)
        yield folder


def requirements(router: Path) -> list[str]:
    """Pins of what serving a packaged router imports, engines and all."""
    described = read_json(router / "router.json")
    parts = [described["extractor"], *described["extractor"].get("parts", [])]
    engines = {described[arm]["decode"]["engine"] for arm in ("weak", "strong")}
    used = sorted((engines | {part["kind"] for part in parts}) & set(PACKAGES))
    names = [*SERVING, *(PACKAGES[engine][0] for engine in used)]
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


def model_parts(router: Path) -> dict[str, Any]:
    """What MLflow is given: the model as code with this package, the router's folder, pins, signature."""
    package = Path(__file__).parent
    return {
        "python_model": str(package / "serving" / "pyfunc.py"),
        "artifacts": {"router": str(router)},
        "code_paths": [str(package)],
        "signature": signature(),
        "input_example": example(),
        "pip_requirements": requirements(router),
    }


def known_version(client: MlflowClient, weights: str = "referenced") -> ModelVersion | None:
    """The version that was registered for the dvc.lock of now."""
    lock = file_sha256(LOCK)
    known = client.search_model_versions(
        f"name='{MODEL}' and tags.dvc_lock_sha256='{lock}' and tags.weights='{weights}'"
    )
    return max(known, key=lambda entry: int(entry.version), default=None)


def register(alias: bool | None = None, embed_weights: bool = False) -> Registered:
    """Register the DAG's outputs: once for each content of dvc.lock.

    Parameters
    ----------
    alias : bool, optional
        Move ``champion`` to this version, or not; left out, the alias is set where there is none.
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
    client = registry()
    lock = file_sha256(LOCK)
    weights = "embedded" if embed_weights else "referenced"
    if known := known_version(client, weights):
        found = str(known.version)
        return Registered(found, known.run_id, False, _set_alias(client, found, alias))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    artifacts = Path("mlruns/artifacts").absolute().as_uri()
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    )
    tags = {
        "dvc_lock_sha256": lock,
        "weights": weights,
        "git_commit": git.text("rev-parse", "HEAD") or "none",
    }
    tags["git_dirty"] = str(bool(git.text("status", "--porcelain", "--untracked-files=no"))).lower()
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
        client.log_dict(run_id, {"seen": seen_speakers(pd.read_parquet(LABELS))}, SPEAKERS)
        for folder in (PLOTS, METRICS):
            client.log_artifacts(run_id, str(folder), folder.name)
        info = mlflow.pyfunc.log_model(
            name="router", metadata={"dvc_lock_sha256": lock}, **model_parts(router)
        )
    created = mlflow.register_model(info.model_uri, MODEL, tags=tags)
    made = str(created.version)
    return Registered(made, run_id, True, _set_alias(client, made, alias))


def _set_alias(client: MlflowClient, model_version: str, wanted: bool | None) -> bool:
    """Set the alias where it is wanted, or not said and there is none; say whether it stands here."""
    current = champion(client)
    if current != model_version and (wanted or (wanted is None and current is None)):
        move_champion(
            client, model_version, "register", "registered with --champion" if wanted else "the first"
        )
        return True
    return current == model_version

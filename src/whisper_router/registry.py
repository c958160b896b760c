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
from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion

from whisper_router import git
from whisper_router.asr.engine import PACKAGES
from whisper_router.asr.reference import arm_references
from whisper_router.contest import SPEAKERS, seen_speakers
from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.gate import Evidence
from whisper_router.hashing import file_sha256
from whisper_router.installed import REQUIREMENTS, VERSION
from whisper_router.params import PARAMS, load_params
from whisper_router.paths import ARMS, DECIDER, LABELS, METRICS, PLOTS, REPORT, ROUTER
from whisper_router.policy.samples import rows_of
from whisper_router.promotion import LEANING, MODEL, SAYS, WORTH, champion, move_champion, registry
from whisper_router.reference import kind_of
from whisper_router.report.words import DEMO_NOTE, is_demo
from whisper_router.router import HF, WEIGHTS, write_files
from whisper_router.seal import (
    ARTIFACTS_TAG,
    GATE,
    GATE_TAG,
    MODEL_TAG,
    RECORDED,
    artifacts_seal,
    file_hashes,
    gate_seal,
    model_seal,
)
from whisper_router.serving.signature import example, signature
from whisper_router.serving.uri import local_path
from whisper_router.verdict import VERDICT, Verdict

EXPERIMENT = "whisper-router"
LOCK = Path("dvc.lock")
VERSIONED = (str(LOCK), str(PARAMS), "dvc.yaml", str(REQUIREMENTS), "src/whisper_router", str(VERSION))
SERVING = ("openai-whisper", "torch", "av", "jiwer", "numpy", "pandas", "pydantic", "safetensors",
           "scikit-learn", "lightgbm", "scipy", "silero-vad", "onnxruntime",
           "soundfile", "tqdm", "mlflow")  # fmt: skip


@dataclass(frozen=True)
class Registered:
    """A version of the model in the registry."""

    version: str
    run_id: str | None
    new: bool
    champion: bool
    uncommitted: tuple[str, ...] = ()  # what no commit holds now of what it came from


def flat(values: Any, prefix: str = "") -> dict[str, str]:
    """Params as MLflow keeps them: dotted names, values as text."""
    if isinstance(values, dict):
        parts = [flat(value, f"{prefix}{key}.") for key, value in values.items()]
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
        write_files(folder / WEIGHTS)
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


def uncommitted() -> tuple[str, ...]:
    """What a version comes from and HEAD does not hold as it is here; empty outside of git."""
    if not git.text("rev-parse", "HEAD"):
        return ()
    return tuple(path for path in VERSIONED if git.text("status", "--porcelain", "--", path))


def commit_state() -> None:
    """Commit dvc.lock and params.yaml, and nothing else, where they are not committed.

    Raises
    ------
    UserError
        git refuses, or this is no repository.
    """
    files = (str(LOCK), str(PARAMS))
    if git.do("status", "--porcelain", "--", *files):
        git.do("add", "--", *files)
        git.do("commit", "--quiet", "-m", f"dvc.lock {file_sha256(LOCK)[:12]}", "--", *files)


def check_location(experiment: Experiment) -> None:
    """Refuse to write a moved or copied project's artifacts to where the project was before.

    MLflow keeps absolute paths in its database.

    Raises
    ------
    UserError
        The database lies in this project, the artifacts do not.
    """
    location, tracking, here = experiment.artifact_location, mlflow.get_tracking_uri(), Path.cwd().resolve()
    if not location.startswith(("file:", "/")) or not tracking.startswith("sqlite:///"):
        return
    database, folder = Path(tracking.removeprefix("sqlite:///")).resolve(), Path(local_path(location))
    if not database.is_relative_to(here) or folder.resolve().is_relative_to(here):
        return
    anew = f"`mv {database} {database}.before` starts a registry of this project's own"
    if folder.exists():
        raise UserError(
            f"{database} writes artifacts to {folder}, which is outside of this project: it is a copy of "
            f"another. {anew}"
        )
    mine = here / "mlruns" / "artifacts"
    raise UserError(
        f"{database} writes artifacts to {folder}, which is gone: this project was moved. "
        f"`mkdir -p {folder.parent} && ln -s {mine} {folder}` lets MLflow find its versions again; or {anew}"
    )


def keep_evidence(client: MlflowClient, version: ModelVersion, evidence: Evidence) -> None:
    """Keep what the gate judged by with the version's run, and its hash on the version."""
    if not version.run_id:
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / GATE
        evidence.write(folder)
        client.log_artifacts(version.run_id, str(folder), GATE)
        seal = gate_seal(Path(temporary))
    client.set_model_version_tag(MODEL, str(version.version), GATE_TAG, seal)


def register(
    alias: bool | None = None, embed_weights: bool = False, commit: bool = False, force: bool = False
) -> Registered:
    """Register the DAG's outputs: once for each content of dvc.lock.

    Parameters
    ----------
    alias : bool, optional
        Move ``champion`` to this version, or not; left out, the alias is set where there is none and the
        verdict is to route.
    embed_weights : bool
        Put the Whisper checkpoints into the model; else it refers to them by name, SHA-256 and size.
    commit : bool
        Commit dvc.lock and params.yaml first, so that the version comes from a commit.
    force : bool
        Set the alias even where the verdict is not to route.

    Raises
    ------
    UserError
        The DAG has not run yet, nothing can be committed, the registry is that of another place, or the alias
        is wanted for a router that is not worth serving.
    """
    for path in (LOCK, ROUTER / "router.json", METRICS / "summary.json", VERDICT, REPORT):
        if not path.exists():
            raise UserError(f"{path}: not there yet; run `whisper-router run` first")
    verdict = Verdict.read()
    if alias and not verdict.routes and not force:
        raise UserError(
            "this router is not worth serving; --force lets it serve all the same.\n"
            f"  VERDICT: {verdict.headline}"
        )
    if alias is None and not verdict.routes and not force:
        alias = False
    client = registry()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        check_location(experiment)
    if commit:
        commit_state()
    lock = file_sha256(LOCK)
    weights = "embedded" if embed_weights else "referenced"
    open_ = uncommitted()
    if known := known_version(client, weights):
        found = str(known.version)
        return Registered(found, known.run_id, False, _set_alias(client, found, alias), open_)
    location = Path("mlruns/artifacts").absolute().as_uri()
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(EXPERIMENT, artifact_location=location)
    )
    tags = {
        "dvc_lock_sha256": lock,
        "weights": weights,
        "git_commit": git.text("rev-parse", "HEAD") or "none",
    }
    tags["git_dirty"] = str(bool(git.text("status", "--porcelain", "--untracked-files=no"))).lower()
    if open_:
        tags["uncommitted"] = ",".join(open_)
    notes = [f"**VERDICT: {verdict.headline}**", verdict.basis]
    labels = pd.read_parquet(LABELS)
    tags["reference"] = kind_of(rows_of(labels, "test"))
    if is_demo(load_params()):
        notes.append(DEMO_NOTE)
    tags["mlflow.note.content"] = "\n\n".join(notes)
    tags |= {WORTH: verdict.outcome, LEANING: verdict.leaning, SAYS: verdict.headline}
    with (
        _router(embed_weights) as router,
        mlflow.start_run(experiment_id=experiment_id, run_name=f"router-{lock[:8]}", tags=tags) as run,
    ):
        run_id = run.info.run_id
        params = [Param(key, value) for key, value in flat(load_params().model_dump(mode="json")).items()]
        metrics = _metrics()
        client.log_batch(
            run_id, metrics=metrics, params=params, tags=[RunTag("policy", load_params().router.policy)]
        )
        for path in (REPORT, LOCK, PARAMS, Path("dvc.yaml"), ARMS):
            client.log_artifact(run_id, str(path))
        client.log_dict(run_id, {"seen": seen_speakers(labels)}, SPEAKERS)
        for folder in (PLOTS, METRICS):
            client.log_artifacts(run_id, str(folder), folder.name)
        info = mlflow.pyfunc.log_model(
            name="router", metadata={"dvc_lock_sha256": lock}, **model_parts(router)
        )
        model = Path(mlflow.artifacts.download_artifacts(artifact_uri=info.model_uri))
        recorded = {
            "model": file_hashes(model),
            "params": {param.key: param.value for param in params},
            "metrics": [[metric.key, metric.step, metric.value] for metric in metrics],
        }
        client.log_dict(run_id, recorded, RECORDED)
    artifacts = Path(mlflow.artifacts.download_artifacts(run_id=run_id))
    seals = {MODEL_TAG: model_seal(model), ARTIFACTS_TAG: artifacts_seal(artifacts)}
    created = mlflow.register_model(info.model_uri, MODEL, tags=tags | seals)
    made = str(created.version)
    return Registered(made, run_id, True, _set_alias(client, made, alias), open_)


def _set_alias(client: MlflowClient, model_version: str, wanted: bool | None) -> bool:
    """Set the alias where it is wanted, or not said and there is none; say whether it stands here."""
    current = champion(client)
    if current != model_version and (wanted or (wanted is None and current is None)):
        move_champion(
            client, model_version, "register", "registered with --champion" if wanted else "the first"
        )
        return True
    return current == model_version

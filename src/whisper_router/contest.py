"""Champion and challenger, each as registered, on the test speakers that neither has seen."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from whisper_router import registered_model
from whisper_router.audio import WINDOW_S
from whisper_router.errors import UserError
from whisper_router.files import read_json, replacing, write_text
from whisper_router.hashing import digest
from whisper_router.labelling import utterances
from whisper_router.promotion import MODEL
from whisper_router.scoring import word_errors
from whisper_router.serving.uri import use_registry
from whisper_router.store import ContentStore
from whisper_router.wav import wav_bytes

SPEAKERS = "speakers.json"  # artifact of a run: digests of the speakers of train, dev and calibration


class ContestError(UserError):
    """A registered model cannot be run."""


@dataclass(frozen=True)
class Performance:
    """What a registered router did; all arrays have the shape (utterances,)."""

    errors: np.ndarray  # words
    seconds: np.ndarray  # wall, one utterance at a time
    strong: np.ndarray  # bool: score >= threshold
    router: Path  # the packaged folder


def speaker_digest(speaker: str) -> str:
    """A speaker's name, so that a run's artifact does not give it away."""
    return digest(["speaker", speaker])[:16]


def seen_speakers(labels: pd.DataFrame) -> list[str]:
    """Digests of the speakers that training or calibration has seen."""
    return sorted(speaker_digest(name) for name in labels.loc[labels["split"] != "test", "speaker"].unique())


def unseen(test: pd.DataFrame, version: ModelVersion) -> pd.DataFrame:
    """The test rows whose speaker the version was not trained or calibrated on.

    Raises
    ------
    ContestError
        Its run does not say whom it has seen.
    """
    try:
        path = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=SPEAKERS)
    except MlflowException as error:
        raise ContestError(f"version {version.version} does not say which speakers it has seen") from error
    seen = set(read_json(Path(path))["seen"])
    return test[~test["speaker"].map(speaker_digest).isin(seen)]


def run_registered(version: str, rows: pd.DataFrame) -> Performance:
    """Let a registered version transcribe manifest rows in a process of its own; a killed run goes on.

    Parameters
    ----------
    rows : DataFrame
        Rows of the manifest, none over 30 s.

    Raises
    ------
    ContestError
        The model cannot be loaded, or fails an utterance; with its last line.
    """
    store = ContentStore()
    uri = f"models:/{MODEL}/{version}"
    source = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    identity = digest([str(source), rows["sha256"].tolist()])[:16]
    work = store.root / "contests" / f"{version}-{identity}"
    audio = store.root / "contests" / f"audio-{digest(rows['sha256'].tolist())[:16]}"
    names = [f"{sha256}.wav" for sha256 in rows["sha256"]]
    for row, name in zip(utterances(rows), names, strict=True):
        path = audio / name
        if not path.is_file():
            with replacing(path) as temporary:
                temporary.write_bytes(wav_bytes(row.load_or_raise(store)))
    results = work / "results.jsonl"
    _mend(results)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": use_registry()}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-P", str(Path(registered_model.__file__)), uri, str(audio), str(results)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    _, said = _follow(process, results, len(set(names)), f"gate: version {version}")
    if process.returncode:
        last = (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise ContestError(f"version {version} cannot be run: {last}")
    made = {line["file"]: line for line in map(json.loads, results.read_text().splitlines())}
    failed = [name for name in names if made[name]["error"]]
    if failed:
        first = made[failed[0]]["error"]
        raise ContestError(
            f"version {version} failed {len(failed)} of {len(names)} utterances; first: {first}"
        )
    edits = word_errors(rows["text"].tolist(), [made[name]["text"] or "" for name in names])
    return Performance(
        np.array([edit.errors for edit in edits]),
        np.array([made[name]["seconds"] for name in names]),
        np.array([made[name]["score"] >= made[name]["threshold"] for name in names]),
        source / "artifacts" / "router",
    )


def _mend(results: Path) -> None:
    """Take off a line that a killed process did not finish."""
    results.parent.mkdir(parents=True, exist_ok=True)
    if results.is_file():
        kept = results.read_text()
        whole = kept[: kept.rfind("\n") + 1]
        if whole != kept:
            write_text(results, whole)


def _follow(process: "subprocess.Popen[str]", results: Path, total: int, name: str) -> tuple[str, str]:
    """Wait, with a bar that reads the results; give what the process printed."""
    with tqdm(desc=name, total=total, unit="utt") as bar:
        while True:
            try:
                out, said = process.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                out = None
            done = results.read_bytes().count(b"\n") if results.is_file() else 0
            bar.update(done - bar.n)
            if out is not None or process.returncode is not None:
                return out or "", said or ""


def short(manifest: pd.DataFrame) -> pd.DataFrame:
    """Test rows that have a label: not over 30 s."""
    return manifest[(manifest["split"] == "test") & (manifest["duration_s"] <= WINDOW_S)]

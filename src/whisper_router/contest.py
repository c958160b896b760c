"""Champion and challenger, each as registered, on the test speakers that neither has seen."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from whisper_router import registered_model
from whisper_router.audio import WINDOW_S
from whisper_router.errors import UserError
from whisper_router.files import read_json, replacing, write_text
from whisper_router.hashing import digest
from whisper_router.labelling import utterances
from whisper_router.progress import bar
from whisper_router.promotion import MODEL
from whisper_router.scoring import word_errors
from whisper_router.serving.uri import router_folder, use_registry
from whisper_router.store import ContentStore
from whisper_router.wav import wav_bytes

RESULTS, SAID = "results.jsonl", "said.txt"  # of a contest's process
SPEAKERS = "speakers.json"  # artifact of a run: digests of the speakers of train, dev and calibration


class ContestError(UserError):
    """A registered model cannot be run."""


@dataclass(frozen=True)
class Performance:
    """What a registered router did; all arrays have the shape (utterances,)."""

    errors: np.ndarray  # words
    seconds: np.ndarray  # wall, one utterance at a time
    strong: np.ndarray  # bool: score >= threshold; not where there is no speech, and so no score
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


def write_audio(rows: pd.DataFrame) -> Path:
    """A folder with a WAV file for each row of the manifest, by the hash of its samples."""
    store = ContentStore()
    folder = store.root / "contests" / f"audio-{digest(rows['sha256'].tolist())[:16]}"
    for row, sha256 in zip(utterances(rows), rows["sha256"], strict=True):
        path = folder / f"{sha256}.wav"
        if not path.is_file():
            with replacing(path) as temporary:
                temporary.write_bytes(wav_bytes(row.load_or_raise(store)))
    return folder


@dataclass(frozen=True)
class _Run:
    """A registered version over the files of a folder, in a process of its own."""

    version: str
    source: Path
    work: Path
    process: "subprocess.Popen[bytes]"

    @classmethod
    def start(cls, version: str, rows: pd.DataFrame, audio: Path) -> "_Run":
        """Go on where a killed run was.

        The process computes on one thread, as label does: where others compute beside it, threads that wait
        for each other take many times as long.
        """
        uri = f"models:/{MODEL}/{version}"
        try:
            source = router_folder(uri).parents[1]
        except UserError as error:
            raise ContestError(str(error)) from error
        identity = digest([str(source), rows["sha256"].tolist()])[:16]
        work = ContentStore().root / "contests" / f"{version}-{identity}"
        _mend(work / RESULTS)
        variables = {**os.environ, "MLFLOW_TRACKING_URI": use_registry(), "OMP_NUM_THREADS": "1"}
        variables.pop("PYTHONPATH", None)
        script = str(Path(registered_model.__file__))
        command = [sys.executable, "-P", script, uri, str(audio), str(work / RESULTS)]
        with (work / SAID).open("wb") as said:
            process = subprocess.Popen(command, env=variables, stdout=said, stderr=said)
        return cls(version, source, work, process)

    def runs(self) -> bool:
        """Whether its process runs.

        Raises
        ------
        ContestError
            The process failed; with its last line.
        """
        code = self.process.poll()
        if code:
            said = (self.work / SAID).read_text(errors="replace").strip().splitlines()
            raise ContestError(f"version {self.version} cannot be run: {(said or [f'exit code {code}'])[-1]}")
        return code is None

    def done(self) -> int:
        """Utterances that are done."""
        results = self.work / RESULTS
        return results.read_bytes().count(b"\n") if results.is_file() else 0

    def performance(self, rows: pd.DataFrame) -> Performance:
        """What it did, once its process has ended."""
        lines = map(json.loads, (self.work / RESULTS).read_text().splitlines())
        by_file = {line["file"]: line for line in lines}
        made = [by_file[f"{sha256}.wav"] for sha256 in rows["sha256"]]
        failed = [row["error"] for row in made if row["error"]]
        if failed:
            raise ContestError(
                f"version {self.version} failed {len(failed)} of {len(rows)} utterances; first: {failed[0]}"
            )
        edits = word_errors(rows["text"].tolist(), [row["text"] or "" for row in made])
        return Performance(
            np.array([edit.errors for edit in edits]),
            np.array([row["seconds"] for row in made]),
            np.array([row["score"] is not None and row["score"] >= row["threshold"] for row in made]),
            self.source / "artifacts" / "router",
        )


def side_by_side(versions: Sequence[str], rows: pd.DataFrame) -> list[Performance]:
    """Let registered versions transcribe the same rows at the same time: their seconds meet the same load.

    Parameters
    ----------
    rows : DataFrame
        Rows of the manifest, none over 30 s.

    Raises
    ------
    ContestError
        A model cannot be loaded, or fails an utterance; with its last line.
    """
    audio = write_audio(rows)
    runs = [_Run.start(version, rows, audio) for version in versions]
    total = len(runs) * rows["sha256"].nunique()
    try:
        with bar(total, f"gate: versions {', '.join(versions)}") as shown:
            while [run for run in runs if run.runs()]:
                time.sleep(0.5)
                shown.update(sum(run.done() for run in runs) - shown.n)
    finally:
        for run in runs:
            run.process.kill()
            run.process.wait()
    return [run.performance(rows) for run in runs]


def _mend(results: Path) -> None:
    """Take off a line that a killed process did not finish."""
    results.parent.mkdir(parents=True, exist_ok=True)
    if results.is_file():
        kept = results.read_text()
        whole = kept[: kept.rfind("\n") + 1]
        if whole != kept:
            write_text(results, whole)


def short(manifest: pd.DataFrame) -> pd.DataFrame:
    """Test rows that have a label: not over 30 s."""
    return manifest[(manifest["split"] == "test") & (manifest["duration_s"] <= WINDOW_S)]

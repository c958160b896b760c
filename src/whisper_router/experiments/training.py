"""Trainings of the experiments: each kept in the content store, so that a killed run goes on."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from whisper_router.asr.engine import VERSIONS
from whisper_router.crossval import in_processes
from whisper_router.decider.folds import Fold
from whisper_router.decider.options import DeciderOptions
from whisper_router.decider.registry import calibrated, fit_decider
from whisper_router.decider.training import Examples
from whisper_router.experiments.candidates import Candidate, Part
from whisper_router.experiments.data import PooledReader, open_reader
from whisper_router.features.store import FeatureReader
from whisper_router.hashing import code_hash, digest
from whisper_router.labelling import WORKERS
from whisper_router.params import POOLED
from whisper_router.progress import progress
from whisper_router.store import ContentStore

KIND = "experiments"  # of entries in the content store


@dataclass(frozen=True)
class Job:
    """A candidate on a fold."""

    candidate: Candidate
    fold: Fold
    ids: np.ndarray
    labels: np.ndarray
    gains: np.ndarray


@dataclass(frozen=True)
class Trained:
    """What came of a job."""

    scores: np.ndarray  # of the fold's test rows
    macs: np.ndarray  # the decider's own and its pooling
    paper_macs: np.ndarray
    parameters: int
    points: int  # of the training curve
    seconds: float


@cache
def _reader(parts: tuple[Part, ...], pooled: bool) -> FeatureReader:
    return PooledReader(parts) if pooled else open_reader(parts[0].extractor)


def reader_of(candidate: Candidate) -> FeatureReader:
    """The features that a candidate reads."""
    return _reader(candidate.parts, candidate.options.kind in POOLED)


def _key(job: Job) -> str:
    reader, fold = reader_of(job.candidate), job.fold
    used = np.concatenate([fold.train, fold.dev, fold.test])
    return digest(
        [
            job.candidate.options.model_dump(mode="json"),
            repr(job.candidate.parts),
            reader.extractor,
            [[job.ids[i], reader.sha256(job.ids[i]), int(job.labels[i]), int(job.gains[i])] for i in used],
            [len(fold.train), len(fold.dev)],
            code_hash("whisper_router.decider.registry"),
            VERSIONS,
        ]
    )


def _fit(job: Job, options: DeciderOptions) -> Trained:
    reader = reader_of(job.candidate)
    started = time.perf_counter()
    train, dev, test = (
        Examples(reader, job.ids[rows].tolist(), job.labels[rows], job.gains[rows])
        for rows in (job.fold.train, job.fold.dev, job.fold.test)
    )
    trained, curve = fit_decider(options, train, dev, job.candidate.name)
    decider = calibrated(trained, options, dev)
    scores = decider.score(reader.batch(test.ids))
    frames = [reader.frames(id_) for id_ in test.ids]
    pooling = (
        [reader.pooling_macs(id_) for id_ in test.ids]
        if isinstance(reader, PooledReader)
        else [0] * len(frames)
    )
    macs = [decider.macs(count) + more for count, more in zip(frames, pooling, strict=True)]
    paper = [decider.paper_macs(count) for count in frames]
    seconds = round(time.perf_counter() - started, 3)
    return Trained(scores, np.array(macs), np.array(paper), decider.parameters, len(curve), seconds)


def _train(job: Job) -> Trained:
    torch.set_num_threads(1)
    store = ContentStore()
    path = store.value_path(KIND, _key(job))
    stored = store.read_value(path)
    if stored is None:
        made = asdict(_fit(job, job.candidate.options))
        stored = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in made.items()
        }
        store.write_value(path, stored)
    values: dict[str, Any] = dict(stored)
    for name in ("scores", "macs", "paper_macs"):
        values[name] = np.array(values[name], dtype=np.float64)
    return Trained(**values)


def run_here(jobs: Sequence[Job]) -> list[Trained]:
    """Train a few pooled deciders, which takes less than starting processes."""
    return [_train(job) for job in progress(jobs, "experiments", unit="training")]


def run_jobs(jobs: Sequence[Job]) -> list[Trained]:
    """Train what the content store lacks."""
    return in_processes(_train, jobs, WORKERS, "experiments") if jobs else []

"""Cross-validation over speakers: every utterance is scored by a decider that has not seen its speaker."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

import pandas as pd
import psutil
import torch

from whisper_router.asr.reference import ArmReference
from whisper_router.decider.folds import Fold
from whisper_router.decider.options import DeciderOptions
from whisper_router.decider.registry import fit_decider
from whisper_router.decider.scores import Scores, score_all
from whisper_router.decider.training import Examples, best_point
from whisper_router.environment import KEEP_BLOCKS
from whisper_router.errors import UserError
from whisper_router.features.live import LiveReader
from whisper_router.features.options import EncoderExtractor
from whisper_router.labelling import WORKERS
from whisper_router.progress import progress

BASE_BYTES = 2 << 30  # of a training process, beside the copies of its batch
COPIES = 4  # the batch and the one read ahead, each once as read and once padded

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """One training: a candidate on a fold."""

    name: str
    options: DeciderOptions
    extractor: EncoderExtractor
    features: Path  # the extractor's folder
    arm: ArmReference
    manifest: pd.DataFrame
    labels: pd.DataFrame
    fold: Fold
    batch_bytes: int  # of features


@dataclass(frozen=True)
class Trained:
    """What came of a job."""

    scores: Scores  # of the fold's test rows
    parameters: int
    epochs: int  # run
    kept: float  # the epoch that was kept


def _train(job: Job) -> Trained:
    torch.set_num_threads(1)
    reader = LiveReader(job.features, job.extractor, job.arm, job.manifest)
    ids, label = job.labels["id"].to_numpy(), job.labels["label"].to_numpy()
    train, dev = (
        Examples(reader, ids[rows].tolist(), label[rows]) for rows in (job.fold.train, job.fold.dev)
    )
    decider, curve = fit_decider(job.options, train, dev, job.name)
    kept = curve[best_point(curve, job.options.monitor)]
    scores = score_all(decider, reader, ids[job.fold.test].tolist())
    return Trained(scores, decider.parameters, len(curve), next(iter(kept.values())))


def _die_with_parent() -> None:
    """A worker whose parent was killed has nobody to report to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


def _watch() -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _workers(jobs: Sequence[Job]) -> int:
    """As many processes as cores and memory allow."""
    available = int(psutil.virtual_memory().available)
    needed = max(BASE_BYTES + COPIES * job.batch_bytes for job in jobs)
    return max(1, min(WORKERS, available // needed))


def in_processes(work: Callable[[T], R], jobs: Sequence[T], workers: int, title: str) -> list[R]:
    """Do jobs in several processes of one torch thread each; results in the order of the jobs.

    Raises
    ------
    UserError
        A training cannot be done, or its process was killed.
    """
    made: dict[int, R] = {}
    context = multiprocessing.get_context("spawn")
    os.environ.update(KEEP_BLOCKS)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_watch) as pool:
        pending = {pool.submit(work, job): number for number, job in enumerate(jobs)}
        try:
            for done in progress(as_completed(pending), title, len(jobs), unit="training"):
                made[pending[done]] = done.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a training was killed, most likely for want of memory; run again: it goes on"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return [made[number] for number in range(len(jobs))]


def run_jobs(jobs: Sequence[Job]) -> list[Trained]:
    """Train all; a killed run goes on.

    Raises
    ------
    UserError
        A training cannot be done, or its process was killed.
    """
    return in_processes(_train, jobs, _workers(jobs), "cross-validation")

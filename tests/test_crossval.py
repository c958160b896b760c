"""No decider is tested, nor chosen, by what it has seen."""

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.crossval import Job, _train, _workers, run_jobs
from whisper_router.decider.folds import Fold, speaker_folds
from whisper_router.decider.options import MlpOptions, ResnetOptions
from whisper_router.environment import KEEP_BLOCKS
from whisper_router.errors import UserError
from whisper_router.features.extractors import extractor_identity
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.store import write_index
from whisper_router.labelling import feature_counts, utterances


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Rows of at least eight speakers, of both labels, with texts that repeat."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(30, 120))
    speakers = np.concatenate([np.arange(8), random.integers(0, draw(st.integers(8, 20)), n - 8)])
    label = (random.random(n) < draw(st.floats(0.3, 0.7))).astype(int)
    label[:10] = np.arange(10) % 2
    texts = random.integers(0, draw(st.integers(2, 200)), n)
    order = random.permutation(n)
    table = pd.DataFrame({"speaker": speakers, "label": label, "text": texts}).iloc[order]
    return table.astype({"speaker": str, "text": str}).reset_index(drop=True)


@settings(max_examples=60)
@given(table=tables(), folds=st.integers(3, 5), seed=st.integers(0, 9))
def test_folds_share_neither_speakers_nor_texts_and_test_every_row_once(table, folds, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = speaker_folds(table, folds, seed)
        again = speaker_folds(table, folds, seed)
    assert len(made) == folds
    assert sorted(np.concatenate([fold.test for fold in made]).tolist()) == list(range(len(table)))
    for fold, same in zip(made, again, strict=True):
        parts = [fold.train, fold.dev, fold.test]
        for column in ("speaker", "text"):
            found = [set(table[column].to_numpy()[rows]) for rows in parts]
            assert not any(one & other for one, other in combinations(found, 2)), column
        for rows, others in zip(parts, (same.train, same.dev, same.test), strict=True):
            np.testing.assert_array_equal(rows, others)
            assert len(set(rows.tolist())) == len(rows)


def test_nothing_but_repeated_texts_is_left_out_and_each_part_is_dev_once():
    table = pd.DataFrame({"speaker": np.arange(60) // 3, "label": np.arange(60) % 2, "text": np.arange(60)})
    made = speaker_folds(table.astype(str).assign(label=table["label"]), 5, 0)
    assert all(len(fold.train) + len(fold.dev) + len(fold.test) == 60 for fold in made)
    for fold, after in zip(made, [*made[1:], made[0]], strict=True):
        np.testing.assert_array_equal(fold.dev, after.test)


def test_the_label_has_a_like_share_in_every_fold():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"speaker": np.arange(400) // 4, "label": (random.random(400) < 0.3).astype(int)})
    table["text"] = np.arange(400)
    share = table["label"].mean()
    for fold in speaker_folds(table, 5, 0):
        for rows in (fold.train, fold.dev, fold.test):
            assert table["label"].to_numpy()[rows].mean() == pytest.approx(share, abs=0.08)


def test_another_seed_makes_other_folds():
    table = pd.DataFrame({"speaker": np.arange(60) // 3, "label": np.arange(60) % 2, "text": np.arange(60)})
    assert [fold.test.tolist() for fold in speaker_folds(table, 3, 0)] != [
        fold.test.tolist() for fold in speaker_folds(table, 3, 1)
    ]


@pytest.mark.parametrize(
    ("speakers", "positives", "counts"),
    [
        (2, 10, "there are 2 speakers, 10 of 60 utterances need the strong arm"),
        (20, 2, "there are 20 speakers, 2 of 60 utterances need the strong arm"),
        (20, 58, "there are 20 speakers, 58 of 60 utterances need the strong arm"),
        (20, 0, "there are 20 speakers, 0 of 60"),
    ],
)
def test_too_few_speakers_or_utterances_of_a_class_are_refused_with_the_counts(speakers, positives, counts):
    rows = np.arange(60)
    table = pd.DataFrame({"speaker": rows % speakers, "label": (rows < positives).astype(int), "text": rows})
    with pytest.raises(UserError, match=f"^3 folds take as many speakers, positives .*{counts}"):
        speaker_folds(table, 3, 0)


@pytest.fixture
def jobs(tmp_path, monkeypatch, clips, wav, checkpoints, plain, reference_of) -> list[Job]:
    """An MLP and a ResNet on other folds of six utterances, encoded when they are read."""
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    for name, value in KEEP_BLOCKS.items():
        monkeypatch.setenv(name, value)
    rows = []
    for i, clip in enumerate(clips):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav(clip))
        rows.append((f"u{i}", str(path), 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip)))
    manifest = pd.DataFrame(rows, columns=["id", "audio", "offset_s", "duration_s", "sha256"])
    labels = pd.DataFrame({"id": manifest["id"], "label": [0, 1, 0, 1, 0, 1]})
    arm = reference_of(checkpoints["english"], plain)
    extractor = EncoderExtractor(kind="encoder", pool=2, stored=False)
    frames = feature_counts(utterances(manifest), plain, extractor)
    index = zip(manifest["id"], frames, manifest["sha256"], strict=True)
    write_index(tmp_path / "f", index, extractor_identity(extractor, arm.spec()))
    folds = [
        Fold(np.array([0, 1, 2]), np.array([3]), np.array([5, 4])),
        Fold(np.array([3, 4, 5]), np.array([2]), np.array([0])),
    ]
    options = [
        MlpOptions(kind="mlp", extractor="e", hidden=4, epochs=3, batch_size=2),
        ResnetOptions(kind="resnet", extractor="e", channels=4, strides=(2,), epochs=2, batch_size=3),
    ]
    return [
        Job(f"job {i}", option, extractor, tmp_path / "f", arm, manifest, labels, fold, 1000)
        for i, (option, fold) in enumerate(zip(options, folds, strict=True))
    ]


def test_jobs_score_the_test_rows_of_their_folds_in_the_order_of_the_jobs(jobs, tmp_path):
    made = run_jobs(jobs)
    assert [len(trained.scores.scores) for trained in made] == [2, 1]
    assert [trained.epochs for trained in made] == [3, 2]
    assert len(list((tmp_path / "cache").glob("trainings/*/*"))) == 2
    for job, trained in zip(jobs, made, strict=True):
        own = _train(job)  # goes on from the other process's state: nothing is left to train
        np.testing.assert_allclose(trained.scores.scores, own.scores.scores, atol=1e-5)
        assert (trained.parameters, trained.epochs, trained.kept) == (own.parameters, own.epochs, own.kept)
        assert 1 <= trained.kept <= trained.epochs
        assert trained.scores.extractor == extractor_identity(job.extractor, job.arm.spec())
        assert (trained.scores.macs["macs"] > trained.scores.macs["macs_paper"]).all()


def test_a_fold_that_cannot_be_trained_on_is_refused_by_the_job_s_name(jobs):
    one_class = replace(jobs[1], labels=jobs[1].labels.assign(label=0))
    with pytest.raises(UserError, match="job 1: the train split holds one class only"):
        run_jobs([one_class])


@pytest.mark.parametrize(
    ("gigabytes", "batch", "workers"),
    [(1000, 0, 8), (1000, 2, 8), (31, 2, 3), (29, 2, 2), (9, 2, 1), (1, 0, 1), (0, 0, 1)],
)
def test_memory_caps_the_workers(gigabytes, batch, workers, jobs, monkeypatch):
    """A process takes 2 GiB and four batches; the largest batch counts."""
    monkeypatch.setattr("whisper_router.crossval.WORKERS", 8)
    memory = SimpleNamespace(available=gigabytes << 30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert _workers([jobs[0], replace(jobs[1], batch_bytes=batch << 30)]) == workers


RUN = """
import pickle, sys
from pathlib import Path
from whisper_router.crossval import run_jobs
from whisper_router.errors import UserError
try:
    run_jobs(pickle.loads(Path(sys.argv[1]).read_bytes()))
except UserError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def running(jobs, tmp_path) -> Iterator[tuple[subprocess.Popen, list[psutil.Process]]]:
    """A run of trainings without end, and all processes that it has started."""
    update = {"epochs": 10**6, "patience": None}
    endless = [replace(job, options=job.options.model_copy(update=update)) for job in jobs]
    (tmp_path / "jobs").write_bytes(pickle.dumps(endless))
    command = [sys.executable, "-c", RUN, str(tmp_path / "jobs")]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    children: list[psutil.Process] = []
    try:
        until = time.monotonic() + 120
        while not list((tmp_path / "cache").glob("trainings/*/*.pt")):
            assert parent.poll() is None, parent.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.2)
        children = psutil.Process(parent.pid).children(recursive=True)
        yield parent, children
    finally:
        for process in (parent, *children):
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                process.kill()
        parent.communicate()


def workers_of(children: list[psutil.Process]) -> list[psutil.Process]:
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


@pytest.mark.acceptance
def test_workers_die_when_their_parent_is_killed(running):
    parent, children = running
    assert workers_of(children)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(120)
    _, alive = psutil.wait_procs(children, timeout=120)
    assert alive == []


@pytest.mark.acceptance
def test_a_worker_that_is_killed_ends_the_run_with_what_to_do(running):
    parent, children = running
    workers_of(children)[0].kill()
    _, said = parent.communicate(timeout=120)
    assert parent.returncode == 1
    assert "a training was killed, most likely for want of memory; run again: it goes on" in said.splitlines()
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=120)[1] == []

"""No decider is tested, nor chosen, by what it has seen."""

import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.crossval import Fold, Job, _train, run_jobs, speaker_folds
from whisper_router.decider.options import MlpOptions, ResnetOptions
from whisper_router.features.extractors import extractor_identity, feature_frames
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.store import write_frames


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


@settings(max_examples=60, deadline=None, database=None)
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


def test_jobs_score_the_test_rows_of_their_folds_in_the_order_of_the_jobs(
    tmp_path, monkeypatch, clips, wav, checkpoints, plain, reference_of
):
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    rows = []
    for i, clip in enumerate(clips):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav(clip))
        rows.append((f"u{i}", str(path), 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip)))
    manifest = pd.DataFrame(rows, columns=["id", "audio", "offset_s", "duration_s", "sha256"])
    labels = pd.DataFrame({"id": manifest["id"], "label": [0, 1, 0, 1, 0, 1]})
    arm = reference_of(checkpoints["english"], plain)
    extractor = EncoderExtractor(kind="encoder", pool=2, stored=False)
    frames = [feature_frames(extractor, clip.size, plain.context(clip.size)) for clip in clips]
    identity = extractor_identity(extractor, arm.spec())
    write_frames(tmp_path / "f", zip(manifest["id"], frames, strict=True), identity)
    folds = [
        Fold(np.array([0, 1, 2]), np.array([3]), np.array([5, 4])),
        Fold(np.array([3, 4, 5]), np.array([2]), np.array([0])),
    ]
    options = [
        MlpOptions(kind="mlp", extractor="e", hidden=4, epochs=3, batch_size=2),
        ResnetOptions(kind="resnet", extractor="e", channels=4, strides=(2,), epochs=2, batch_size=3),
    ]
    jobs = [
        Job(f"job {i}", option, extractor, tmp_path / "f", arm, 2, manifest, labels, fold)
        for i, (option, fold) in enumerate(zip(options, folds, strict=True))
    ]
    made = run_jobs(jobs)
    assert [len(trained.scores.scores) for trained in made] == [2, 1]
    assert [trained.epochs for trained in made] == [3, 2]
    assert len(list((tmp_path / "cache").glob("trainings/*/*"))) == 2
    for job, trained in zip(jobs, made, strict=True):
        own = _train(job)  # goes on from the other process's state: nothing is left to train
        np.testing.assert_allclose(trained.scores.scores, own.scores.scores, atol=1e-5)
        assert (trained.parameters, trained.epochs, trained.kept) == (own.parameters, own.epochs, own.kept)
        assert 1 <= trained.kept <= trained.epochs
        assert trained.scores.extractor == identity
        assert (trained.scores.macs["macs"] > trained.scores.macs["macs_paper"]).all()

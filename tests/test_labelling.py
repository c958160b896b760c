"""Labelling computes once, resumes where it stopped, and names what it cannot read."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
import pytest

from whisper_router.asr.arm import Arm
from whisper_router.asr.decoding import Attempt, Hypothesis
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.features.options import EncoderExtractor
from whisper_router.labelling import (
    Work,
    compute,
    hypothesis_of,
    labels_table,
    plan_work,
    transcripts_table,
    utterances,
)
from whisper_router.store import ContentStore

EXTRACTOR = EncoderExtractor(kind="encoder", pool=4)
BATCH_SIZE = 2


@pytest.fixture(scope="module")
def arms(make_arm):
    return {"weak": make_arm("english"), "strong": make_arm("multilingual")}


@pytest.fixture
def works(arms):
    return {
        name: Work(arm.sha256, arm.options, True, (EXTRACTOR,) if name == "weak" else ())
        for name, arm in arms.items()
    }


@pytest.fixture
def store(tmp_path) -> ContentStore:
    return ContentStore(tmp_path / "cache")


@pytest.fixture
def manifest(tmp_path, clips, wav) -> pd.DataFrame:
    """One file for each clip, and a segment of a longer one."""
    rows = []
    for i, clip in enumerate(clips):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav(clip))
        rows.append((f"clip-{i}", path, 0.0, clip))
    longer = tmp_path / "longer.wav"
    longer.write_bytes(wav(np.concatenate(clips)))
    rows.append(("part", longer, clips[0].size / SAMPLE_RATE, clips[1][: SAMPLE_RATE // 2]))
    return pd.DataFrame(
        {
            "id": [row[0] for row in rows],
            "audio": [str(row[1]) for row in rows],
            "offset_s": [row[2] for row in rows],
            "duration_s": [row[3].size / SAMPLE_RATE for row in rows],
            "text": [f"the quick brown fox number {i}" for i in range(len(rows))],
            "sha256": [audio_sha256(row[3]) for row in rows],
            "corpus": "toy",
            "speaker": [f"speaker-{i % 3}" for i in range(len(rows))],
            "split": ["train", "test"] * 3 + ["train"],
        }
    )


def label(manifest, arms, works, store) -> tuple[pd.DataFrame, pd.DataFrame]:
    errors: dict[str, str] = {}
    for name, work in works.items():
        batches = plan_work(utterances(manifest), work, store, BATCH_SIZE)
        if batches:
            errors |= compute(arms[name], batches, work, store, name)
    transcripts = transcripts_table(manifest, works, store, errors)
    return transcripts, labels_table(manifest, transcripts)


def assert_equal(made, expected) -> None:
    for one, other in zip(made, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_the_second_run_computes_nothing_and_says_the_same(manifest, arms, works, store, calls):
    first = label(manifest, arms, works, store)
    everyone = {arm.sha256: len(manifest) for arm in arms.values()}
    assert calls.encoded == calls.decoded == everyone
    assert len(first[1]) == len(manifest)
    again = label(manifest, arms, works, store)
    assert calls.encoded == calls.decoded == everyone
    assert_equal(again, first)


def test_an_encoding_that_lacks_is_made_without_decoding(manifest, arms, works, store, calls):
    label(manifest, arms, works, store)
    calls.encoded.clear()
    calls.decoded.clear()
    other = replace(works["weak"], extractors=(EXTRACTOR, EncoderExtractor(kind="encoder", pool=8)))
    compute(arms["weak"], plan_work(utterances(manifest), other, store, BATCH_SIZE), other, store, "more")
    assert calls.encoded == {arms["weak"].sha256: len(manifest)}
    assert not calls.decoded
    for row in manifest.itertuples():
        frames = {
            extractor.pool: len(store.read_encoding(other.encoding_path(store, row.sha256, extractor)))
            for extractor in other.extractors
        }
        valid = -(-round(row.duration_s * SAMPLE_RATE) // 320)
        assert frames == {4: -(-valid // 4), 8: -(-valid // 8)}


def test_new_rows_are_the_only_ones_computed(manifest, arms, works, store, calls):
    label(manifest.iloc[:4], arms, works, store)
    calls.encoded.clear()
    whole = label(manifest, arms, works, store)
    assert set(calls.encoded.values()) == {len(manifest) - 4}
    fresh = label(manifest, arms, works, ContentStore(store.root / "fresh"))
    exact = ["id", "arm", "hypothesis", "substitutions", "deletions", "insertions", "wer", "tokens"]
    pd.testing.assert_frame_equal(whole[0][exact], fresh[0][exact])
    np.testing.assert_allclose(whole[0]["avg_logprob"], fresh[0]["avg_logprob"], atol=1e-3)
    pd.testing.assert_frame_equal(whole[1], fresh[1])


def test_the_same_sound_in_another_file_is_known(manifest, arms, works, store, calls):
    first = label(manifest.iloc[:2], arms, works, store)
    calls.encoded.clear()
    copy = manifest.iloc[:1].assign(id="copy", audio=manifest["audio"][0] + ".copy")
    both = pd.concat([manifest.iloc[:2], copy], ignore_index=True)
    transcripts, _ = label(both, arms, works, store)
    assert not calls.encoded
    texts = transcripts[transcripts["id"] == "copy"]["hypothesis"].tolist()
    assert texts == first[0][first[0]["id"] == "clip-0"]["hypothesis"].tolist()


@pytest.mark.parametrize("arm", ["weak", "strong"])
def test_an_interrupted_run_resumes_and_gives_the_same_tables(
    manifest, arms, works, store, tmp_path, monkeypatch, arm
):
    expected = label(manifest, arms, works, ContentStore(tmp_path / "other"))
    decode, lock, rows = Arm.decode, Lock(), Counter()

    def until_the_plug_is_pulled(self, encoding, audios):
        with lock:
            if self is arms[arm] and rows[arm] > 0:
                raise RuntimeError("the plug is pulled")
            rows["weak" if self is arms["weak"] else "strong"] += len(audios)
        return decode(self, encoding, audios)

    with monkeypatch.context() as patch:
        patch.setattr(Arm, "decode", until_the_plug_is_pulled)
        with pytest.raises(RuntimeError, match="the plug is pulled"):
            label(manifest, arms, works, store)
    assert 0 < rows[arm] < len(manifest)
    resumed = Counter()

    def counted(self, encoding, audios):
        with lock:
            resumed["weak" if self is arms["weak"] else "strong"] += len(audios)
        return decode(self, encoding, audios)

    monkeypatch.setattr(Arm, "decode", counted)
    assert_equal(label(manifest, arms, works, store), expected)
    assert {name: rows[name] + resumed[name] for name in arms} == dict.fromkeys(arms, len(manifest))


def test_audio_that_changed_or_vanished_is_an_error_row_and_the_others_are_labelled(
    manifest, arms, works, store, clips, wav
):
    changed, vanished, broken = (manifest["audio"][i] for i in (0, 2, 4))
    Path(changed).write_bytes(wav(clips[0] * 0.5))
    Path(broken).write_bytes(wav(clips[4])[:30])
    Path(vanished).unlink()
    transcripts, labels = label(manifest, arms, works, store)
    bad = transcripts[transcripts["error"].notna()]
    assert sorted(zip(bad["id"], bad["arm"], strict=True)) == [
        (f"clip-{i}", arm) for i in (0, 2, 4) for arm in ("strong", "weak")
    ]
    reasons = bad[bad["arm"] == "weak"].set_index("id")["error"]
    assert reasons["clip-0"] == f"{changed}: not the audio that ingest saw; run ingest again"
    assert reasons["clip-2"] == f"{vanished}: no such file"
    assert reasons["clip-4"].startswith(f"{broken}: truncated")
    assert bad["hypothesis"].isna().all()
    assert labels["id"].tolist() == ["clip-1", "clip-3", "clip-5", "part"]
    assert transcripts[transcripts["error"].isna()]["hypothesis"].notna().all()


def test_all_audio_vanished(manifest, arms, works, store):
    manifest["audio"] += ".moved"
    transcripts, labels = label(manifest, arms, works, store)
    assert len(transcripts) == 2 * len(manifest)
    assert transcripts["error"].str.endswith("no such file").all()
    assert len(labels) == 0


def hypothesis(text: str) -> Hypothesis:
    return Hypothesis(text, -0.5, 1.0, 0.01, 0.0, (-0.4,), (0.3,), (0.2,), (Attempt(500, 3),))


@pytest.mark.parametrize(
    ("weak", "strong", "label_"),
    [
        ("the cat sat on a mat", "the cat sat on the mat", 1),
        ("the cat sat on the mat", "the cat sat on a mat", 0),
        ("the cat sat on the mat", "the cat sat on the mat", 0),
        ("a cat sat on the mat", "the cat sat on a mat", 0),
        ("The cat sat on the mat!", "the cat sat on the mat", 0),
        ("", "the cat sat on mat", 1),
        ("the cat sat on the mat and and", "the cat sat on", 0),
    ],
)
def test_label_is_1_iff_the_weak_arm_is_worse(manifest, works, store, weak, strong, label_):
    manifest = manifest.iloc[:1].assign(text="The cat sat on the mat.")
    sha256 = manifest["sha256"][0]
    for name, text in (("weak", weak), ("strong", strong)):
        store.write_hypothesis(works[name].hypothesis_path(store, sha256), hypothesis(text))
    (row,) = labels_table(manifest, transcripts_table(manifest, works, store, {})).itertuples()
    assert row.label == label_ == int(row.wer_weak > row.wer_strong)
    assert row.words == 6
    assert row.wer_weak == pytest.approx(row.errors_weak / 6, abs=1e-6)


def test_an_utterance_that_one_arm_lacks_has_no_label(manifest, works, store):
    manifest = manifest.iloc[:2]
    for sha256 in manifest["sha256"]:
        store.write_hypothesis(works["weak"].hypothesis_path(store, sha256), hypothesis("some words"))
    store.write_hypothesis(
        works["strong"].hypothesis_path(store, manifest["sha256"][1]), hypothesis("some words")
    )
    transcripts = transcripts_table(manifest, works, store, {"clip-0": "a reason"})
    assert labels_table(manifest, transcripts)["id"].tolist() == ["clip-1"]
    (reason,) = transcripts["error"].dropna()
    assert reason == "a reason"


def test_transcripts_keep_the_whole_hypothesis(manifest, arms, works, store, tmp_path):
    transcripts, _ = label(manifest, arms, works, store)
    transcripts.to_parquet(tmp_path / "transcripts.parquet")
    read = pd.read_parquet(tmp_path / "transcripts.parquet")
    sha256 = manifest.set_index("id")["sha256"]
    for row in read.itertuples():
        stored = store.read_hypothesis(works[row.arm].hypothesis_path(store, sha256[row.id]))
        assert hypothesis_of(row) == stored
        assert row.tokens == stored.tokens


def test_the_plan_is_that_of_the_whole_corpus_whatever_is_done(manifest, works, store):
    rows = utterances(manifest)
    planned = plan_work(rows, works["strong"], store, BATCH_SIZE)
    assert sorted(row.id for batch in planned for row in batch) == sorted(manifest["id"])
    half = planned[1]
    for row in half:
        store.write_hypothesis(works["strong"].hypothesis_path(store, row.sha256), hypothesis("done"))
    assert plan_work(rows, works["strong"], store, BATCH_SIZE) == [planned[0], *planned[2:]]

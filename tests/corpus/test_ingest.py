"""Every bad row of a corpus is named with its reason, every good one is in the manifest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from whisper_router.audio import audio_sha256, load_audio
from whisper_router.corpus.ingest import COLUMNS, Rejected, ingest
from whisper_router.corpus.options import Corpus, IngestOptions
from whisper_router.corpus.splits import split_by_speaker
from whisper_router.errors import UserError

RATE = 16_000
WORDS = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliet",
    "kilo",
    "lima",
    "mike",
    "november",
]
BAD = {
    "missing": ({"audio": "absent.wav"}, "no such file"),
    "truncated": ({"audio": "cut.flac"}, "truncated|not readable as audio"),
    "no text": ({"text": ""}, "text '' is empty after normalisation"),
    "null text": ({"text": None}, "is empty after normalisation"),
    "punctuation": ({"text": "?! -- ,"}, r"text '\?! -- ,' is empty after normalisation"),
    "no audio": ({"audio": ""}, "names no audio"),
    "words": ({"audio": "words.wav"}, "not readable as audio"),
    "empty": ({"audio": "empty.wav"}, "empty"),
    "long": ({"audio": "long.wav"}, r"duration 31\.00 s is outside ingest's bounds of 0\.2 to 30 s"),
    "short": ({"duration_s": 0.1}, r"duration 0\.10 s is outside"),
    "beyond": ({"offset_s": 1.5, "duration_s": 1.0}, r"segment from 1\.5 s goes beyond the audio's end at"),
    "after": ({"offset_s": 7.0, "duration_s": 1.0}, r"segment from 7 s goes beyond the audio's end at"),
}


def noise(seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8000, 8000, round(seconds * rate), dtype=np.int16)


def table(folder: Path, rows: list[dict[str, Any]], name: str = "talks") -> Corpus:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus(name=name, kind="table", path=path.name)


def run(folder: Path, *corpora: Corpus, **options: Any) -> tuple[pd.DataFrame, list[Rejected]]:
    return ingest(IngestOptions(root=str(folder), corpora=corpora, **options), folder / "made")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with good audio of several rates, and every kind of bad file."""
    for i, word in enumerate(WORDS):
        rate = (RATE, 8_000, 44_100)[i % 3]
        soundfile.write(tmp_path / f"{word}.flac", noise(2.0, i, rate), rate, "PCM_16")
    whole = (tmp_path / "alpha.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.wav").write_text("no sound at all\n" * 30)
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "long.wav", noise(31.0, 99), RATE)
    return tmp_path


def good_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"good {word}", "audio": f"{word}.flac", "text": f"the word {word}", "speaker": f"s{i % 5}"}
        for i, word in enumerate(WORDS)
    ]


def test_every_bad_row_is_named_with_its_reason_and_every_good_row_is_kept(corpus):
    good = good_rows()
    bad = [
        {"audio": "bravo.flac", "text": f"some text for {id_}", **change, "id": id_}
        for id_, (change, _) in BAD.items()
    ]
    mixed = [row for pair in zip(good, bad, strict=False) for row in pair] + good[len(bad) :]
    manifest, rejected = run(corpus, table(corpus, [*mixed, {**good[0], "text": "the same id again"}]))
    assert manifest["id"].tolist() == sorted(row["id"] for row in good)
    reasons = {row.id: row for row in rejected}
    assert set(reasons) == {*BAD, good[0]["id"]}
    assert len(rejected) == len(BAD) + 1
    assert reasons[good[0]["id"]].reason == "duplicate id: the first is kept"
    assert manifest.set_index("id").loc[good[0]["id"], "text"] == good[0]["text"]
    for id_, (change, reason) in BAD.items():
        assert pd.Series([reasons[id_].reason]).str.contains(reason).all(), reasons[id_]
        assert reasons[id_].corpus == "talks"
        wanted = change.get("audio", "bravo.flac")
        assert reasons[id_].audio == ((corpus / wanted).as_posix() if wanted else "")


def test_the_manifest_has_its_columns_and_says_what_the_audio_holds(corpus):
    manifest, rejected = run(corpus, table(corpus, [{**row, "accent": "welsh"} for row in good_rows()[::-1]]))
    assert rejected == []
    assert tuple(manifest.columns) == COLUMNS
    assert manifest.index.tolist() == list(range(len(WORDS)))
    assert manifest["id"].is_monotonic_increasing
    rows = manifest.set_index("id")
    for i, word in enumerate(WORDS):
        row = rows.loc[f"good {word}"]
        assert row["sample_rate"] == (RATE, 8_000, 44_100)[i % 3]
        assert row["duration_s"] == pytest.approx(2.0, abs=1e-3)
        assert row["offset_s"] == 0.0
        assert row["sha256"] == audio_sha256(load_audio(corpus / f"{word}.flac"))
        assert (row["corpus"], row["speaker"]) == ("talks", f"talks/s{i % 5}")
        assert (row["language"], row["tags"]) == ("en", '{"accent":"welsh"}')
    options = IngestOptions(corpora=(Corpus(name="x", kind="table", path="x"),)).splits
    assert manifest["split"].tolist() == [split_by_speaker(name, options) for name in manifest["speaker"]]


def test_two_runs_are_equal(corpus):
    talks = table(corpus, [*good_rows(), {"id": "bad", "audio": "cut.flac", "text": "x"}])
    (first, first_rejected), (second, second_rejected) = run(corpus, talks), run(corpus, talks)
    pd.testing.assert_frame_equal(first, second)
    assert first_rejected == second_rejected


def test_the_hash_is_of_the_segment_s_samples_whatever_the_container(corpus):
    samples = noise(4.0, 7)
    soundfile.write(corpus / "whole.wav", samples, RATE)
    soundfile.write(corpus / "part.flac", samples[RATE : 3 * RATE], RATE, "PCM_16")
    rows = [
        {
            "id": "segment",
            "audio": "whole.wav",
            "offset_s": 1,
            "duration_s": 2,
            "text": "same",
            "speaker": "s",
        },
        {"id": "file", "audio": "part.flac", "text": "same", "speaker": "s"},
        {"id": "tail", "audio": "whole.wav", "offset_s": 3, "text": "same", "speaker": "s"},
    ]
    manifest, rejected = run(corpus, table(corpus, rows))
    assert rejected == []
    found = manifest.set_index("id")
    assert found.loc["segment", "sha256"] == found.loc["file", "sha256"] != found.loc["tail", "sha256"]
    assert found["duration_s"].to_dict() == {"segment": 2.0, "file": 2.0, "tail": 1.0}
    assert found["offset_s"].to_dict() == {"segment": 1.0, "file": 0.0, "tail": 3.0}


def test_an_unknown_speaker_is_a_group_a_recording(corpus):
    rows = [{key: value for key, value in row.items() if key != "speaker"} for row in good_rows()]
    halves = [
        {**row, "id": f"{row['id']} {offset}", "offset_s": offset, "duration_s": 1.0}
        for row in rows
        for offset in (0, 1)
    ]
    manifest, rejected = run(corpus, table(corpus, halves))
    assert rejected == []
    assert manifest["speaker"].nunique() == len(WORDS)
    assert (manifest.groupby("audio")["speaker"].nunique() == 1).all()
    assert (manifest.groupby("audio")["split"].nunique() == 1).all()
    assert manifest["split"].nunique() > 1


def test_the_same_speaker_s_name_in_two_corpora_is_two_speakers(corpus):
    first, second = good_rows()[:1], good_rows()[1:2]
    second[0]["speaker"] = first[0]["speaker"]
    manifest, _ = run(corpus, table(corpus, first, "one"), table(corpus, second, "two"))
    assert sorted(manifest["speaker"]) == ["one/s0", "two/s0"]


def test_an_id_that_stands_in_two_corpora_is_named(corpus):
    rows = good_rows()[:2]
    manifest, rejected = run(corpus, table(corpus, rows, "one"), table(corpus, rows[:1], "two"))
    assert len(manifest) == 2
    assert [(row.corpus, row.id) for row in rejected] == [("two", rows[0]["id"])]


def test_a_text_of_a_split_of_higher_priority_is_dropped_and_named(corpus):
    rows = [{**row, "speaker": row["id"], "split": "train"} for row in good_rows()[:6]]
    rows[0] |= {"split": "test", "text": "Shared words!"}
    rows[1] |= {"text": "shared words"}
    rows[2] |= {"split": "dev"}
    rows[3] |= {"split": "calibration"}
    manifest, rejected = run(corpus, table(corpus, rows))
    assert rows[0]["id"] in manifest["id"].tolist()
    (dropped,) = rejected
    assert dropped.id == rows[1]["id"]
    assert "split of higher priority" in dropped.reason


def test_bounds_on_the_duration_are_the_options(corpus):
    manifest, _ = run(corpus, table(corpus, good_rows()), min_duration_s=0.5, max_duration_s=2.0)
    assert len(manifest) == len(WORDS)
    with pytest.raises(UserError, match=r"no usable utterance among 14 .*bounds of 0\.5 to 1\.9 s"):
        run(corpus, table(corpus, good_rows()), min_duration_s=0.5, max_duration_s=1.9)


@pytest.mark.parametrize("change", [{"offset_s": -1.0, "duration_s": 0.5}, {"duration_s": -0.5}])
def test_a_negative_time_is_rejected(change, corpus):
    rows = good_rows()[:2]
    rows[0] |= change
    manifest, rejected = run(corpus, table(corpus, rows))
    assert manifest["id"].tolist() == [rows[1]["id"]]
    assert [row.id for row in rejected] == [rows[0]["id"]]


@pytest.mark.parametrize("value", [float("nan"), "soon"])
def test_a_time_that_is_not_a_number_is_rejected_and_the_rest_kept(value, corpus):
    rows = good_rows()[:2]
    rows[0] |= {"offset_s": value}
    manifest, rejected = run(corpus, table(corpus, rows))
    assert manifest["id"].tolist() == [rows[1]["id"]]
    assert [row.id for row in rejected] == [rows[0]["id"]]


def test_a_good_row_is_kept_although_a_bad_one_had_its_id_first(corpus):
    good = good_rows()[:2]
    manifest, _ = run(corpus, table(corpus, [{**good[0], "audio": "absent.wav"}, *good]))
    assert manifest["id"].tolist() == [row["id"] for row in good]


def test_segments_of_one_recording_need_no_ids(corpus):
    rows = [
        {"audio": "alpha.flac", "offset_s": offset, "duration_s": 1.0, "text": f"part {offset}"}
        for offset in (0, 1)
    ]
    manifest, rejected = run(corpus, table(corpus, rows))
    assert rejected == []
    assert len(manifest) == 2

"""Every bad row of a corpus is named with its reason, every good one is in the manifest."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from whisper_router import labelling
from whisper_router.audio import audio_sha256
from whisper_router.corpus import probe
from whisper_router.corpus.ingest import COLUMNS, Rejected, ingest
from whisper_router.corpus.options import Corpus, IngestOptions, Splits
from whisper_router.corpus.splits import split_by_speaker
from whisper_router.decode import Limits, Recording, load_audio, read_recording
from whisper_router.errors import UserError
from whisper_router.labelling import utterances
from whisper_router.store import ContentStore

RATE = 16_000
TRAINED = next(f"t{i}" for i in range(99) if split_by_speaker(f"talks/t{i}", Splits()) == "train")
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
    "missing": ({"audio": "absent.wav"}, "audio", "no such file"),
    "truncated": ({"audio": "cut.flac"}, "audio", "truncated|not readable as audio"),
    "no text": ({"text": ""}, "text", "text '' is empty after normalisation"),
    "null text": ({"text": None}, "text", "is empty after normalisation"),
    "punctuation": ({"text": "?! -- ,"}, "text", r"text '\?! -- ,' is empty after normalisation"),
    "no audio": ({"audio": ""}, "audio", "names no audio"),
    "words": ({"audio": "words.wav"}, "audio", "not readable as audio"),
    "empty": ({"audio": "empty.wav"}, "audio", "empty"),
    "long": ({"audio": "long.wav"}, "long", "over 30 s: such rows have no label, and only the test split"),
    "short": ({"offset_s": 0, "duration_s": 0.1}, "length", r"duration 0\.10 s is outside"),
    "beyond": (
        {"offset_s": 1.5, "duration_s": 1.0},
        "span",
        r"segment from 1\.5 s goes beyond the audio's end at 2\.00 s",
    ),
    "after": (
        {"offset_s": 7.0, "duration_s": 1.0},
        "span",
        r"segment from 7 s goes beyond the audio's end at 2\.00 s",
    ),
    "wrong": (
        {"duration_s": 4.0},
        "span",
        r"states duration_s 4\.00, the audio lasts 2\.00 s; correct it, or give offset_s: 0",
    ),
    "silent": ({"audio": "silent.wav"}, "silent", "silence: its level is -120 dB of full scale"),
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
    soundfile.write(tmp_path / "silent.wav", np.zeros(2 * RATE, np.int16), RATE)
    return tmp_path


def good_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"good {word}", "audio": f"{word}.flac", "text": f"the word {word}", "speaker": f"s{i % 5}"}
        for i, word in enumerate(WORDS)
    ]


def test_every_bad_row_is_named_with_its_reason_and_every_good_row_is_kept(corpus):
    good = good_rows()
    bad = [
        {"audio": "bravo.flac", "text": f"some text for {id_}", "speaker": TRAINED, **change, "id": id_}
        for id_, (change, *_) in BAD.items()
    ]
    mixed = [row for pair in zip(good, bad, strict=False) for row in pair] + good[len(bad) :]
    manifest, rejected = run(corpus, table(corpus, [*mixed, {**good[0], "text": "the same id again"}]))
    assert manifest["id"].tolist() == sorted(row["id"] for row in good)
    reasons = {row.id: row for row in rejected}
    assert set(reasons) == {*BAD, good[0]["id"]}
    assert len(rejected) == len(BAD) + 1
    assert reasons[good[0]["id"]].reason == "duplicate id: the first is kept"
    assert manifest.set_index("id").loc[good[0]["id"], "text"] == good[0]["text"]
    for id_, (change, kind, reason) in BAD.items():
        assert reasons[id_].kind == kind
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


def long_rows() -> list[dict[str, Any]]:
    """A recording of 31 s for a speaker of each official split, and short ones."""
    long = [
        {
            "id": f"long {split}",
            "audio": "long.wav",
            "text": f"long {split}",
            "speaker": f"l{split}",
            "split": split,
        }
        for split in ("train", "dev", "calibration", "test")
    ]
    return [*long, *({**row, "split": "train"} for row in good_rows())]


def test_audio_over_30_s_stays_in_test_alone_and_the_rest_is_counted(corpus):
    manifest, rejected = run(corpus, table(corpus, long_rows()))
    long = manifest[manifest["duration_s"] > 30]
    assert long["id"].tolist() == ["long test"]
    assert sorted((row.id, row.kind) for row in rejected) == [
        ("long calibration", "long"),
        ("long dev", "long"),
        ("long train", "long"),
    ]
    _, rejected = run(corpus, table(corpus, long_rows()), max_duration_s=30)
    assert [row.kind for row in rejected] == ["length"] * 4


def test_audio_of_a_split_of_higher_priority_is_dropped_and_named(corpus):
    shutil.copy(corpus / "alpha.flac", corpus / "again.flac")
    rows = [{**row, "speaker": row["id"], "split": "train"} for row in good_rows()[:4]]
    rows[0]["split"] = "test"
    rows[1] |= {"audio": "again.flac"}
    rows[2] |= {"split": "dev"}
    rows[3] |= {"split": "calibration"}
    manifest, rejected = run(corpus, table(corpus, rows))
    (dropped,) = rejected
    assert (dropped.id, dropped.kind) == (rows[1]["id"], "shared")
    assert dropped.reason.startswith(
        "its audio also stands in a split of higher priority (test > calibration"
    )
    assert rows[0]["id"] in manifest["id"].tolist()


@pytest.mark.parametrize(
    ("stated", "kept"), [(2.0, True), (2.5, True), (1.5, True), (2.51, False), (1.49, False)]
)
def test_a_stated_duration_may_be_rounded_but_not_wrong(stated, kept, corpus):
    rows = good_rows()[:2]
    rows[0] |= {"duration_s": stated}
    manifest, rejected = run(corpus, table(corpus, rows))
    assert (rows[0]["id"] in manifest["id"].tolist()) == kept
    if kept:
        assert manifest.set_index("id").loc[rows[0]["id"], "duration_s"] == 2.0
    assert [row.kind for row in rejected] == ([] if kept else ["span"])


def test_level_and_clipping_are_those_of_the_segment(corpus):
    loud = np.where(np.arange(2 * RATE) // 20 % 2, 32767, -32768).astype(np.int16)
    soundfile.write(corpus / "mixed.wav", np.concatenate([noise(2.0, 5) // 8, loud]), RATE)
    rows = [
        {
            "id": name,
            "audio": "mixed.wav",
            "offset_s": offset,
            "duration_s": 2.0,
            "text": name,
            "speaker": "s",
        }
        for name, offset in (("quiet", 0), ("clipped", 2))
    ]
    manifest, _ = run(corpus, table(corpus, rows))
    found = manifest.set_index("id")
    assert found.loc["clipped", "clipped"] == 1.0
    assert found.loc["clipped", "level_db"] == pytest.approx(0, abs=0.01)
    assert found.loc["quiet", "clipped"] == 0.0
    assert found.loc["quiet", "level_db"] == pytest.approx(20 * np.log10(8000 / 3**0.5 / 8 / 32768), abs=0.2)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The files that are decoded."""
    made = []

    def load(path: Path, limits: Limits) -> Recording:
        made.append(Path(path).name)
        return read_recording(path, limits)

    monkeypatch.setattr(probe, "read_recording", load)
    return made


def parts(count: int) -> list[dict[str, Any]]:
    """Half-second segments of one recording."""
    return [
        {
            "audio": "long.wav",
            "offset_s": i / 2,
            "duration_s": 0.5,
            "text": f"part {i}",
            "speaker": f"s{i % 5}",
        }
        for i in range(count)
    ]


def test_a_recording_is_decoded_once_for_all_its_segments_and_never_again(corpus, decoded):
    first = run(corpus, table(corpus, parts(20)))
    assert decoded == ["long.wav"]
    again = run(corpus, table(corpus, parts(20)))
    assert decoded == ["long.wav"]
    pd.testing.assert_frame_equal(again[0], first[0])


def test_new_audio_alone_is_decoded_and_no_row_moves(corpus, decoded):
    rows = good_rows()
    before, _ = run(corpus, table(corpus, rows[:-1]))
    assert len(decoded) == len(rows) - 1
    after, _ = run(corpus, table(corpus, rows))
    assert decoded[-1] == rows[-1]["audio"]
    assert len(decoded) == len(rows)
    kept = after.set_index("id").loc[before["id"]].reset_index()
    pd.testing.assert_frame_equal(kept[list(before)], before)


def test_a_changed_file_is_decoded_anew(corpus, decoded):
    rows = good_rows()[:2]
    before, _ = run(corpus, table(corpus, rows))
    soundfile.write(corpus / "alpha.flac", noise(2.0, 77), RATE, "PCM_16")
    after, _ = run(corpus, table(corpus, rows))
    assert sorted(decoded[:2]) == ["alpha.flac", "bravo.flac"]
    assert decoded[2:] == ["alpha.flac"]
    changed = before["sha256"] != after["sha256"]
    assert before.loc[changed, "id"].tolist() == [rows[0]["id"]]


def test_labelling_reads_segments_from_the_store_and_mends_what_it_lost(corpus, store, monkeypatch):
    manifest, _ = run(corpus, table(corpus, parts(6)))
    content = ContentStore()
    whole = load_audio(corpus / "long.wav")
    expected = [whole[round(row.offset_s * RATE) :][: RATE // 2] for row in manifest.itertuples()]
    kept = sorted((store / "segments").glob("*/*.flac"))
    assert len(kept) == 6
    kept[0].unlink()
    kept[1].write_bytes(kept[1].read_bytes()[:200])
    for row, samples in zip(utterances(manifest), expected, strict=True):
        assert np.array_equal(row.load(content), samples)
    assert len(list((store / "segments").glob("*/*.flac"))) == 6
    monkeypatch.setattr(labelling, "load_audio", lambda path: pytest.fail(f"{path} is decoded again"))
    for row, samples in zip(utterances(manifest), expected, strict=True):
        assert np.array_equal(row.load(content), samples)


def test_a_store_that_cannot_be_written_is_no_fault_of_the_rows(corpus, store):
    store.mkdir()
    (store / "probes").write_text("a file in the way")
    with pytest.raises(UserError, match=f"content store {store}: .*make room or mend it"):
        run(corpus, table(corpus, good_rows()))


@pytest.mark.parametrize("text", ["...", "$", "\u2026"])
def test_a_text_of_signs_alone_is_rejected(text, corpus):
    rows = good_rows()[:2]
    rows[0]["text"] = text
    _, rejected = run(corpus, table(corpus, rows))
    assert [(row.id, row.kind) for row in rejected] == [(rows[0]["id"], "text")]


@pytest.mark.parametrize("value", [1e305, 10**400, True, [1]])
def test_a_time_beyond_all_bounds_is_rejected_and_the_rest_kept(value, corpus):
    rows = good_rows()[:2]
    rows[0] |= {"offset_s": value}
    manifest, rejected = run(corpus, table(corpus, rows))
    assert manifest["id"].tolist() == [rows[1]["id"]]
    assert [row.kind for row in rejected] == ["span"]


def test_without_speakers_a_split_does_not_depend_on_where_the_corpus_lies(corpus, tmp_path_factory):
    rows = [{key: value for key, value in row.items() if key != "speaker"} for row in good_rows()]
    here, _ = run(corpus, table(corpus, rows))
    other = tmp_path_factory.mktemp("elsewhere") / "deep"
    shutil.copytree(corpus, other)
    there, _ = run(other, table(other, [{**row, "audio": f"../deep/{row['audio']}"} for row in rows]))
    assert here[["id", "speaker", "split"]].equals(there[["id", "speaker", "split"]])


def test_a_table_of_good_and_bad_lines_is_taken_but_for_the_bad_ones(tmp_path):
    for i, name in enumerate(("one", "two", "three")):
        soundfile.write(tmp_path / f"{name}.wav", noise(1.0, i), RATE)
    (tmp_path / "talks.csv").write_bytes(
        b"id,audio,text,split\r\n"
        b"../up,one.wav,first words,\r\n"
        b"latin,two.wav,caf\xe9,\r\n"
        b'quote,two.wav,"open,\r\n'
        b"few,two.wav\r\n"
        b'2,two.wav,"words, on\r\ntwo lines",Train\r\n'
        b"split,three.wav,some words,holdout\r\n"
        b"bell\x07,three.wav,some words,\r\n"
        b"nul,three.wav,so\0me words,\r\n"
        b"gone,absent.wav,some words,\r\n"
        b"3,three.wav,last words,TEST\r\n"
        + b"x" * 500 + b"y,three.wav,some words,\r\n"
    )  # fmt: skip
    manifest, rejected = run(tmp_path, Corpus(name="talks", kind="table", path="talks.csv"))
    assert manifest.set_index("id")["text"].to_dict() == {
        "../up": "first words",
        "2": "words, on\r\ntwo lines",
        "3": "last words",
    }
    found = {row.id: row.kind for row in rejected}
    lines = {f"talks.csv, line {n}": "line" for n in (3, 4, 5, 10)}
    names = {"split": "line", r"bell\x07": "line", "x" * 60 + "...": "line", "gone": "audio"}
    assert found == lines | names
    assert {file.name for file in tmp_path.iterdir()} >= {"one.wav", "made"}
    assert not (tmp_path.parent / "up").exists()

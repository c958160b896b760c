"""Each layout that corpora come in, made small in its real form, and ingested."""

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from pydantic import ValidationError

from whisper_router.corpus import lines
from whisper_router.corpus.formats import FORMATS
from whisper_router.corpus.ingest import ingest
from whisper_router.corpus.options import Corpus, IngestOptions
from whisper_router.errors import UserError

RATE = 16_000


def sound(path: Path, seconds: float = 1.0, seed: int = 0) -> Path:
    """Noise in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * RATE)), RATE)
    return path


def read(folder: Path, **corpus: Any) -> tuple[pd.DataFrame, dict[str, str]]:
    """The manifest by id, and the reasons of what was rejected."""
    options = IngestOptions(root=str(folder), corpora=(Corpus(name="c", **corpus),))
    manifest, rejected = ingest(options, folder / "made")
    return manifest.set_index("id"), {row.id: row.reason for row in rejected}


def librispeech(folder: Path) -> Path:
    for part, speaker, seed in (
        ("train-clean-100", "19", 0),
        ("dev-clean", "84", 1),
        ("test-other", "367", 2),
    ):
        chapter = folder / "LibriSpeech" / part / speaker / "198"
        lines = []
        for i in range(2):
            id_ = f"{speaker}-198-{i:04}"
            sound(chapter / f"{id_}.flac", seed=10 * seed + i)
            lines.append(f"{id_} SENTENCE {'ONE' if i else 'TWO'} OF READER {speaker}\n")
        (chapter / f"{speaker}-198.trans.txt").write_text("".join(lines))
    (folder / "LibriSpeech" / "SPEAKERS.TXT").write_text("; speakers\n")
    return folder / "LibriSpeech"


@pytest.mark.parametrize("form", ["folder", "parent", "tar"])
def test_librispeech_from_its_folder_and_from_its_archive(form, tmp_path):
    librispeech(tmp_path)
    path = {"folder": "LibriSpeech", "parent": ".", "tar": "test.tar.gz"}[form]
    if form == "tar":
        with tarfile.open(tmp_path / path, "w:gz") as archive:
            archive.add(tmp_path / "LibriSpeech", "LibriSpeech")
    manifest, rejected = read(tmp_path, kind="librispeech", path=path)
    assert rejected == {}
    assert len(manifest) == 6
    row = manifest.loc["367-198-0001"]
    assert (row["text"], row["speaker"], row["split"]) == ("SENTENCE ONE OF READER 367", "c/367", "test")
    assert json.loads(row["tags"]) == {"part": "test-other"}
    assert manifest.loc["19-198-0000", "split"] == "train"
    assert set(manifest.loc[["84-198-0000", "84-198-0001"], "split"]) <= {"dev", "calibration"}


def test_one_part_of_librispeech_and_a_lost_file(tmp_path):
    librispeech(tmp_path)
    (tmp_path / "LibriSpeech/test-other/367/198/367-198-0000.flac").unlink()
    manifest, rejected = read(tmp_path, kind="librispeech", path="LibriSpeech/test-other")
    assert list(manifest.index) == ["367-198-0001"]
    assert list(rejected) == ["367-198-0000"]
    assert "no such file" in rejected["367-198-0000"]


def test_a_folder_that_is_no_librispeech(tmp_path):
    (tmp_path / "a-folder").mkdir()
    with pytest.raises(UserError, match="holds no part of LibriSpeech"):
        read(tmp_path, kind="librispeech", path=".")


def common_voice(folder: Path, splits: tuple[str, ...]) -> None:
    columns = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent\tlocale\tsegment"
    for n, split in enumerate(splits):
        lines = [columns]
        for i, (text, seconds) in enumerate(
            (('"An unbalanced quote, they said', 1.0), ("Too short", 1.0), (f"A long clip of {split}", 11.0))
        ):
            name = f"common_voice_en_{n}{i}"
            sound(folder / "en" / "clips" / f"{name}.mp3", seconds, 10 * n + i)
            text = f"{text} {split}" if i == 0 else text
            lines.append(f"client{n}\t{name}.mp3\t{text}\t2\t0\ttwenties\t\tus\ten\t")
        (folder / "en" / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def test_common_voice_and_the_paper_s_filters(tmp_path):
    common_voice(tmp_path, ("train", "dev", "test"))
    manifest, rejected = read(tmp_path, kind="commonvoice", path="en", max_train_duration_s=10)
    assert sorted(manifest["split"]) == ["calibration", "calibration", "test", "test", "train"] or sorted(
        manifest["split"]
    ) == ["dev", "dev", "test", "test", "train"]
    row = manifest.loc["common_voice_en_20"]
    assert (row["text"], row["speaker"], row["language"]) == (
        '"An unbalanced quote, they said test',
        "c/client2",
        "en",
    )
    assert json.loads(row["tags"]) == {"accent": "us", "age": "twenties"}
    assert rejected["common_voice_en_02"] == "duration 11.00 s is over max_train_duration_s: 10"
    assert {rejected[f"common_voice_en_{n}1"] for n in range(3)} == {
        "text 'Too short' has fewer than min_words: 3"
    }


def test_common_voice_with_nothing_but_the_validated_clips(tmp_path):
    common_voice(tmp_path, ("validated",))
    manifest, _ = read(tmp_path, kind="commonvoice", path="en", min_words=1)
    assert len(manifest) == 3


def test_nemo(tmp_path):
    sound(tmp_path / "wavs/a.wav", 3.0)
    rows = [
        {"audio_filepath": "wavs/a.wav", "duration": 1.5, "offset": 1.0, "text": "one", "speaker": "s"},
        {"audio_filepath": str(tmp_path / "wavs/a.wav"), "duration": 3.0, "text": "two", "lang": "en"},
    ]
    (tmp_path / "manifest.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest, rejected = read(tmp_path, kind="nemo", path="manifest.json")
    assert rejected == {}
    assert sorted(zip(manifest["text"], manifest["offset_s"], manifest["duration_s"], strict=True)) == [
        ("one", 1.0, 1.5),
        ("two", 0.0, 3.0),
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_audiofolder_with_a_folder_a_split(form, tmp_path):
    for folder, split in (("train", "train"), ("validation", "dev"), ("test", "test")):
        sound(tmp_path / "data" / folder / "a.wav", seed=len(folder))
        row = {"file_name": "a.wav", "transcription": f"words of {split}", "speaker": split}
        path = tmp_path / "data" / folder / f"metadata.{form}"
        path.write_text(json.dumps(row) + "\n") if form == "jsonl" else pd.DataFrame([row]).to_csv(
            path, index=False
        )
    manifest, rejected = read(tmp_path, kind="audiofolder", path="data")
    assert rejected == {}
    assert sorted(manifest["text"]) == ["words of dev", "words of test", "words of train"]
    assert manifest.set_index("text").loc["words of test", "split"] == "test"


def test_audiofolder_without_splits_and_one_that_is_none(tmp_path):
    sound(tmp_path / "data/a.wav")
    (tmp_path / "data/metadata.csv").write_text("file_name,transcription\na.wav,hello there\n")
    assert list(read(tmp_path, kind="audiofolder", path="data")[0]["text"]) == ["hello there"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds none of metadata\.csv"):
        read(tmp_path, kind="audiofolder", path="none")


def test_a_table_with_names_of_its_own(tmp_path):
    sound(tmp_path / "a.ogg")
    (tmp_path / "calls.csv").write_text("Datei,Satz,Anrufer,Kunde\na.ogg,guten tag,7,x\n")
    columns = {"audio": "Datei", "text": "Satz", "speaker": "Anrufer"}
    manifest, _ = read(tmp_path, kind="table", path="calls.csv", columns=columns)
    (row,) = manifest.itertuples()
    assert (row.Index, row.text, row.speaker, json.loads(row.tags)) == (
        "a.ogg",
        "guten tag",
        "c/7",
        {"Kunde": "x"},
    )
    remedy = "columns: {audio: Datei, speaker: Anrufer, text: Satz}"
    with pytest.raises(UserError, match=f"has no column 'Sats'; there are: .*{remedy}"):
        read(tmp_path, kind="table", path="calls.csv", columns={**columns, "text": "Sats"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "nemo", "columns": {"text": "x"}}, "columns belong to kind table, not nemo"),
        ({"kind": "table", "columns": {"words": "x"}}, "'words' is none of id, audio, text"),
        ({"kind": "kaldi", "recordings": "x"}, "recordings belong to kind lhotse, not kaldi"),
    ],
)
def test_options_that_do_not_fit_the_kind(options, message):
    with pytest.raises(ValidationError, match=message):
        Corpus(name="c", path="x", **options)


@pytest.mark.parametrize("segmented", [True, False])
def test_kaldi(segmented, tmp_path):
    sound(tmp_path / "wav/rec1.wav", 4.0)
    sound(tmp_path / "u2.wav", 1.0, 2)
    data = tmp_path / "data"
    data.mkdir()
    if segmented:
        (data / "wav.scp").write_text(f"rec1 {tmp_path}/wav/rec1.wav\nrec2 sox in.sph -t wav - |\n")
        (data / "segments").write_text("u1 rec1 0.5 2.25\nu2 rec2 0 1\n")
    else:
        (data / "wav.scp").write_text(f"u1 {tmp_path}/wav/rec1.wav\nu2 ../u2.wav\n")
    (data / "text").write_text("u1 good morning\nu2 good evening\n")
    (data / "utt2spk").write_text("u1 spk1\nu2 spk2\n")
    manifest, rejected = read(tmp_path, kind="kaldi", path="data")
    row = manifest.loc["u1"]
    assert (row["text"], row["speaker"]) == ("good morning", "c/spk1")
    if segmented:
        assert (row["offset_s"], row["duration_s"]) == (0.5, 1.75)
        assert "sox in.sph -t wav - |: no such file" in rejected["u2"]
    else:
        assert (row["duration_s"], manifest.loc["u2", "duration_s"]) == (4.0, 1.0)


def test_a_kaldi_folder_without_its_files(tmp_path):
    with pytest.raises(UserError, match="text: no such file; it belongs to the corpus"):
        read(tmp_path, kind="kaldi", path=".")


@pytest.mark.parametrize("form", ["cuts", "supervisions"])
def test_lhotse_s_cuts_and_its_recordings_with_supervisions(form, tmp_path):
    from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet

    path = sound(tmp_path / "talk.wav", 5.0)
    recordings = RecordingSet.from_recordings([Recording.from_file(path, recording_id="talk")])
    segments = [
        SupervisionSegment(
            f"talk-{i}", "talk", start, 1.5, text=f"part {i}", speaker="ann", custom={"noise": i}
        )
        for i, start in enumerate((0.5, 3.0))
    ]
    supervisions = SupervisionSet.from_segments(segments)
    if form == "cuts":
        CutSet.from_manifests(recordings, supervisions).to_file(tmp_path / "cuts.jsonl.gz")
        manifest, rejected = read(tmp_path, kind="lhotse", path="cuts.jsonl.gz")
    else:
        recordings.to_file(tmp_path / "recordings.jsonl")
        supervisions.to_file(tmp_path / "supervisions.jsonl")
        names = {"path": "supervisions.jsonl", "recordings": "recordings.jsonl"}
        manifest, rejected = read(tmp_path, kind="lhotse", **names)
    assert rejected == {}
    assert sorted(zip(manifest["text"], manifest["offset_s"], manifest["duration_s"], strict=True)) == [
        ("part 0", 0.5, 1.5),
        ("part 1", 3.0, 1.5),
    ]
    assert set(manifest["speaker"]) == {"c/ann"}
    assert json.loads(manifest["tags"].iloc[0])["noise"] in ("0", "1")
    with pytest.raises(UserError, match=r"absent\.jsonl: no such manifest of corpus c"):
        read(tmp_path, kind="lhotse", path="absent.jsonl")


@pytest.mark.parametrize("cut", [0, 100])
def test_an_archive_that_is_none_or_was_cut_short_is_refused_by_name(cut, tmp_path):
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        archive.add(__file__, "LibriSpeech/dev-clean/1/1/1-1.trans.txt")
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:cut])
    with pytest.raises(UserError, match=r"cut\.tar\.gz: not readable as (.|\n)*; fetch it again"):
        read(tmp_path, kind="librispeech", path="cut.tar.gz")


def test_an_archive_that_would_write_elsewhere_is_refused_and_writes_nothing(tmp_path):
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        archive.add(__file__, "../../evil.txt")
    with pytest.raises(UserError, match=r"evil\.tar\.gz: its member '\.\./\.\./evil\.txt' names a place"):
        read(tmp_path, kind="librispeech", path="evil.tar.gz")
    assert not list(tmp_path.parent.rglob("evil.txt"))


def test_kaldi_segments_that_cannot_be_read_are_their_own_rows(tmp_path):
    sound(tmp_path / "data" / "one.wav", 4.0)
    data = tmp_path / "data"
    (data / "wav.scp").write_text("rec1 one.wav\n")
    (data / "text").write_text(
        "good some words\nreversed more words\nletters other words\nshort last words\n"
    )
    (data / "segments").write_text("good rec1 0 1\nreversed rec1 2 1\nletters rec1 a b\nshort rec1\n")
    manifest, rejected = read(tmp_path, kind="kaldi", path="data")
    assert manifest.index.tolist() == ["good"]
    assert rejected == {
        "reversed": "duration_s -1.0 is not a number of seconds",
        "letters": "offset_s 'a b' is not a number of seconds",
        "short": "offset_s 'missing' is not a number of seconds",
    }


def test_a_lhotse_manifest_that_is_none_is_refused_by_name(tmp_path):
    (tmp_path / "cuts.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(UserError, match=r"cuts\.jsonl, line 1: not a line that lhotse can read"):
        read(tmp_path, kind="lhotse", path="cuts.jsonl")


def lhotse_lines(folder: Path) -> tuple[list[str], list[str]]:
    """Lines of recordings and of supervisions of one talk."""
    from lhotse import Recording, SupervisionSegment

    recording = Recording.from_file(sound(folder / "talk.wav", 5.0), recording_id="talk")
    segments = [SupervisionSegment(f"t{i}", "talk", i, 1.0, text=f"part {i}", speaker="ann") for i in (0, 2)]
    return [json.dumps(recording.to_dict())], [json.dumps(one.to_dict()) for one in segments]


def test_bad_lines_of_lhotse_s_manifests_stop_no_other(tmp_path):
    recordings, (first, second) = lhotse_lines(tmp_path)
    lost = second.replace('"talk"', '"gone"').replace('"t2"', '"lost"')
    bad = ["[1]", '{"id": "x"}', "words", lost, "[" * 50_000, first.replace('"start": 0', '"start": "a"')]
    (tmp_path / "r.jsonl").write_text("\n".join([*recordings, '{"sources": 3}']))
    with gzip.open(tmp_path / "s.jsonl.gz", "wt") as file:
        file.write("\n".join([first, *bad, second]))
    manifest, rejected = read(tmp_path, kind="lhotse", path="s.jsonl.gz", recordings="r.jsonl")
    assert list(manifest.index) == ["t0", "t2"]
    lines = {f"s.jsonl.gz, line {n}" for n in (2, 3, 4, 6, 7)}
    assert set(rejected) == {"r.jsonl, line 2", "lost", *lines}
    assert rejected["lost"] == "its recording 'gone' is not in r.jsonl"


@pytest.mark.parametrize("name", ["cuts.pkl", "cuts.yaml", "cuts.json", "cuts.jsonl.xz"])
def test_other_forms_of_lhotse_s_manifests_are_not_opened(name, tmp_path):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(UserError, match=f"{name}: only .jsonl and .jsonl.gz are read; `lhotse copy"):
        read(tmp_path, kind="lhotse", path=name)


def test_a_compressed_manifest_is_bounded_when_unpacked_and_damage_is_named(tmp_path, monkeypatch):
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * 2000)[:-12])
    with pytest.raises(UserError, match=r"cuts\.jsonl\.gz: damaged from line \d+ on"):
        read(tmp_path, kind="lhotse", path=path.name)
    path.write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"cuts\.jsonl\.gz: damaged from line 1 on"):
        read(tmp_path, kind="lhotse", path=path.name)
    path.write_bytes(gzip.compress(b"\n" * 2000))
    monkeypatch.setattr(lines, "FILE_CHARACTERS", 1000)
    with pytest.raises(UserError, match=r"cuts\.jsonl\.gz: over 1000 characters when unpacked; divide it"):
        read(tmp_path, kind="lhotse", path=path.name)


def test_kaldi_utterances_without_a_speaker_and_lines_that_are_no_text_are_their_own_rows(tmp_path):
    for i, name in enumerate(("one", "two", "three")):
        sound(tmp_path / "data" / f"{name}.wav", seed=i)
    data = tmp_path / "data"
    (data / "wav.scp").write_text("one one.wav\ntwo two.wav\nthree three.wav\n")
    (data / "text").write_bytes(b"one some words\ntwo caf\xe9\nthree more words\none again words\n")
    (data / "utt2spk").write_text("one ann\n\0\n")
    manifest, rejected = read(tmp_path, kind="kaldi", path="data")
    assert (list(manifest.index), manifest.loc["one", "text"]) == (["one"], "some words")
    assert set(rejected) == {"text, line 2", "utt2spk, line 2", "three", "one"}
    assert rejected["three"] == "has no speaker in utt2spk; add a line for it there, or remove that file"
    assert "byte 0xe9" in rejected["text, line 2"]
    assert "NUL" in rejected["utt2spk, line 2"]


def test_a_line_of_a_transcript_that_is_no_text_is_its_own_row(tmp_path):
    librispeech(tmp_path)
    path = tmp_path / "LibriSpeech/test-other/367/198/367-198.trans.txt"
    path.write_bytes(path.read_bytes().replace(b"TWO", b"\xff"))
    manifest, rejected = read(tmp_path, kind="librispeech", path="LibriSpeech")
    assert len(manifest) == 5
    assert list(rejected) == ["367-198.trans.txt, line 1"]


def test_common_voice_s_bad_rows_and_its_empty_tables(tmp_path):
    common_voice(tmp_path, ("train",))
    table = tmp_path / "en" / "train.tsv"
    header = table.read_text().split("\n")[0]
    table.write_text(table.read_text() + "client9\tonly.mp3\n")
    (tmp_path / "en" / "dev.tsv").write_text(header + "\n")
    manifest, rejected = read(tmp_path, kind="commonvoice", path="en", min_words=1)
    assert len(manifest) == 3
    assert rejected == {"train.tsv, line 5": "2 fields, and the header has 10"}
    table.write_text("path\tsentence\na.mp3\twords\n")
    with pytest.raises(UserError, match=r"train\.tsv: has no column 'client_id'"):
        read(tmp_path, kind="commonvoice", path="en")


def test_audiofolder_takes_every_name_of_hugging_face_s_splits(tmp_path):
    for folder in ("Training", "valid", "EVAL", "extra"):
        sound(tmp_path / "data" / folder / "a.wav", seed=len(folder))
        (tmp_path / "data" / folder / "metadata.csv").write_text(
            f"file_name,transcription\na.wav,in {folder}\n"
        )
    rows = FORMATS["audiofolder"](
        tmp_path / "data", Corpus(name="c", kind="audiofolder", path="data"), tmp_path
    )
    splits = {row["text"]: row["split"] for row in rows}
    assert splits == {"in Training": "train", "in valid": "dev", "in EVAL": "test", "in extra": None}


@pytest.mark.parametrize("name", [".", "..", "a/b", "../x", "", "...", "a\n", "x" * 101])
def test_a_corpus_s_name_is_no_path(name):
    with pytest.raises(ValidationError):
        Corpus(name=name, kind="table", path="x")


def test_a_folder_of_audio_has_no_texts_and_a_subfolder_is_the_speaker(tmp_path):
    for name, seed in (("ann/1.wav", 0), ("ann/monday/2.FLAC", 1), ("alone.ogg", 2), (".hidden/3.wav", 3)):
        sound(tmp_path / "calls" / name, seed=seed)
    (tmp_path / "calls" / "ann" / "notes.txt").write_text("not audio")
    rows, rejected = read(tmp_path, kind="folder", path="calls")
    assert not rejected
    assert rows["speaker"].to_dict() == {
        "ann/1.wav": "c/ann",
        "ann/monday/2.FLAC": "c/ann",
        "alone.ogg": "c/calls/alone.ogg",
    }
    assert set(rows["text"]) == {""}
    assert set(rows["reference"]) == {"strong"}
    deeper, _ = read(tmp_path, kind="folder", path="calls", speaker_level=2)
    assert deeper["speaker"]["ann/monday/2.FLAC"] == "c/monday"
    assert deeper["speaker"]["ann/1.wav"] == "c/calls/ann/1.wav"


def test_a_folder_that_is_none_or_holds_no_audio_is_told(tmp_path):
    (tmp_path / "calls").mkdir()
    with pytest.raises(UserError, match=r"calls: holds no audio file \(\.wav, "):
        read(tmp_path, kind="folder", path="calls")
    with pytest.raises(UserError, match=r"absent: not a folder; set ingest\.root"):
        read(tmp_path, kind="folder", path="absent")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "folder", "reference": "text"}, "kind folder has no texts"),
        ({"kind": "table", "speaker_level": 2}, "speaker_level belongs to kind folder"),
        ({"kind": "demo", "reference": "strong"}, "every row of kind demo has a text"),
    ],
)
def test_options_of_untold_corpora_that_do_not_fit_are_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        Corpus(name="c", path=".", **given)


def test_rows_with_an_empty_text_are_taken_under_reference_strong_alone(tmp_path):
    lines = []
    for i, text in enumerate(("some words", "", None, "...")):
        sound(tmp_path / f"{i}.wav", seed=i)
        lines.append(json.dumps({"id": f"u{i}", "audio": f"{i}.wav", "text": text, "speaker": f"s{i}"}))
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    rows, rejected = read(tmp_path, kind="table", path="t.jsonl", reference="strong")
    assert rows["reference"].to_dict() == {"u0": "text", "u1": "strong", "u2": "strong"}
    assert set(rejected) == {"u3"}
    rows, rejected = read(tmp_path, kind="table", path="t.jsonl")
    assert rows["reference"].to_dict() == {"u0": "text"}
    assert set(rejected) == {"u1", "u2", "u3"}


def test_layouts_without_any_text_are_read_under_reference_strong(tmp_path):
    for i in range(2):
        sound(tmp_path / f"{i}.wav", seed=i)
    (tmp_path / "t.csv").write_text("audio,speaker\n0.wav,a\n1.wav,b\n")
    (tmp_path / "n.json").write_text(
        "".join(json.dumps({"audio_filepath": f"{i}.wav"}) + "\n" for i in range(2))
    )
    (tmp_path / "wav.scp").write_text("u0 0.wav\nu1 1.wav\n")
    for kind, path in (("table", "t.csv"), ("nemo", "n.json"), ("kaldi", ".")):
        rows, rejected = read(tmp_path, kind=kind, path=path, reference="strong")
        assert (rows["reference"].tolist(), rejected) == (["strong"] * 2, {}), kind
        with pytest.raises(UserError, match=r"no column 'text'|text: no such file"):
            read(tmp_path, kind=kind, path=path)

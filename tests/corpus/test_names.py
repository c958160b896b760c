"""Speakers, ids and files are known by their names however those are written."""

import csv
import json
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from whisper_router.corpus.ingest import Rejected, ingest
from whisper_router.corpus.names import (
    SHOWN,
    audio_on_disk,
    look_alikes,
    on_disk,
    speaker_name,
    warn_of_look_alikes,
)
from whisper_router.corpus.options import Corpus, IngestOptions

NFC = unicodedata.normalize("NFC", "café")
NFD = unicodedata.normalize("NFD", "café")
FORMS = pytest.mark.parametrize(
    ("stored", "named"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)], ids=ascii
)
LOOK_ALIKES = pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Anna", "anna"),
        ("STRASSE", "straße"),
        ("anna12", "".join(chr(ord(c) + 0xFEE0) for c in "anna12")),
        (NFC, NFD),
        (NFC.upper(), NFD),
        ("anna  b", "anna b"),
        ("anna", "anna\u200b"),
        ("anna", "\ufeffanna"),
    ],
    ids=ascii,
)


def sound(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-8000, 8000, 16_000, dtype=np.int16)
    soundfile.write(path, samples, 16_000)


def run(folder: Path, name: str = "talks.jsonl") -> tuple[pd.DataFrame, list[Rejected]]:
    corpus = Corpus(name="talks", kind="table", path=name)
    return ingest(IngestOptions(root=str(folder), corpora=(corpus,)), folder / "made")


def table(folder: Path, *rows: dict[str, Any], name: str = "talks.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("1188", "1188"),
        (" 1188", "1188"),
        ("1188\t", "1188"),
        ("\u00a01188\u3000", "1188"),
        (NFD, NFC),
        ("NAN", "NAN"),
        ("nan", "nan"),
        ("null", "null"),
        ("None", "None"),
        ("  ", None),
        ("", None),
        (None, None),
    ],
    ids=ascii,
)
def test_a_speaker_is_stripped_and_composed(written, name):
    assert speaker_name(written) == name


@LOOK_ALIKES
def test_names_that_look_alike_are_found(one, other):
    assert look_alikes(["bob", one, other, one]) == [tuple(sorted((one, other)))]


def test_names_that_differ_do_not_look_alike():
    assert look_alikes(["s1", "s2", "s-1", "cafe", NFC, "nan", "null", "s1", "1188", "1188.0"]) == []


def test_each_pair_is_warned_of_once_with_the_remedy():
    rows = [
        {"id": id_, "corpus": corpus, "speaker": speaker}
        for id_, corpus, speaker in [
            ("a", "calls", "Anna"),
            ("b", "calls", "anna"),
            ("c", "calls", "anna"),
            ("d", "other", "ANNA"),
            ("e", "other", None),
            (NFC, "other", "x"),
            (NFD, "other", "x"),
        ]
    ]
    with pytest.warns(UserWarning, match="count as different") as caught:
        warn_of_look_alikes(rows)
    speakers, ids = (str(warning.message) for warning in caught)
    assert "corpus calls: speakers that differ only in case, width or normal form" in speakers
    assert "'Anna' and 'anna'." in speakers
    assert "write them alike" in speakers
    assert "ANNA" not in speakers
    assert f"{NFD!a} and {NFC!a}." in ids
    assert "give it another id" in ids


def test_a_long_list_of_pairs_is_cut_and_counted():
    names = [f"{letter}{i:02}" for i in range(SHOWN + 3) for letter in "sS"]
    with pytest.warns(UserWarning, match="and 3 more") as caught:
        warn_of_look_alikes({"id": str(i), "corpus": "c", "speaker": name} for i, name in enumerate(names))
    assert str(caught[0].message).count(" and 'S") == 0
    assert str(caught[0].message).count(" and 's") == SHOWN


def test_names_that_are_written_alike_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_look_alikes({"id": str(i), "corpus": "c", "speaker": f"s{i % 3}"} for i in range(9))


@FORMS
def test_a_file_is_found_in_either_normal_form(stored, named, tmp_path):
    file = tmp_path / f"{stored} folder" / f"{stored}.wav"
    sound(file)
    path = tmp_path / f"{named} folder" / f"{named}.wav"
    assert on_disk(path) == file
    assert on_disk(path).is_file()
    assert audio_on_disk(str(path)) == file.as_posix()


def test_a_file_in_each_form_is_itself(tmp_path):
    for seed, name in enumerate((NFC, NFD)):
        sound(tmp_path / f"{name}.wav", seed)
        assert on_disk(tmp_path / f"{name}.wav") == tmp_path / f"{name}.wav"


@pytest.mark.parametrize(
    "audio",
    ["", "absent.wav", f"{NFC}.wav", f"{NFC}/a.wav", "é" * 300, "\ud800é\0.wav", "sox //é.wav |"],
    ids=ascii,
)
def test_a_file_in_no_form_stays_as_it_is_named(audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert on_disk(Path(audio)) == Path(audio)
    assert audio_on_disk("sox //a.wav |") == "sox //a.wav |"


@FORMS
def test_ingest_reads_audio_and_tables_of_either_form(stored, named, tmp_path):
    sound(tmp_path / f"{stored}.wav")
    table(
        tmp_path,
        {"id": "a", "audio": f"{named}.wav", "text": "one"},
        {"id": "b", "audio": f"{named} absent.wav", "text": "two"},
        name=f"{stored}.jsonl",
    )
    manifest, (rejected,) = run(tmp_path, f"{named}.jsonl")
    assert manifest["audio"].tolist() == [(tmp_path / f"{stored}.wav").as_posix()]
    assert manifest["speaker"].tolist() == [f"talks/{NFC}.wav"]
    assert (rejected.id, rejected.kind) == ("b", "audio")
    assert rejected.audio == (tmp_path / f"{named} absent.wav").as_posix()
    assert "no such file" in rejected.reason


def test_one_speaker_in_two_spellings_is_one_and_has_one_split(tmp_path):
    for seed, name in enumerate(("a", "b")):
        sound(tmp_path / f"{name}.wav", seed)
    with (tmp_path / "talks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows(
            [["audio", "text", "speaker"], ["a.wav", "it\u2019s one", f" {NFC}"], ["b.wav", "it's two", NFD]]
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest, rejected = run(tmp_path, "talks.csv")
    assert rejected == []
    assert manifest["speaker"].tolist() == [f"talks/{NFC}"] * 2
    assert manifest["split"].nunique() == 1


def test_ingest_warns_of_speakers_that_differ_in_case_alone(tmp_path):
    rows = []
    for seed, name in enumerate(("Anna", "anna")):
        sound(tmp_path / f"{seed}.wav", seed)
        rows.append({"audio": f"{seed}.wav", "text": f"text {seed}", "speaker": name})
    table(tmp_path, *rows)
    with pytest.warns(UserWarning, match="corpus talks: speakers that differ only .*'Anna' and 'anna'"):
        manifest, _ = run(tmp_path)
    assert set(manifest["speaker"]) == {"talks/Anna", "talks/anna"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_words_that_may_mean_a_missing_value_are_speakers_like_others(suffix, tmp_path):
    speakers = ["nan", "null", "None", "NA", "N/A", "<NA>", "NULL1", "-", "inf", "true", "007", "7"]
    rows = [["audio", "text", "speaker"]]
    for i, speaker in enumerate(speakers):
        sound(tmp_path / f"{i:02}.wav", i)
        rows.append([f"{i:02}.wav", f"text {i}", speaker])
    with (tmp_path / f"talks{suffix}").open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",").writerows(rows)
    manifest, rejected = run(tmp_path, f"talks{suffix}")
    assert rejected == []
    assert manifest["speaker"].tolist() == [f"talks/{speaker}" for speaker in speakers]


def test_one_sentence_in_two_typographies_is_in_one_split(tmp_path):
    texts = {"train": "I don\u2019t know, it\u2019s Mary\u2019s", "test": "I don't know, it's Mary's"}
    for seed, split in enumerate(texts):
        sound(tmp_path / f"{split}.wav", seed)
    table(
        tmp_path,
        *(
            {"id": split, "audio": f"{split}.wav", "text": text, "speaker": split, "split": split}
            for split, text in texts.items()
        ),
    )
    manifest, (rejected,) = run(tmp_path)
    assert manifest["id"].tolist() == ["test"]
    assert (rejected.id, rejected.kind) == ("train", "shared")

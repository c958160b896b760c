"""What check says of a corpus is what ingest will make of it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from projects import PARAMS
from ruamel.yaml import YAML

from whisper_router.corpus import probe
from whisper_router.corpus.check import CorpusCheck, check_corpus, is_ingested
from whisper_router.corpus.ingest import ingest
from whisper_router.corpus.options import KINDS, SPLITS, Corpus, IngestOptions
from whisper_router.errors import UserError
from whisper_router.params import load_params
from whisper_router.store import ContentStore

RATE = 16_000
SPEAKERS = 12
COUNT = 60


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8000, 8000, round(seconds * RATE), dtype=np.int16)


def good_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"r{i:02}", "audio": f"{i}.wav", "text": f"number {i} of them", "speaker": f"s{i % SPEAKERS}"}
        for i in range(COUNT)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(COUNT):
        soundfile.write(tmp_path / f"{i}.wav", noise(0.5 + i / 100, i), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE, np.int16), RATE)
    return tmp_path


def table(folder: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[Corpus, IngestOptions]:
    (folder / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus(name="calls", kind="table", path="calls.jsonl", **options)
    return corpus, IngestOptions(root=str(folder), corpora=(corpus,))


def check(folder: Path, rows: list[dict[str, Any]], seconds: float = 600, **limits: int) -> CorpusCheck:
    return check_corpus(*table(folder, rows), ContentStore(), 0, seconds, **limits)


def test_a_small_corpus_is_told_exactly_as_ingest_will_have_it(folder):
    rows = good_rows()
    rows += [
        {**rows[0], "id": "absent", "audio": "absent.wav"},
        {**rows[1], "id": "silent", "audio": "silent.wav"},
        {**rows[2], "id": "wordless", "text": "?!"},
        {**rows[3], "id": rows[4]["id"]},
        {**rows[5], "id": "again", "speaker": "s6"},
        {**rows[7], "id": "misnamed", "split": "tset"},
    ]
    corpus, options = table(folder, rows)
    found = check_corpus(corpus, options, ContentStore(), 0, 600)
    manifest, rejected = ingest(options, folder / "made")
    assert (found.rows, found.examined, found.good) == (len(rows), len(rows), len(manifest))
    assert not found.is_partial
    assert set(found.utterances["id"]) == set(manifest["id"])
    assert sum(finding.count for finding in found.bad) == len(rejected)
    kinds = {finding.what: finding.count for finding in found.bad}
    for kind, what in KINDS.items():
        assert kinds.get(what, 0) == sum(row.kind == kind for row in rejected)
    assert any("absent.wav: no such file" in finding.examples[0] for finding in found.bad)
    assert found.speakers == manifest["speaker"].nunique()
    assert found.hours == pytest.approx(manifest["duration_s"].sum() / 3600, abs=1e-3)
    for split in SPLITS:
        part = manifest[manifest["split"] == split]
        size = found.splits[split]
        assert (size.utterances, size.speakers) == (len(part), part["speaker"].nunique())
        assert size.words == part["text"].str.split().str.len().sum()


def test_columns_are_told_with_what_they_mean_and_what_stands_in_for_those_that_are_not_there(folder):
    rows = [{"file": "0.wav", "said": "zero", "who": "ann", "duration": 0.5, "mood": "calm"}]
    corpus, options = table(folder, rows, columns={"audio": "file", "text": "said", "split": "part"})
    found = check_corpus(corpus, options, ContentStore(), 0, 600)
    assert found.columns == {
        "file": "audio",
        "said": "text",
        "who": "tag",
        "duration": "duration_s",
        "mood": "tag",
    }
    assert set(found.absent) == {"id", "speaker", "split", "language"}
    notes = " ".join(found.notes)
    assert "no row names a speaker" in notes
    assert "no row has part" in notes
    assert "`run` needs all four" in notes


def test_a_large_corpus_is_estimated_from_the_rows_that_were_examined(folder):
    rows = good_rows()
    for row in rows[::2]:
        row["text"] = ""
    found = check(folder, rows, most=20)
    assert (found.rows, found.examined) == (COUNT, 20)
    assert found.is_partial
    bad = found.bad[0].count
    assert 0 < bad < 20
    assert found.good == pytest.approx((20 - bad) + (COUNT - 20) * (20 - bad) / 20, abs=1)
    assert sum(size.utterances for size in found.splits.values()) == pytest.approx(found.good, abs=2)


@pytest.mark.parametrize("stated", [True, False])
def test_without_time_hours_are_those_that_the_table_states(folder, stated):
    rows = [{**row, **({"duration_s": 36.0 / COUNT} if stated else {})} for row in good_rows()]
    found = check(folder, rows, seconds=0)
    assert (found.examined, found.good) == (0, COUNT)
    assert found.hours == (0.01 if stated else None)
    json.dumps(found.as_json(), allow_nan=False)


def test_what_was_examined_is_not_decoded_again_by_ingest(folder, monkeypatch):
    corpus, options = table(folder, good_rows())
    check_corpus(corpus, options, ContentStore(), 0, 600)

    def refuse(*arguments: Any) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(probe, "read_recording", refuse)
    manifest, rejected = ingest(options, folder / "made")
    assert (len(manifest), rejected) == (COUNT, [])


def test_a_corpus_without_a_usable_row_is_told_as_such(folder):
    found = check(folder, [{**row, "audio": "absent.wav"} for row in good_rows()])
    assert (found.good, found.speakers, found.hours) == (0, 0, 0.0)
    assert found.bad[0].count == COUNT
    assert not any(size.utterances for size in found.splits.values())


def test_an_archive_is_left_to_ingest(tmp_path):
    (tmp_path / "test-clean.tar.gz").touch()
    corpus = Corpus(name="speech", kind="librispeech", path="test-clean.tar.gz")
    with pytest.raises(UserError, match=r"test-clean\.tar\.gz: an archive, which only ingest unpacks"):
        check_corpus(corpus, IngestOptions(root=str(tmp_path), corpora=(corpus,)), ContentStore(), 0)


def test_ingest_is_up_to_date_until_the_manifest_the_params_or_a_table_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params, lock = Path("params.yaml"), Path("dvc.lock")
    params.write_text(PARAMS)
    options = load_params().ingest
    assert not is_ingested(options)
    values = YAML(typ="safe").load(PARAMS)["ingest"]
    with lock.open("w") as file:
        YAML().dump({"stages": {"ingest": {"params": {"params.yaml": {"ingest": values}}}}}, file)
    calls = Path(options.root) / "calls.jsonl"
    for path in (calls, Path("data/manifest.parquet"), Path("data/rejected.json")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(calls, (1, 1))
    assert is_ingested(options)
    os.utime("data/manifest.parquet", (0, 0))
    assert not is_ingested(options)
    os.utime("data/manifest.parquet")
    params.write_text(PARAMS.replace("path: calls.jsonl", "path: calls.jsonl, utterances: 5"))
    assert not is_ingested(options)
    params.write_text(PARAMS)
    Path("data/manifest.parquet").unlink()
    assert not is_ingested(options)

"""Tables of every format are read alike, and a table that cannot be read is refused by name."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.corpus import lines, tables
from whisper_router.corpus.formats import FORMATS
from whisper_router.corpus.options import Corpus
from whisper_router.corpus.tables import manifest_rows, read_table, renamed
from whisper_router.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"id": "a", "audio": "a.wav", "text": "one, two", "speaker": "s1", "split": "test", "accent": "welsh"},
    {"id": "b", "audio": "deep/b.flac", "text": "null", "offset_s": "1.5", "duration_s": "2"},
    {"id": "c", "audio": "c.mp3", "text": "", "language": "de", "corpus": "other"},
]


def table_rows(path: Path, name: str, sample: int | None, seed: int) -> list[dict[str, Any]]:
    corpus = Corpus(name=name, kind="table", path=path.name)
    return manifest_rows(FORMATS["table"](path, corpus, path.parent), name, sample, seed)


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"table{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_rows(suffix, tmp_path):
    path = write(tmp_path, suffix, ROWS)
    rows = table_rows(path, "talks", None, 0)
    assert rows == [
        {
            "id": "a",
            "audio": (tmp_path / "a.wav").as_posix(),
            "offset_s": None,
            "duration_s": None,
            "text": "one, two",
            "corpus": "talks",
            "speaker": "s1",
            "split": "test",
            "language": "en",
            "tags": '{"accent":"welsh"}',
        },
        {
            "id": "b",
            "audio": (tmp_path / "deep/b.flac").as_posix(),
            "offset_s": 1.5,
            "duration_s": 2.0,
            "text": "null",
            "corpus": "talks",
            "speaker": None,
            "split": None,
            "language": "en",
            "tags": "{}",
        },
        {
            "id": "c",
            "audio": (tmp_path / "c.mp3").as_posix(),
            "offset_s": None,
            "duration_s": None,
            "text": "",
            "corpus": "other",
            "speaker": None,
            "split": None,
            "language": "de",
            "tags": "{}",
        },
    ]


def test_values_that_are_absent_or_null_are_left_out_of_a_row(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text('{"audio": "a.wav", "text": "x", "speaker": null}\n')
    assert read_table(path) == [{"audio": "a.wav", "text": "x"}]


def test_without_an_id_the_audio_s_name_stands_for_it(tmp_path):
    path = write(tmp_path, ".csv", [{"audio": "deep/a.wav", "text": "x"}])
    assert table_rows(path, "talks", None, 0)[0]["id"] == "deep/a.wav"


def test_numbers_as_ids_and_speakers_become_text(tmp_path):
    path = write(tmp_path, ".jsonl", [{"id": 7, "audio": "a.wav", "text": "x", "speaker": 12}])
    row = table_rows(path, "talks", None, 0)[0]
    assert (row["id"], row["speaker"]) == ("7", "12")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_number_0_is_an_id_and_a_speaker(suffix, tmp_path):
    path = write(tmp_path, suffix, [{"id": 0, "audio": "a.wav", "text": "x", "speaker": 0}])
    row = table_rows(path, "talks", None, 0)[0]
    assert (row["id"], row["speaker"]) == ("0", "0")


def test_a_missing_text_of_parquet_is_empty(tmp_path):
    path = write(tmp_path, ".parquet", [{"audio": "a.wav", "text": "x"}, {"audio": "b.wav", "text": None}])
    assert [row["text"] for row in table_rows(path, "talks", None, 0)] == ["x", ""]


@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_only_a_newline_ends_a_line_of_jsonl(separator, tmp_path):
    path = tmp_path / "table.jsonl"
    row = {"audio": "a.wav", "text": f"one{separator}two"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n")
    assert read_table(path) == [row]


def test_a_row_without_audio_is_kept_for_the_caller_to_name(tmp_path):
    path = write(tmp_path, ".csv", [{"id": "a", "audio": "", "text": "x"}, ROWS[0]])
    assert [row["audio"] for row in table_rows(path, "talks", None, 0)] == ["", str(tmp_path / "a.wav")]


def test_tags_are_those_given_and_all_other_columns(tmp_path):
    path = write(
        tmp_path, ".jsonl", [{"audio": "a", "text": "x", "tags": {"snr": 3}, "accent": "welsh", "age": 7}]
    )
    assert json.loads(table_rows(path, "talks", None, 0)[0]["tags"]) == {
        "snr": "3",
        "accent": "welsh",
        "age": "7",
    }


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("column", ["audio", "text"])
def test_a_table_without_a_column_it_needs_is_refused_by_name(suffix, column, tmp_path):
    rows = [{key: value for key, value in ROWS[0].items() if key != column}]
    with pytest.raises(UserError, match=f"table{suffix}: has no column '{column}'"):
        read_table(write(tmp_path, suffix, rows))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_table_with_other_names_is_refused_with_the_columns_to_type(suffix, tmp_path):
    rows = [{"nr": str(i), "said": "what was said", "who": "ann", "file": f"deep/{i}.flac"} for i in range(3)]
    with pytest.raises(UserError) as refused:
        read_table(write(tmp_path, suffix, rows))
    told = str(refused.value)
    assert "has no column 'audio' and no column 'text'; there are: nr, said, who, file." in told
    assert "columns: {audio: file, text: said}" in told
    assert told.endswith("-c audio=file,text=said`")
    with pytest.raises(UserError, match=r"columns: {text: said, audio: file}"):
        read_table(write(tmp_path, suffix, rows), {"text": "said"})
    with pytest.raises(UserError, match=r"columns: {audio: NAME, text: said}"):
        read_table(write(tmp_path, suffix, [{"nr": "7", "said": "no sound at all"}]))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_only_the_first_rows_of_a_table_are_read_where_that_is_asked_for(suffix, tmp_path):
    rows = [{"audio": f"{i}.wav", "text": "a text"} for i in range(1000)]
    path = write(tmp_path, suffix, rows)
    assert len(read_table(path)) == 1000
    head = read_table(path, most=10)
    assert 10 <= len(head) < 1000
    assert head == rows[: len(head)]


def test_a_missing_table_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"absent\.csv: no such table"):
        read_table(tmp_path / "absent.csv")


def test_an_unknown_format_is_refused_with_those_there_are(tmp_path):
    path = tmp_path / "table.xlsx"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"'\.xlsx' is none of \.jsonl, \.csv, \.tsv, \.parquet"):
        read_table(path)


@pytest.mark.parametrize("line", ['{"audio": ', "[1, 2]", '"words"', "3"])
def test_a_broken_line_is_a_row_with_its_number_and_fault(line, tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n\n" + line + "\n" + json.dumps(ROWS[1]) + "\n")
    first, broken, second = read_table(path)
    assert (first["id"], second["id"]) == (ROWS[0]["id"], ROWS[1]["id"])
    assert broken["id"] == "table.jsonl, line 3"
    assert "not JSON" in broken["fault"] or "is not an object" in broken["fault"]


@pytest.mark.parametrize(("line", "count"), [("b.wav", 1), ("b.wav,some,words", 3)])
def test_a_line_with_other_fields_than_the_header_is_a_row_with_its_fault(line, count, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(
        f'\ufeffaudio,text\r\na.wav,"two\nlines, ""quoted"""\r\n{line}\r\n\r\nc.wav,end'.encode()
    )
    first, broken, last = read_table(path)
    assert first == {"audio": "a.wav", "text": 'two\nlines, "quoted"'}
    assert broken == {
        "id": "table.csv, line 4",
        "audio": "",
        "fault": f"{count} fields, and the header has 2",
    }
    assert last == {"audio": "c.wav", "text": "end"}


@pytest.mark.parametrize("content", ["", "audio,text\n"])
def test_a_table_without_rows_is_refused_by_name(content, tmp_path):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(UserError, match=r"table\.csv: holds no rows"):
        read_table(tmp_path / "table.csv")


def test_a_damaged_parquet_file_is_refused_by_name(tmp_path):
    (tmp_path / "table.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"table\.parquet: not readable as parquet"):
        read_table(tmp_path / "table.parquet")


@settings(max_examples=25)
@given(size=st.integers(1, 60), smaller=st.integers(1, 60), larger=st.integers(1, 60), seed=st.integers(0, 3))
def test_a_sample_grows_without_losing_a_row_and_keeps_the_order(
    size, smaller, larger, seed, tmp_path_factory
):
    path = tmp_path_factory.mktemp("table") / "table.jsonl"
    path.write_text("".join(f'{{"id": "u{i}", "audio": "a{i}", "text": "x"}}\n' for i in range(size)))

    def sample(count: int | None) -> list[str]:
        return [row["id"] for row in table_rows(path, "talks", count, seed)]

    smaller, larger = sorted((smaller, larger))
    assert len(sample(smaller)) == min(smaller, size)
    assert set(sample(smaller)) <= set(sample(larger))
    everything = sample(None)
    assert [id_ for id_ in everything if id_ in set(sample(smaller))] == sample(smaller)


def test_another_seed_draws_another_sample(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text("".join(f'{{"id": "u{i}", "audio": "a{i}", "text": "x"}}\n' for i in range(50)))
    assert table_rows(path, "talks", 10, 0) == table_rows(path, "talks", 10, 0)
    assert table_rows(path, "talks", 10, 0) != table_rows(path, "talks", 10, 1)


def test_a_mapped_column_goes_before_one_of_our_own_name(tmp_path):
    row = {"file": "a.wav", "normalized": "the right text", "text": "RAW", "id": "other"}
    columns = {"text": "normalized", "audio": "file", "id": "file"}
    (made,) = renamed([row], tmp_path, columns)
    assert (made["text"], made["named"], made["id"]) == ("the right text", "a.wav", "a.wav")


def test_whole_numbers_of_parquet_stay_whole_beside_a_null(tmp_path):
    frame = pd.DataFrame({"audio": ["a.wav", "b.wav"], "text": ["one", "two"]})
    frame["speaker"] = pd.array([1, None], dtype="Int64")
    frame.to_parquet(tmp_path / "table.parquet")
    first, second = manifest_rows(read_table(tmp_path / "table.parquet"), "c", None, 0)
    assert (first["speaker"], second["speaker"]) == ("1", None)


@pytest.mark.parametrize(
    "line", ['{"text": "\\ud800"}', '{"tag": ' + "[" * 100_000, '{"n": ' + "9" * 5000 + "}"]
)
def test_a_line_that_python_cannot_hold_is_its_own_fault(line, tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text("\ufeff" + json.dumps(ROWS[0]) + "\n" + line + "\n", encoding="utf-8")
    good, broken = read_table(path)
    assert good["id"] == ROWS[0]["id"]
    assert broken["id"] == "table.jsonl, line 2"
    assert "not JSON" in broken["fault"]


def faults(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["id"]: row["fault"] for row in rows if "fault" in row}


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows if "fault" not in row]


BAD_LINES = {
    "latin-1": (b"b.wav,caf\xe9", "not UTF-8, nor UTF-16 .*byte 0xe9, character 10"),
    "open quote": (b'b.wav,"what is this', "an open quote"),
    "half a quote": (b'b.wav,"what" is this', "not readable"),
    "nul": (b"b.wav,wo\0rds", "holds a NUL character"),
    "too many": (b"b.wav,some,words", "3 fields, and the header has 2"),
    "too long": (b"b.wav," + b"x" * 1000, "over 500 characters; is its end missing?"),
}


@pytest.mark.parametrize("bad", BAD_LINES)
@pytest.mark.parametrize("last", [True, False])
def test_a_bad_line_of_a_csv_costs_itself_alone(bad, last, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LINE_CHARACTERS", 500)
    line, said = BAD_LINES[bad]
    good = [f"{n}.wav,words {n}".encode() for n in range(30)]
    around = [b"audio,text", *good[:2], line, *([] if last else good[2:])]
    (tmp_path / "table.csv").write_bytes(b"\r\n".join(around))
    rows = read_table(tmp_path / "table.csv")
    assert texts(rows) == [f"words {n}" for n in range(2 if last else 30)]
    ((id_, fault),) = faults(rows).items()
    assert id_ == "table.csv, line 4"
    assert re.search(said, fault)


def test_an_open_quote_above_rows_with_quotes_costs_itself_alone(tmp_path):
    (tmp_path / "table.csv").write_text('audio,text\na,"open\nb,"two\nlines"\nc,"one, two"\nd,"open too\n')
    rows = read_table(tmp_path / "table.csv")
    assert texts(rows) == ["two\nlines", "one, two"]
    assert list(faults(rows)) == ["table.csv, line 2", "table.csv, line 6"]


def test_a_tsv_has_no_quotes(tmp_path):
    (tmp_path / "table.tsv").write_text('audio\ttext\na.wav\t"what is this\nb.wav\t"so"\n')
    assert texts(read_table(tmp_path / "table.tsv")) == ['"what is this', '"so"']


@pytest.mark.parametrize(
    "line", [b'{"text": "caf\xe9"}', b'{"a": "\0"}', b'{"text": 1, "text": 2}', b"x" * 600]
)
def test_a_bad_line_of_jsonl_costs_itself_alone(line, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LINE_CHARACTERS", 500)
    good = json.dumps(ROWS[0]).encode()
    (tmp_path / "table.jsonl").write_bytes(b"\n".join([good, line, good]))
    rows = read_table(tmp_path / "table.jsonl")
    assert len(texts(rows)) == 2
    assert list(faults(rows)) == ["table.jsonl, line 2"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_a_byte_order_mark_says_the_encoding(suffix, encoding, tmp_path):
    path = write(tmp_path, suffix, [{"audio": "ü.wav", "text": "schön"}, {"audio": "b.wav", "text": "𝄞 x"}])
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + path.read_text()).encode(encoding))
    assert read_table(path) == [{"audio": "ü.wav", "text": "schön"}, {"audio": "b.wav", "text": "𝄞 x"}]


def test_half_a_character_of_utf_16_costs_its_own_line(tmp_path):
    data = (
        "\ufeffaudio,text\na,one\nb,tw".encode("utf-16-le")
        + b"\x00\xd8"
        + "\nc,three\nd,".encode("utf-16-le")
    )
    (tmp_path / "table.csv").write_bytes(data + b"x")
    rows = read_table(tmp_path / "table.csv")
    assert texts(rows) == ["one", "three"]
    assert [fault.split(" (")[0] for fault in faults(rows).values()] == [
        "not UTF-8, nor UTF-16 with its byte order mark",
        "not UTF-16",
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_one_line_of_many_megabytes_is_not_held_in_memory(suffix, tmp_path):
    path = tmp_path / f"table{suffix}"
    with path.open("wb") as file:
        file.write(b"" if suffix == ".jsonl" else b"audio,text\n" if suffix == ".csv" else b"audio\ttext\n")
        for _ in range(32):
            file.write(b"x" * 2**20)
    tracemalloc.start()
    (row,) = read_table(path)
    assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    tracemalloc.stop()
    assert row["fault"] == "over 1048576 characters; is its end missing?"


@pytest.mark.parametrize("header", ["x" * 600, 'audio,"text', "audio,te\0xt", "audio,text,audio"])
def test_a_header_that_cannot_be_taken_refuses_the_table(header, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LINE_CHARACTERS", 500)
    (tmp_path / "table.csv").write_text(header + "\na.wav,words\n")
    said = "line 1, the header" if header.count("audio") < 2 else "two columns are called 'audio'; rename one"
    with pytest.raises(UserError, match=rf"table\.csv: {said}"):
        read_table(tmp_path / "table.csv")


def test_columns_without_a_name_are_left_out(tmp_path):
    (tmp_path / "table.csv").write_text(",audio,text,,\n0,a.wav,words,,\n")
    assert read_table(tmp_path / "table.csv") == [{"audio": "a.wav", "text": "words"}]


def test_a_file_that_is_no_table_is_refused_before_its_faults_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_FAULTS", 100)
    (tmp_path / "table.jsonl").write_text("words\n" * 101)
    with pytest.raises(UserError, match="over 100 lines cannot be read, one of them because: not JSON"):
        read_table(tmp_path / "table.jsonl")


def test_parquet_is_bounded_by_what_it_says_and_by_what_it_holds(tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"audio": ["a.wav"] * 2000, "text": ["x" * 10_000] * 2000}).to_parquet(path)
    assert path.stat().st_size < 10_000  # a dictionary of one long value
    monkeypatch.setattr(tables, "PARQUET_BYTES", 2**20)
    with pytest.raises(UserError, match=r"table\.parquet: over .* GiB unpacked; save audio as files"):
        read_table(path)
    monkeypatch.setattr(tables, "PARQUET_BYTES", 100)
    monkeypatch.setattr(tables, "_batch_rows", None)  # nothing is read
    with pytest.raises(UserError, match=r"table\.parquet: over .* GiB unpacked"):
        read_table(path)


def test_a_row_of_parquet_that_python_cannot_hold_costs_itself_alone(tmp_path):
    column = pa.Array.from_buffers(pa.string(), 3, pa.array([b"one", b"\xff", b"three"]).buffers())
    parquet.write_table(pa.table({"audio": ["a", "b", "c"], "text": column}), tmp_path / "table.parquet")
    rows = read_table(tmp_path / "table.parquet")
    assert texts(rows) == ["one", "three"]
    assert list(faults(rows)) == ["table.parquet, row 2"]


@pytest.mark.parametrize(
    ("given", "split"),
    [
        ("TRAIN", "train"),
        ("validation", "dev"),
        ("Valid", "dev"),
        ("val", "dev"),
        ("Dev", "dev"),
        ("Test", "test"),
        ("eval", "test"),
        (" calibration ", "calibration"),
    ],
)
def test_splits_have_hugging_face_s_names_too_in_any_case(given, split):
    (row,) = manifest_rows([{"audio": "a", "text": "x", "split": given}], "c", None, 0)
    assert (row["split"], row.get("fault")) == (split, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"split": "holdout"},
            r"split 'holdout' is none of train, dev \(validation, valid, val\), calibration",
        ),
        ({"id": "a\0b"}, "id 'a.x00b' holds a control character"),
        ({"id": "a\nb"}, "id 'a.nb' holds a control character"),
        ({"id": "x" * 501}, "has 501 characters, over 500"),
        ({"speaker": "a\nb"}, "speaker 'a.nb' holds"),
        ({"audio": "a\0.wav", "id": "a"}, "audio 'a.x00.wav' holds"),
        ({"corpus": "../up"}, "corpus '../up' is a path, not a name"),
        ({"corpus": ".."}, "corpus '..' is a path, not a name"),
    ],
)
def test_a_name_that_cannot_be_taken_is_its_row_s_fault(change, said):
    (row,) = manifest_rows([{"audio": "a", "text": "x", **change}], "c", None, 0)
    assert re.search(said, row["fault"])
    assert row["id"].isprintable()
    assert len(row["id"]) <= 500


@pytest.mark.parametrize("id_", ["../../etc/passwd", "a/b", "..", "/x", "x" * 500, "ü y"])
def test_an_id_may_look_like_a_path(id_):
    (row,) = manifest_rows([{"audio": "a", "text": "x", "id": id_}], "c", None, 0)
    assert (row["id"], "fault" in row) == (id_, False)

"""Tables of utterances: JSONL, CSV, TSV or Parquet; and rows of any corpus as the manifest wants them."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from whisper_router.corpus.lines import Line, bounded_lines, records
from whisper_router.corpus.names import audio_on_disk, speaker_name
from whisper_router.corpus.options import split_named
from whisper_router.errors import UserError
from whisper_router.hashing import canonical_json, unit_interval

KNOWN = (
    "id",
    "audio",
    "offset_s",
    "duration_s",
    "duration",
    "text",
    "speaker",
    "split",
    "language",
    "tags",
    "corpus",
    "named",  # the audio as the table names it
    "fault",  # why a line cannot be read
)


Row = dict[str, Any]
MOST_FAULTS = 100_000  # lines that cannot be read: a file with more is no table
PARQUET_BYTES = 2**31  # of all columns, unpacked
BATCH_ROWS = 256  # read at once: a dictionary may name one long value in each
LONGEST_NAME = 500  # characters of an id, a speaker, a corpus
GUESSED_ROWS = 50  # of which a column's values say what it holds
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FILE = re.compile(r"\S\.[A-Za-z0-9]{2,4}$")  # how the name of a sound file ends
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})


def read_table(
    path: Path,
    columns: Mapping[str, str] = NO_COLUMNS,
    form: str | None = None,
    needed: Sequence[str] = (),
    most: int | None = None,
    texts: bool = True,
) -> list[Row]:
    """Rows of a table; absent values are left out of a row.

    Parameters
    ----------
    columns : mapping
        What our columns are called there, where that is another name.
    form : str, optional
        ``jsonl``, ``csv``, ``tsv`` or ``parquet``; else as the file's name ends.
    needed : sequence of str
        Columns that the format must have, so that a file of it may be empty.
    most : int, optional
        Read only so many rows.
    texts : bool
        Whether there must be a column with texts.

    Raises
    ------
    UserError
        No such file, another format, no column with audio or text, two columns of one name; it is named.
        A line that cannot be read is a row with a ``fault``.
    """
    form = form or path.suffix.removeprefix(".")
    text = columns.get("text", "text")
    if not path.is_file():
        raise UserError(f"{path}: no such table; set ingest.root and the corpus's path in params.yaml")
    try:
        rows = _read(path, form, {text, *needed}, most)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as {form} ({error})") from error
    if not rows and not needed:
        raise UserError(f"{path}: holds no rows")
    present = list(dict.fromkeys(key for row in rows if "fault" not in row for key in row))
    wanted = {"audio": columns.get("audio", "audio"), "text": text, **{name: name for name in needed}}
    missing = [ours for ours, theirs in wanted.items() if theirs not in present and (texts or ours != "text")]
    if present and missing:
        raise UserError(_lacking(path, rows, present, columns, wanted, missing))
    return rows


def _lacking(
    path: Path,
    rows: Sequence[Row],
    present: Sequence[str],
    columns: Mapping[str, str],
    wanted: Mapping[str, str],
    missing: Sequence[str],
) -> str:
    """What to say of a table without a column: which there are, and what to type."""
    guessed = _likely_columns(rows, [name for name in present if name not in columns.values()])
    named = {ours: theirs for ours, theirs in columns.items() if theirs in present}
    named |= {ours: guessed.get(ours, "NAME") for ours in missing if ours in ("audio", "text")}
    inside = ", ".join(f"{ours}: {theirs}" for ours, theirs in named.items())
    typed = ",".join(f"{ours}={theirs}" for ours, theirs in named.items())
    lacking = " and no column ".join(repr(wanted[ours]) for ours in missing)
    said = f"{path}: has no column {lacking}; there are: {', '.join(present)}"
    if not inside:
        return said
    return (
        f"{said}. Say which are meant: in params.yaml kind: table, columns: {{{inside}}}; or try "
        f"`whisper-router check {path} -c {typed}`"
    )


def _likely_columns(rows: Sequence[Row], names: Sequence[str]) -> dict[str, str]:
    """Which columns look like audio and text, by their first values."""
    values: dict[str, list[str]] = {name: [] for name in names}
    for row in rows[:GUESSED_ROWS]:
        for name in names:
            if isinstance(row.get(name), str):
                values[name].append(row[name])
    files = {name: sum(bool(_FILE.search(text)) for text in texts) for name, texts in values.items()}
    found = {}
    if any(files.values()):
        found["audio"] = max(files, key=lambda name: files[name])
    words = {name: sum(len(text.split()) for text in texts) for name, texts in values.items()}
    words = {name: count for name, count in words.items() if name != found.get("audio")}
    if words and max(words.values()) > 0:
        found["text"] = max(words, key=lambda name: words[name])
    return found


def read_lines(path: Path) -> Iterator[Line]:
    """Lines of a text file that are not blank, without their ends.

    Raises
    ------
    UserError
        No such file, or not readable.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it belongs to the corpus")
    try:
        for line in bounded_lines(path):
            if line.fault or line.text.strip():
                yield line._replace(text=line.text.rstrip("\r\n"))
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from error


def _read(path: Path, form: str, kept: set[str], most: int | None) -> list[Row]:
    if form == "jsonl":
        rows = checked(path, islice(_read_jsonl(path, kept), most))
    elif form in ("csv", "tsv"):
        rows = checked(path, islice(_read_csv(path, form, kept), most))
    elif form == "parquet":
        rows = _read_parquet(path, kept, most)
    else:
        raise UserError(f"{path}: {path.suffix!r} is none of .jsonl, .csv, .tsv, .parquet")
    return rows


def renamed(rows: Sequence[Row], base: Path, columns: Mapping[str, str]) -> list[Row]:
    """Rows under our names for their columns, audio from the folder ``base``."""
    theirs = set(columns.values())
    result = []
    for row in rows:
        mine = {key: value for key, value in row.items() if key not in theirs}
        mine |= {ours: row[name] for ours, name in columns.items() if name in row}
        audio = _text(mine.get("audio")) or ""
        result.append({**mine, "audio": (base / audio).as_posix() if audio else "", "named": audio})
    return result


def _text(value: Any) -> str | None:
    """A cell as text; None where it is missing or empty. 0 is neither."""
    if value is None or (pd.api.types.is_scalar(value) and (value == "" or pd.isna(value))):
        return None
    return str(value)


def _number(value: Any) -> Any:
    """A cell as a number; as it is where it is none: ingest rejects its row."""
    try:
        return value if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def parsed_object(line: Line) -> dict[str, Any]:
    """The JSON object of a line.

    Raises
    ------
    ValueError
        The line cannot be read or holds no object, or a key stands twice; the message is a row's fault.
    """
    if line.fault:
        raise ValueError(line.fault)
    try:
        row = json.loads(line.text, object_pairs_hook=_unique)
        json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{line.text.strip()[:60]!r} is not an object")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {_twice(key for key, _ in pairs)} stands twice")
    return found


def _twice(names: Iterable[str]) -> str:
    """The names that stand more than once."""
    return ", ".join(repr(name) for name, count in Counter(names).items() if count > 1)


def faulty(path: Path, number: int, reason: str) -> Row:
    """The row of a line that cannot be read."""
    return {"id": f"{path.name}, line {number}", "audio": "", "fault": reason}


def checked(path: Path, rows: Iterable[Row]) -> list[Row]:
    """The rows as they come; UserError once so many are faulty that the file is no table."""
    result: list[Row] = []
    faults = 0
    for row in rows:
        result.append(row)
        faults += "fault" in row
        if faults > MOST_FAULTS:
            raise UserError(
                f"{path}: over {MOST_FAULTS} lines cannot be read, one of them because: {row['fault']}; "
                "is it a table of that form?"
            )
    return result


def _read_jsonl(path: Path, kept: set[str]) -> Iterator[Row]:
    for line in read_lines(path):
        try:
            row = parsed_object(line)
        except ValueError as error:
            yield faulty(path, line.number, str(error))
        else:
            yield {key: value for key, value in row.items() if value is not None or key in kept}


def _read_csv(path: Path, form: str, kept: set[str]) -> Iterator[Row]:
    tabs = form == "tsv"
    found = records(bounded_lines(path), "\t" if tabs else ",", csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
    head = next(found, None)
    if head is None:
        return
    if head.fault:
        raise UserError(f"{path}: line {head.number}, the header: {head.fault}")
    _refuse_twice(path, head.fields)
    for number, fields, fault in found:
        if not fault and len(fields) != len(head.fields):
            fault = f"{len(fields)} fields, and the header has {len(head.fields)}"
        if fault:
            yield faulty(path, number, fault)
        else:
            named = zip(head.fields, fields, strict=True)
            yield {key: value for key, value in named if key and (value != "" or key in kept)}


def _refuse_twice(path: Path, names: Sequence[str]) -> None:
    """Raise UserError where two columns have one name; those without one are left out anyway."""
    twice = _twice(name for name in names if name)
    if twice:
        raise UserError(f"{path}: two columns are called {twice[:200]}; rename one")


def _read_parquet(path: Path, kept: set[str], most: int | None) -> list[Row]:
    rows: list[Row] = []
    with parquet.ParquetFile(path) as file:
        _refuse_twice(path, file.schema_arrow.names)
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        _check_parquet(path, size)
        size = 0
        for batch in file.iter_batches(BATCH_ROWS):
            size += batch.nbytes
            _check_parquet(path, size)
            rows += _batch_rows(path, batch, len(rows))
            if most is not None and len(rows) >= most:
                break
    return [{k: v for k, v in row.items() if v is not None or k in kept} for row in rows]


def _check_parquet(path: Path, size: int) -> None:
    if size > PARQUET_BYTES:
        raise UserError(
            f"{path}: over {PARQUET_BYTES / 2**30:g} GiB unpacked; save audio as files and name "
            "them, or divide it"
        )


def _batch_rows(path: Path, batch: pa.RecordBatch, before: int) -> list[Row]:
    """The rows of a batch; one with a value that Python cannot hold is a row with its fault."""
    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        if batch.num_rows > 1:
            halves = (batch.slice(i, 1) for i in range(batch.num_rows))
            return [row for i, one in enumerate(halves) for row in _batch_rows(path, one, before + i)]
        fault = "a value that is no text in UTF-8, or a time out of range"
        return [{**faulty(path, before + 1, fault), "id": f"{path.name}, row {before + 1}"}]
    return rows


def _segment(audio: str, raw: dict[str, Any]) -> str:
    """The id of a row without one: its audio, and where in it a segment starts."""
    offset = _text(raw.get("offset_s"))
    return audio if offset is None else f"{audio}@{offset}"


def _name_fault(row: Row) -> str | None:
    """Why what a row is called by cannot be taken."""
    for name in ("id", "audio", "corpus", "speaker", "language"):
        value = row[name] or ""
        if name != "audio" and len(value) > LONGEST_NAME:
            return f"{name} {value[:30]!r}... has {len(value)} characters, over {LONGEST_NAME}"
        if _CONTROL.search(value):
            return f"{name} {value[:60]!r} holds a control character, such as a line's end"
    if "/" in row["corpus"] or row["corpus"] in (".", ".."):
        return f"corpus {row['corpus']!r} is a path, not a name"
    return None


def _settled(row: Row, fault: str | None) -> Row:
    """A row with its split as the project calls it, and with its fault where it has one."""
    split = row["split"] and split_named(row["split"])
    if row["split"] and split is None:
        taken = "train, dev (validation, valid, val), calibration, test (eval)"
        fault = fault or f"split {row['split'][:60]!r} is none of {taken}"
    fault = fault or _name_fault(row)
    if fault is None:
        return {**row, "split": split}
    shown = {name: _printable(row[name]) for name in ("id", "audio", "corpus")}
    return {**row, **shown, "split": split, "fault": fault}


def _printable(text: str) -> str:
    """A name as reports can show it."""
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= LONGEST_NAME else f"{shown[:60]}..."


def manifest_rows(rows: Sequence[Row], corpus: str, sample: int | None, seed: int) -> list[Row]:
    """Rows as the manifest wants them: columns that it does not know become tags.

    A sample is drawn by a hash of the id: it grows without losing a row.
    """
    result = []
    for raw in rows:
        tags = {key: str(value) for key, value in raw.items() if key not in KNOWN}
        given = raw.get("tags")
        if isinstance(given, dict):
            tags |= {str(key): str(value) for key, value in given.items()}
        row = {
            "id": _text(raw.get("id")) or _segment(str(raw.get("named") or raw["audio"]), raw),
            "audio": audio_on_disk(raw["audio"]),
            "offset_s": _number(raw.get("offset_s")),
            "duration_s": _number(raw.get("duration_s", raw.get("duration"))),
            "text": _text(raw.get("text")) or "",
            "corpus": str(raw.get("corpus") or corpus),
            "speaker": speaker_name(_text(raw.get("speaker"))),
            "split": _text(raw.get("split")),
            "language": str(raw.get("language") or "en"),
            "tags": canonical_json(tags),
        }
        result.append(_settled(row, raw.get("fault")))
    if sample is not None and sample < len(result):
        order = sorted(range(len(result)), key=lambda i: (unit_interval(str(seed), str(result[i]["id"])), i))
        result = [result[i] for i in sorted(order[:sample])]
    return result

"""Tables of utterances: JSONL, CSV, TSV or Parquet; and rows of any corpus as the manifest wants them."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

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
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})


def read_table(path: Path, columns: Mapping[str, str] = NO_COLUMNS, form: str | None = None) -> list[Row]:
    """Rows of a table; absent values are left out of a row.

    Parameters
    ----------
    columns : mapping
        What our columns are called there, where that is another name.
    form : str, optional
        ``jsonl``, ``csv``, ``tsv`` or ``parquet``; else as the file's name ends.

    Raises
    ------
    UserError
        No such file, another format, no column with audio or text; it is named. A line that cannot be
        read is a row with a ``fault``.
    """
    form = form or path.suffix.removeprefix(".")
    text = columns.get("text", "text")
    if not path.is_file():
        raise UserError(f"{path}: no such table; set ingest.root and the corpus's path in params.yaml")
    try:
        rows = _read(path, form, text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from error
    except (csv.Error, pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as {form} ({error})") from error
    if not rows:
        raise UserError(f"{path}: holds no rows")
    present = {key for row in rows if "fault" not in row for key in row}
    for column in (columns.get("audio", "audio"), text):
        if present and column not in present:
            raise UserError(
                f"{path}: has no column {column!r}, only {sorted(present)}; see columns in params.yaml"
            )
    return rows


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank.

    Raises
    ------
    UserError
        No such file, or not UTF-8.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; it belongs to the corpus") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from error


def _read(path: Path, form: str, text: str) -> list[Row]:
    if form == "jsonl":
        rows = _read_jsonl(path, text)
    elif form in ("csv", "tsv"):
        rows = _read_csv(path, "\t" if form == "tsv" else ",", text)
    elif form == "parquet":
        table = parquet.read_table(path).to_pylist()
        rows = [{k: v for k, v in row.items() if v is not None or k == text} for row in table]
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


def _read_jsonl(path: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                rows.append(_faulty(path, number, f"not JSON ({error})"))
                continue
            if isinstance(row, dict):
                rows.append({key: value for key, value in row.items() if value is not None or key == text})
            else:
                rows.append(_faulty(path, number, f"{line[:60]!r} is not an object"))
    return rows


def _faulty(path: Path, number: int, reason: str) -> Row:
    return {"id": f"{path.name}, line {number}", "audio": "", "fault": reason}


def _read_csv(path: Path, delimiter: str, text: str) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)  # an open quote is an error
        header = next(reader, [])
        for fields in reader:
            if len(fields) == len(header):
                named = zip(header, fields, strict=True)
                rows.append({key: value for key, value in named if value != "" or key == text})
            elif fields:
                reason = f"{len(fields)} fields, and the header has {len(header)}"
                rows.append(_faulty(path, reader.line_num, reason))
    return rows


def _segment(audio: str, raw: dict[str, Any]) -> str:
    """The id of a row without one: its audio, and where in it a segment starts."""
    offset = _text(raw.get("offset_s"))
    return audio if offset is None else f"{audio}@{offset}"


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
        result.append(
            {
                "id": _text(raw.get("id")) or _segment(str(raw.get("named") or raw["audio"]), raw),
                "audio": raw["audio"],
                "offset_s": _number(raw.get("offset_s")),
                "duration_s": _number(raw.get("duration_s", raw.get("duration"))),
                "text": _text(raw.get("text")) or "",
                "corpus": str(raw.get("corpus") or corpus),
                "speaker": _text(raw.get("speaker")),
                "split": _text(raw.get("split")),
                "language": str(raw.get("language") or "en"),
                "tags": canonical_json(tags),
                **({"fault": raw["fault"]} if "fault" in raw else {}),
            }
        )
    if sample is not None and sample < len(result):
        order = sorted(range(len(result)), key=lambda i: (unit_interval(str(seed), str(result[i]["id"])), i))
        result = [result[i] for i in sorted(order[:sample])]
    return result

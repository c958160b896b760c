"""Tables of utterances: JSONL, CSV, TSV or Parquet with the columns audio and text."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

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
)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a table; absent values are left out of a row.

    Raises
    ------
    UserError
        No such file, another format, a broken line, no column ``audio`` or ``text``; it is named.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such table; set ingest.root and the corpus's path in params.yaml")
    try:
        rows = _read(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from error
    present = {key for row in rows for key in row}
    for column in ("audio", "text"):
        if column not in present:
            raise UserError(f"{path}: has no column {column!r}, only {sorted(present)}")
    return rows


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        rows = _read_jsonl(path)
    elif path.suffix in (".csv", ".tsv"):
        separator = "\t" if path.suffix == ".tsv" else ","
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        rows = [
            {str(k): v for k, v in row.items() if v != "" or k == "text"} for row in frame.to_dict("records")
        ]
    elif path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        rows = [
            {str(k): v for k, v in row.items() if k == "text" or not pd.api.types.is_scalar(v) or pd.notna(v)}
            for row in frame.to_dict("records")
        ]
    else:
        raise UserError(f"{path}: {path.suffix!r} is none of .jsonl, .csv, .tsv, .parquet")
    return rows


def _text(value: Any) -> str | None:
    """A cell as text; None where it is missing or empty. 0 is neither."""
    if value is None or value == "" or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return None
    return str(value)


def _number(value: Any) -> Any:
    """A cell as a number; as it is where it is none: ingest rejects its row."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return value


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: {line[:60]!r} is not an object")
            rows.append({key: value for key, value in row.items() if value is not None or key == "text"})
    return rows


def _segment(audio: str, raw: dict[str, Any]) -> str:
    """The id of a row without one: its audio, and where in it a segment starts."""
    offset = _text(raw.get("offset_s"))
    return audio if offset is None else f"{audio}@{offset}"


def table_rows(path: Path, corpus: str, sample: int | None, seed: int) -> list[dict[str, Any]]:
    """Rows of a table as the manifest wants them: audio beside the table, other columns as tags.

    A sample is drawn by a hash of the id: it grows without losing a row.
    """
    rows = []
    for raw in read_table(path):
        audio = _text(raw.get("audio")) or ""
        tags = {key: str(value) for key, value in raw.items() if key not in KNOWN}
        given = raw.get("tags")
        if isinstance(given, dict):
            tags |= {str(key): str(value) for key, value in given.items()}
        rows.append(
            {
                "id": _text(raw.get("id")) or _segment(audio, raw),
                "audio": (path.parent / audio).as_posix() if audio else "",
                "offset_s": _number(raw.get("offset_s", 0.0)),
                "duration_s": _number(raw.get("duration_s")),
                "text": _text(raw.get("text")) or "",
                "corpus": str(raw.get("corpus") or corpus),
                "speaker": _text(raw.get("speaker")),
                "split": _text(raw.get("split")),
                "language": str(raw.get("language") or "en"),
                "tags": canonical_json(tags),
            }
        )
    if sample is not None and sample < len(rows):
        order = sorted(range(len(rows)), key=lambda i: (unit_interval(str(seed), str(rows[i]["id"])), i))
        rows = [rows[i] for i in sorted(order[:sample])]
    return rows

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
    present = {key for row in rows for key in row}
    for column in ("audio", "text"):
        if column not in present:
            raise UserError(f"{path}: has no column {column!r}, only {sorted(present)}")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: {line[:60]!r} is not an object")
            rows.append({key: value for key, value in row.items() if value is not None or key == "text"})
    return rows


def table_rows(path: Path, corpus: str, sample: int | None, seed: int) -> list[dict[str, Any]]:
    """Rows of a table as the manifest wants them: audio beside the table, other columns as tags.

    A sample is drawn by a hash of the id: it grows without losing a row.
    """
    rows = []
    for raw in read_table(path):
        audio = str(raw.get("audio") or "")
        tags = {key: str(value) for key, value in raw.items() if key not in KNOWN}
        given = raw.get("tags")
        if isinstance(given, dict):
            tags |= {str(key): str(value) for key, value in given.items()}
        rows.append(
            {
                "id": str(raw.get("id") or audio),
                "audio": (path.parent / audio).as_posix() if audio else "",
                "offset_s": float(raw.get("offset_s") or 0.0),
                "duration_s": float(raw["duration_s"]) if raw.get("duration_s") else None,
                "text": str(raw.get("text") or ""),
                "corpus": str(raw.get("corpus") or corpus),
                "speaker": str(raw["speaker"]) if raw.get("speaker") else None,
                "split": str(raw["split"]) if raw.get("split") else None,
                "language": str(raw.get("language") or "en"),
                "tags": canonical_json(tags),
            }
        )
    if sample is not None and sample < len(rows):
        order = sorted(range(len(rows)), key=lambda i: (unit_interval(str(seed), str(rows[i]["id"])), i))
        rows = [rows[i] for i in sorted(order[:sample])]
    return rows

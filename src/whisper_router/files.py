"""Whole files or none: everything is written to a temporary name and renamed."""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from whisper_router.errors import UserError

JSON_BYTES = 256 * 2**20  # no JSON of the project's is near that

Model = TypeVar("Model", bound=BaseModel)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it onto ``path`` if the block succeeds."""
    with _temporary(path) as temporary:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; make ``path`` of it if the block succeeds and there is none.

    Raises
    ------
    FileExistsError
        There is such a file; it stays as it is, whoever wrote it.
    """
    with _temporary(path) as temporary:
        yield temporary
        temporary.chmod(0o644)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS) or path.exists():
                raise
            temporary.replace(path)  # a file system without links


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; put it in the place of ``path`` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        old = temporary.with_name(f"{temporary.name}.old")
        if path.exists():
            path.replace(old)
        temporary.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, so that equal values make equal files."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_bytes(path: Path, most: int) -> bytes:
    """A whole file of at most ``most`` bytes.

    Raises
    ------
    UserError
        There is no such file, it cannot be read, or it is larger.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; `whisper-router run` makes it")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if len(content) > most:
        raise UserError(f"{path} has more than {most} bytes: it is damaged; make it again")
    return content


def parse_json(path: Path, content: bytes) -> Any:
    """The value of a JSON file's content; the error names the file."""
    try:
        return json.loads(content.decode(), parse_constant=_not_finite, parse_float=_finite)
    except ValueError as error:  # not JSON, not UTF-8, not finite, or an integer of thousands of digits
        raise UserError(f"{path} is not JSON: {error}; make it again") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply; make it again") from error


def read_json(path: Path, most: int = JSON_BYTES) -> Any:
    """Read a JSON file that a stage wrote, of at most ``most`` bytes.

    Raises
    ------
    UserError
        There is no such file, or it is no JSON of finite numbers; the message names it.
    """
    return parse_json(path, read_bytes(path, most))


def parse_model(path: Path, content: bytes, model: type[Model]) -> Model:
    """A JSON file's content as a model, with no type turned into another.

    Raises
    ------
    UserError
        It is not; the message names file, field and remedy.
    """
    parse_json(path, content)  # what pydantic lets pass: infinite numbers
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged: {field}: {first['msg']}; package it again") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply; package it again") from error


def _not_finite(word: str) -> float:
    raise ValueError(f"{word[:40]} is not a finite number")


def _finite(word: str) -> float:
    value = float(word)
    return value if math.isfinite(value) else _not_finite(word)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table that a stage wrote; the error names the file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `whisper-router run` makes it")
    return pd.read_parquet(path)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet without its index."""
    with replacing(path) as temporary:
        _to_parquet(temporary, table)


def write_new_parquet(path: Path, table: pd.DataFrame) -> None:
    """The same where there is no such file; raises FileExistsError where there is."""
    with creating(path) as temporary:
        _to_parquet(temporary, table)


def _to_parquet(path: Path, table: pd.DataFrame) -> None:
    table.to_parquet(path, index=False, compression="zstd")

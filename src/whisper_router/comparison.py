"""Whether outputs of two machines say the same: texts and counts equal, floats close.

Another processor computes other last bits, so its outputs are not the same byte for byte. What they say is
compared file by file, by type; pictures and pages are drawn from figures and are not compared themselves.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from whisper_router.files import read_json

TOLERANCE = 1e-3  # absolute, and relative for figures above 1
DRAWN = frozenset({".png", ".html"})
HASH = re.compile(r"[0-9a-f]{64}")
# Hashes of other outputs that hold floats, and that are compared themselves: they differ where any bit does.
FOLLOWS = re.compile(
    r"data/features/[^#]*/index\.parquet#sha256"
    r"|data/router/provenance\.json#sha256\.(transcripts|features|decider|policies\..*)"
    r"|data/(policy|router/policies)/[^#]*\.json#bound\.decider"
)


def _numbers_differ(before: np.ndarray, after: np.ndarray) -> str | None:
    if before.shape != after.shape:
        return f"shape {before.shape} before, {after.shape} now"
    if before.dtype.kind != "f" or after.dtype.kind != "f":
        same = before == after
    else:
        old, new = before.astype(np.float64), after.astype(np.float64)
        same = np.isclose(new, old, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    if same.all():
        return None
    i = int(np.argmin(same))
    return f"{before.flat[i]} before, {after.flat[i]} now"


def _values_differ(before: Any, after: Any, name: str, where: str = "") -> str | None:
    """Where two JSON values differ first, beyond floats that are close and hashes of such floats."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        inner = [(before[key], after[key], f"{where}.{key}".lstrip(".")) for key in sorted(before)]
        return next(filter(None, (_values_differ(old, new, name, at) for old, new, at in inner)), None)
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        found = (_values_differ(old, new, name, f"{where}[{i}]") for i, (old, new) in pairs)
        return next(filter(None, found), None)
    if FOLLOWS.fullmatch(f"{name}#{where}") and _is_hash(before) and _is_hash(after):
        return None
    if type(before) is type(after) and before == after:
        return None
    floats = float in (type(before), type(after)) and {type(before), type(after)} <= {int, float}
    if floats and np.isclose(after, before, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
        return None
    return f"{where}: {before} before, {after} now"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None


def _plain(cell: Any) -> Any:
    """A cell as JSON would have it."""
    if isinstance(cell, np.ndarray | np.generic):
        cell = cell.tolist()
    return None if pd.api.types.is_scalar(cell) and pd.isna(cell) else cell


def _tables_differ(before: pd.DataFrame, after: pd.DataFrame, name: str) -> str | None:
    if list(before.columns) != list(after.columns) or len(before) != len(after):
        return (
            f"{len(before)} rows of {list(before.columns)} before, {len(after)} of {list(after.columns)} now"
        )
    for column in before.columns:
        if before[column].dtype != after[column].dtype:
            return f"{column}: {before[column].dtype} before, {after[column].dtype} now"
        for i, (old, new) in enumerate(zip(before[column], after[column], strict=True)):
            found = _values_differ(_plain(old), _plain(new), name, column)
            if found:
                return f"row {i}: {found}"
    return None


def _tensors_differ(before: Path, after: Path) -> str | None:
    old, new = load_file(before), load_file(after)
    if old.keys() != new.keys():
        return f"{sorted(old)} before, {sorted(new)} now"
    found = ((name, _numbers_differ(old[name], new[name])) for name in sorted(old))
    return next((f"{name}: {difference}" for name, difference in found if difference), None)


def difference(before: Path, after: Path, name: str) -> str | None:
    """How two files of one name differ beyond floats that are close; None where they say the same.

    Parameters
    ----------
    before, after : Path
        The files; what they are is told by ``name``, since DVC's cache names files by their hash.
    name : str
        Their path among the outputs, as dvc.lock has it.
    """
    if before.read_bytes() == after.read_bytes():
        return None
    kind = Path(name).suffix
    if kind == ".json":
        return _values_differ(read_json(before), read_json(after), name)
    if kind == ".parquet":
        return _tables_differ(pd.read_parquet(before), pd.read_parquet(after), name)
    if kind == ".csv":
        return _tables_differ(pd.read_csv(before), pd.read_csv(after), name)
    if kind == ".npy":
        arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in (before, after)]
        return _numbers_differ(*arrays)
    if kind == ".safetensors":
        return _tensors_differ(before, after)
    return "other bytes"


def cached_files(cache: Path, path: str, md5: str) -> Iterator[tuple[str, Path]]:
    """Names and files of an output as DVC's cache keeps them; a file may be missing."""
    entry = cache / "files/md5" / md5[:2] / md5[2:]
    if not md5.endswith(".dir"):
        yield path, entry
        return
    if not entry.is_file():
        yield path, entry
        return
    for item in read_json(entry):
        yield f"{path}/{item['relpath']}", cache / "files/md5" / item["md5"][:2] / item["md5"][2:]

"""The feature store: shards that can be memory-mapped, an index, and the extractor that made them."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_router.errors import UserError
from whisper_router.files import read_json, read_parquet, replacing_folder, write_json, write_parquet

SHARD_BYTES = 256 << 20

IndexRow = tuple[str, int, int, int, str]  # id, shard, start, frames, hash


def write_features(
    folder: Path,
    rows: Iterable[tuple[str, np.ndarray]],
    extractor: dict[str, object],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write features of shape (frames, ...), one an utterance; a shard joins them along the first axis."""
    with replacing_folder(folder) as temporary:
        index: list[IndexRow] = []
        pending: list[np.ndarray] = []
        shard = start = size = 0

        def flush() -> None:
            nonlocal shard, start, size
            if pending:
                np.save(temporary / f"shard-{shard:05d}.npy", np.concatenate(pending), allow_pickle=False)
                pending.clear()
                shard, start, size = shard + 1, 0, 0

        for utterance, feature in rows:
            checksum = hashlib.sha256(np.ascontiguousarray(feature).data).hexdigest()
            index.append((utterance, shard, start, len(feature), checksum))
            pending.append(feature)
            start += len(feature)
            size += feature.nbytes
            if size >= shard_bytes:
                flush()
        flush()
        _write_index(temporary, index, extractor)


def write_index(folder: Path, rows: Iterable[tuple[str, int, str]], extractor: dict[str, object]) -> None:
    """Write the index of features that are not stored: frames and audio hash of each utterance."""
    with replacing_folder(folder) as temporary:
        _write_index(temporary, [(id_, -1, 0, frames, sha256) for id_, frames, sha256 in rows], extractor)


def _write_index(folder: Path, rows: Sequence[IndexRow], extractor: dict[str, object]) -> None:
    columns = ["id", "shard", "start", "frames", "sha256"]
    write_parquet(folder / "index.parquet", pd.DataFrame(rows, columns=columns))
    write_json(folder / "extractor.json", extractor)


class FeatureIndex:
    """Which utterances an extractor's folder speaks of, and how many frames each has.

    Raises
    ------
    UserError
        The folder is not one of features, or holds another extractor's than ``extractor``.
    """

    def __init__(self, folder: Path, extractor: dict[str, object] | None = None) -> None:
        self.extractor: dict[str, object] = read_json(folder / "extractor.json")
        if extractor is not None and self.extractor != extractor:
            raise UserError(
                f"{folder} holds features of {self.extractor}, not of {extractor}; run featurize again"
            )
        index = read_parquet(folder / "index.parquet")
        self._index: dict[str, IndexRow] = {row[0]: row for row in index.itertuples(index=False, name=None)}

    @property
    def ids(self) -> list[str]:
        """Utterances, in the order they were written."""
        return list(self._index)

    def frames(self, utterance: str) -> int:
        """Frames of one utterance's feature."""
        return int(self._index[utterance][3])

    def sha256(self, utterance: str) -> str:
        """Hash of one utterance's feature, or of its audio where features are not stored."""
        return str(self._index[utterance][4])


class FeatureReader(FeatureIndex):
    """Reads stored features by utterance; nothing is loaded before it is asked for."""

    def __init__(self, folder: Path, extractor: dict[str, object] | None = None) -> None:
        super().__init__(folder, extractor)
        self._shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("shard-*.npy"))]

    def __getitem__(self, utterance: str) -> np.ndarray:
        """One utterance's feature, shape (frames, ...), a view of the file."""
        _, shard, start, frames, _ = self._index[utterance]
        feature: np.ndarray = self._shards[shard][start : start + frames]
        return feature

    def batch(self, utterances: Sequence[str]) -> list[np.ndarray]:
        """Features of some utterances, views of the files."""
        return [self[utterance] for utterance in utterances]

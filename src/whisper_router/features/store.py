"""The feature store: shards that can be memory-mapped, an index, and the extractor that made them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_router.errors import UserError
from whisper_router.files import read_json, read_parquet, replacing_folder, write_json, write_parquet

SHARD_BYTES = 256 << 20


def write_features(
    folder: Path,
    rows: Iterable[tuple[str, np.ndarray]],
    extractor: dict[str, object],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write features of shape (frames, ...), one an utterance; a shard joins them along the first axis."""
    with replacing_folder(folder) as temporary:
        index: list[tuple[str, int, int, int]] = []
        pending: list[np.ndarray] = []
        shard = start = size = 0

        def flush() -> None:
            nonlocal shard, start, size
            if pending:
                np.save(temporary / f"shard-{shard:05d}.npy", np.concatenate(pending), allow_pickle=False)
                pending.clear()
                shard, start, size = shard + 1, 0, 0

        for utterance, feature in rows:
            index.append((utterance, shard, start, len(feature)))
            pending.append(feature)
            start += len(feature)
            size += feature.nbytes
            if size >= shard_bytes:
                flush()
        flush()
        _write_index(temporary, index, extractor)


def write_frames(folder: Path, rows: Iterable[tuple[str, int]], extractor: dict[str, object]) -> None:
    """Write the index of an extractor whose features are not stored: how many frames each would have."""
    with replacing_folder(folder) as temporary:
        _write_index(temporary, [(utterance, -1, 0, frames) for utterance, frames in rows], extractor)


def _write_index(
    folder: Path, rows: Sequence[tuple[str, int, int, int]], extractor: dict[str, object]
) -> None:
    write_parquet(folder / "index.parquet", pd.DataFrame(rows, columns=["id", "shard", "start", "frames"]))
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
        self._index = {row.id: (row.shard, row.start, row.frames) for row in index.itertuples()}

    @property
    def ids(self) -> list[str]:
        """Utterances, in the order they were written."""
        return list(self._index)

    def frames(self, utterance: str) -> int:
        """Frames of one utterance's feature."""
        return int(self._index[utterance][2])


class FeatureReader(FeatureIndex):
    """Reads stored features by utterance; nothing is loaded before it is asked for."""

    def __init__(self, folder: Path, extractor: dict[str, object] | None = None) -> None:
        super().__init__(folder, extractor)
        self._shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("shard-*.npy"))]

    def __getitem__(self, utterance: str) -> np.ndarray:
        """One utterance's feature, shape (frames, ...), a view of the file."""
        shard, start, frames = self._index[utterance]
        feature: np.ndarray = self._shards[shard][start : start + frames]
        return feature

    def batch(self, utterances: Sequence[str]) -> list[np.ndarray]:
        """Features of some utterances, views of the files."""
        return [self[utterance] for utterance in utterances]

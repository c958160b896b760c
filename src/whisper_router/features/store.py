"""The feature store: shards that can be memory-mapped, an index, and the extractor that made them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_router.errors import UserError
from whisper_router.files import read_json, replacing_folder, write_json, write_parquet

SHARD_BYTES = 256 << 20


def write_features(
    folder: Path,
    rows: Iterable[tuple[str, np.ndarray]],
    extractor: dict[str, object],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write features of shape (frames, ...), one an utterance; a shard joins them along the first axis."""
    with replacing_folder(folder) as temporary:
        index: list[dict[str, object]] = []
        pending: list[np.ndarray] = []
        shard = start = size = 0

        def flush() -> None:
            nonlocal shard, start, size
            if pending:
                np.save(temporary / f"shard-{shard:05d}.npy", np.concatenate(pending), allow_pickle=False)
                pending.clear()
                shard, start, size = shard + 1, 0, 0

        for utterance, feature in rows:
            index.append({"id": utterance, "shard": shard, "start": start, "frames": len(feature)})
            pending.append(feature)
            start += len(feature)
            size += feature.nbytes
            if size >= shard_bytes:
                flush()
        flush()
        columns = ["id", "shard", "start", "frames"]
        write_parquet(temporary / "index.parquet", pd.DataFrame(index, columns=columns))
        write_json(temporary / "extractor.json", extractor)


class FeatureReader:
    """Reads features by utterance; nothing is loaded before it is asked for.

    Raises
    ------
    UserError
        The folder holds another extractor's features than ``extractor``.
    """

    def __init__(self, folder: Path, extractor: dict[str, object] | None = None) -> None:
        self.extractor: dict[str, object] = read_json(folder / "extractor.json")
        if extractor is not None and self.extractor != extractor:
            raise UserError(
                f"{folder} holds features of {self.extractor}, not of {extractor}; run featurize again"
            )
        index = pd.read_parquet(folder / "index.parquet")
        self._index = {row.id: (row.shard, row.start, row.frames) for row in index.itertuples()}
        self._shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("shard-*.npy"))]

    @property
    def ids(self) -> list[str]:
        """Utterances, in the order they were written."""
        return list(self._index)

    def __getitem__(self, utterance: str) -> np.ndarray:
        """One utterance's feature, shape (frames, ...), a view of the file."""
        shard, start, frames = self._index[utterance]
        feature: np.ndarray = self._shards[shard][start : start + frames]
        return feature

"""One vector an utterance, for deciders that do not look along time."""

from collections.abc import Sequence

import numpy as np

from whisper_router.decider.options import PooledOptions
from whisper_router.decider.training import Examples

CHUNK = 256  # utterances whose whole features are in memory at once


def vectors(features: Sequence[np.ndarray], options: PooledOptions) -> np.ndarray:
    """Mean over the frames of features (frames, ...), with ``deviation`` their deviation too."""
    rows = []
    for feature in features:
        whole = feature.astype(np.float64)
        parts = [whole.mean(axis=0).ravel()]
        if options.deviation:
            parts.append(whole.std(axis=0).ravel())
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def all_vectors(examples: Examples, options: PooledOptions) -> np.ndarray:
    """Vectors of all utterances, a few hundred of whole features in memory at once."""
    ids = examples.ids
    parts = [ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK)]
    return np.concatenate([vectors(examples.reader.batch(part), options) for part in parts])


def pooling_macs(size: int, frames: int, options: PooledOptions) -> int:
    """Products of the pooling that gives a vector of that size."""
    return frames * size // 2 * 3 if options.deviation else frames * size

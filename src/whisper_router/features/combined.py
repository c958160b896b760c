"""Features of several extractors as one vector."""

from collections.abc import Sequence

import numpy as np

from whisper_router.decider.options import LogisticOptions
from whisper_router.decider.pooling import pooling_macs, vectors

WHOLE = LogisticOptions(kind="logistic", extractor="", deviation=True)  # mean and deviation over the frames


def over_time(feature: np.ndarray) -> np.ndarray:
    """Mean and deviation over the frames of a feature (frames, ...), shape (width,)."""
    whole: np.ndarray = vectors([feature], WHOLE)[0]
    return whole


def over_time_macs(frames: int, numbers: int) -> int:
    """Products of mean and deviation over frames of that many numbers."""
    return pooling_macs(2 * numbers, frames, WHOLE)


def side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors as one, shape (1, width), float32."""
    vector: np.ndarray = np.concatenate(parts)[None].astype(np.float32)
    return vector

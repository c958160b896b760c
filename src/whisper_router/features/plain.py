"""Features that take no arm: from the transcripts at hand, or from the sound itself."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from whisper_router.features.extractors import extract
from whisper_router.features.hypothesis import confidence
from whisper_router.features.options import ConfidenceExtractor, SignalExtractor
from whisper_router.labelling import hypothesis_of, utterances
from whisper_router.progress import progress
from whisper_router.store import ContentStore


def plain_features(
    extractor: ConfidenceExtractor | SignalExtractor,
    manifest: pd.DataFrame,
    transcripts: pd.DataFrame,
    title: str,
) -> Iterator[tuple[str, np.ndarray]]:
    """Each utterance of the manifest, by id; ``title`` names the bar."""
    rows = utterances(manifest)
    if extractor.kind == "signal":
        store = ContentStore()
        for row in progress(rows, title):
            yield row.id, extract(extractor, row.load_or_raise(store))
        return
    weak = {row.id: row for row in transcripts[transcripts["arm"] == "weak"].itertuples()}
    for row in rows:
        yield row.id, confidence(hypothesis_of(weak[row.id]), row.duration_s)

"""Features of a corpus from what stages left: the content store, transcripts, the sound itself."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from whisper_router.asr.blocks import check_blocks
from whisper_router.asr.reference import ArmReference
from whisper_router.cost import Dims
from whisper_router.features.combined import side_by_side
from whisper_router.features.hf import hf_keys, load_hf
from whisper_router.features.kinds import (
    AnyExtractor,
    BlocksExtractor,
    HfExtractor,
    LogMelExtractor,
    Single,
)
from whisper_router.features.logmel import pool_mel, weak_mel
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.plain import plain_features
from whisper_router.features.reading import as_vector
from whisper_router.labelling import WORKERS, Utterance, utterances
from whisper_router.progress import progress
from whisper_router.store import ContentStore

Features = Iterator[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Sources:
    """What features of a corpus are made of.

    Attributes
    ----------
    encodings : callable
        Gives an encoder's states of every utterance of the manifest, by id.
    """

    manifest: pd.DataFrame
    transcripts: pd.DataFrame
    references: Mapping[str, ArmReference]
    dims: Mapping[str, Dims]
    encodings: Callable[[EncoderExtractor], Features]


def features_of(extractor: AnyExtractor, sources: Sources, title: str) -> Features:
    """Each utterance of the manifest, by id; ``title`` names the bars.

    Raises
    ------
    UserError
        Audio or a model is not to be had, or the strong encoder has too few blocks.
    """
    if extractor.kind == "combined":
        return _combined([(part, features_of(part, sources, title)) for part in extractor.parts])
    if extractor.kind == "encoder":
        return _encoder(extractor, sources)
    if extractor.kind == "hf":
        return _hf(extractor, sources.manifest, title)
    if extractor.kind == "logmel":
        return _logmel(extractor, sources, title)
    return plain_features(extractor, sources.manifest, sources.transcripts, title)


def _combined(parts: Sequence[tuple[Single, Features]]) -> Features:
    for rows in zip(*(features for _, features in parts), strict=True):
        made = [as_vector(part, feature) for (part, _), (_, feature) in zip(parts, rows, strict=True)]
        yield rows[0][0], side_by_side(made)


def _encoder(extractor: BlocksExtractor, sources: Sources) -> Features:
    if extractor.blocks is None:
        yield from sources.encodings(extractor.whole)
        return
    check_blocks(sources.dims[extractor.arm].audio_layers, extractor.blocks)
    for id_, states in sources.encodings(extractor.whole):
        yield id_, states[:, : extractor.blocks + 1]


def _hf(extractor: HfExtractor, manifest: pd.DataFrame, title: str) -> Features:
    store, keys, rows = ContentStore(), hf_keys(extractor), utterances(manifest)
    source = load_hf(extractor.model)

    def make(row: Utterance) -> np.ndarray:
        states = source.feature(row.load_or_raise(store), extractor.pool)
        store.write_encoding(store.encoding_path(row.sha256, *keys), states)
        return states

    lacking = [row for row in rows if not store.encoding_path(row.sha256, *keys).is_file()]
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in progress(pool.map(lambda row: make(row).shape, lacking), title, len(lacking)):
            pass
    for row in rows:
        states = store.read_encoding(store.encoding_path(row.sha256, *keys))
        yield row.id, make(row) if states is None else states


def _logmel(extractor: LogMelExtractor, sources: Sources, title: str) -> Features:
    store, decode = ContentStore(), sources.references["weak"].decode
    for row in progress(utterances(sources.manifest), title):
        audio = row.load_or_raise(store)
        yield row.id, pool_mel(weak_mel(audio, decode, sources.dims["weak"].n_mels), audio.size, extractor)

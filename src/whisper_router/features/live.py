"""Features of an encoder that are not in shards: from the content store, or encoded when they are read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_router.asr.reference import ArmReference
from whisper_router.features.extractors import extractor_identity, pool_states
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.store import FeatureIndex, FeatureReader
from whisper_router.labelling import WORKERS, Work, utterances
from whisper_router.store import ContentStore


class LiveReader(FeatureIndex):
    """Reads an encoder's states by utterance.

    A stored extractor's come from the content store, and are encoded where it has lost them; another's are
    always encoded, each utterance by itself, so that they depend on nothing but the audio.

    Parameters
    ----------
    folder : Path
        The extractor's index.
    manifest : DataFrame
        Where the audio of each utterance lies.
    """

    def __init__(
        self, folder: Path, extractor: EncoderExtractor, reference: ArmReference, manifest: pd.DataFrame
    ) -> None:
        super().__init__(folder, extractor_identity(extractor, reference.spec()))
        self._options, self._reference = extractor, reference
        self._rows = {row.id: row for row in utterances(manifest)}
        self._work = Work(reference.sha256, reference.decode, False, (extractor,))
        self._store = ContentStore()
        self._checked: set[str] = set()
        self._load = cache(reference.load)

    def batch(self, utterances: Sequence[str]) -> list[np.ndarray]:
        """Features of some utterances, shape (frames, layers, width), float16.

        Raises
        ------
        UserError
            The audio of an utterance is not to be had any more.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            if not self._options.is_stored:
                return self._encode(utterances, pool)
            read = zip(utterances, pool.map(self._stored, utterances), strict=True)
            found = {id_: states for id_, states in read if states is not None}
            lost = [id_ for id_ in dict.fromkeys(utterances) if id_ not in found]
            made = dict(zip(lost, self._encode(lost, pool), strict=True))
            return [made[id_] if id_ in made else found[id_] for id_ in utterances]

    def _stored(self, utterance: str) -> np.ndarray | None:
        path = self._work.encoding_path(self._store, self._rows[utterance].sha256, self._options)
        states = self._store.read_encoding(path, check=utterance not in self._checked)
        if states is not None:
            self._checked.add(utterance)
        return states

    def _encode(self, utterances: Sequence[str], pool: ThreadPoolExecutor) -> list[np.ndarray]:
        if not utterances:
            return []
        arm = self._load()

        def encode(id_: str) -> np.ndarray:
            audio = self._rows[id_].load_or_raise(self._store)
            return pool_states(arm.encode_audio([audio]).states, 0, audio.size, self._options)

        return list(pool.map(encode, utterances))


Reader = FeatureReader | LiveReader

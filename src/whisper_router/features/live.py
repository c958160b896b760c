"""Features that are not stored: from the content store where they lie, else encoded when they are read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_router.asr.arm import Arm
from whisper_router.asr.reference import ArmReference
from whisper_router.errors import UserError
from whisper_router.features.extractors import extractor_identity, pool_states
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.store import FeatureIndex
from whisper_router.labelling import WORKERS, Utterance, Work, utterances
from whisper_router.store import ContentStore


class LiveReader(FeatureIndex):
    """Reads an encoder's states by utterance from the audio.

    Parameters
    ----------
    manifest : DataFrame
        Where the audio of each utterance lies.
    """

    def __init__(
        self,
        folder: Path,
        extractor: EncoderExtractor,
        reference: ArmReference,
        manifest: pd.DataFrame,
        batch_size: int,
    ) -> None:
        super().__init__(folder, extractor_identity(extractor, reference.spec()))
        self._options, self._reference, self._batch_size = extractor, reference, batch_size
        self._rows = {row.id: row for row in utterances(manifest)}
        self._work = Work(reference.sha256, reference.decode, False, (extractor,))
        self._store = ContentStore()
        self._checked: set[str] = set()

    @cached_property
    def _arm(self) -> Arm:
        return self._reference.load()

    def batch(self, utterances: Sequence[str]) -> list[np.ndarray]:
        """Features of some utterances, shape (frames, layers, width), float16.

        Raises
        ------
        UserError
            The audio of an utterance is not to be had any more.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            found = dict(zip(utterances, pool.map(self._stored, utterances), strict=True))
            missing = [self._rows[id_] for id_, states in found.items() if states is None]
            for made in pool.map(self._encode, self._work.batches(missing, self._batch_size)):
                found.update(made)
        return [states for states in found.values() if states is not None]

    def _stored(self, utterance: str) -> np.ndarray | None:
        path = self._work.encoding_path(self._store, self._rows[utterance].sha256, self._options)
        states = self._store.read_encoding(path, check=utterance not in self._checked)
        if states is not None:
            self._checked.add(utterance)
        return states

    def _encode(self, rows: Sequence[Utterance]) -> dict[str, np.ndarray]:
        audios = []
        for row in rows:
            audio = row.load()
            if isinstance(audio, str):
                raise UserError(f"{row.id}: {audio}")
            audios.append(audio)
        states = self._arm.encode_audio(audios).states
        return {
            row.id: pool_states(states, i, audio.size, self._options)
            for i, (row, audio) in enumerate(zip(rows, audios, strict=True))
        }

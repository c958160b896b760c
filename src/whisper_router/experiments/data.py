"""What the experiments read: labels, transcripts and features of the DAG's utterances."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_router.asr.reference import ArmReference, arm_references
from whisper_router.cost import Dims
from whisper_router.errors import UserError
from whisper_router.experiments.candidates import EXTRACTORS, TAGS, Part
from whisper_router.experiments.tags import speaker_tags
from whisper_router.features.collate import Features, Sources, features_of
from whisper_router.features.combined import over_time, over_time_macs, side_by_side
from whisper_router.features.hypothesis import CONFIDENCE_NAMES
from whisper_router.features.kinds import FRAMED
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.reading import identity_of, specs_of
from whisper_router.features.signal import SIGNAL_NAMES
from whisper_router.features.store import FeatureReader, write_features
from whisper_router.files import read_json, read_parquet, replacing
from whisper_router.hashing import digest
from whisper_router.labelling import Work, compute, plan_work, reference_texts, utterances
from whisper_router.paths import ARMS, DATA, LABELS, MANIFEST, TRANSCRIPTS
from whisper_router.reference import measured
from whisper_router.scoring import normalise
from whisper_router.store import ContentStore

WORK = DATA / "experiments"
BATCH_SIZE = 16
NAMES = {"signal": SIGNAL_NAMES, "confidence": CONFIDENCE_NAMES}
OVER_TIME = {name for name, options in EXTRACTORS.items() if options.kind in FRAMED}


@dataclass(frozen=True)
class Corpus:
    """Labelled utterances, row by row."""

    labels: pd.DataFrame
    manifest: pd.DataFrame
    transcripts: pd.DataFrame
    references: dict[str, ArmReference]
    dims: dict[str, Dims]

    @classmethod
    def load(cls) -> "Corpus":
        """Read the outputs of label.

        Raises
        ------
        UserError
            label has not run.
        """
        for path in (LABELS, TRANSCRIPTS, MANIFEST, ARMS):
            if not path.exists():
                raise UserError(f"{path}: not there yet; run `whisper-router run` first")
        labels = measured(read_parquet(LABELS)).reset_index(drop=True)
        manifest = read_parquet(MANIFEST).set_index("id").loc[labels["id"]].reset_index()
        transcripts = read_parquet(TRANSCRIPTS)
        texts = reference_texts(manifest, transcripts)
        labels = labels.assign(text=[normalise(texts[id_]) for id_ in labels["id"]])
        arms = read_json(ARMS)
        dims = {name: Dims(**arm["dims"]) for name, arm in arms.items()}
        return cls(labels, manifest, transcripts, arm_references(arms), dims)

    @cached_property
    def tags(self) -> pd.DataFrame:
        """What is known of the speakers, one-hot."""
        return speaker_tags(self.manifest)

    @property
    def tagged(self) -> np.ndarray:
        """Whose corpus has such tags, shape (utterances,), bool."""
        corpora = self.manifest["corpus"].to_numpy()
        known = self.tags.to_numpy().any(axis=1)
        return np.isin(corpora, corpora[known])

    @cached_property
    def gains(self) -> np.ndarray:
        """Errors of the weak arm less those of the strong, shape (utterances,)."""
        found: np.ndarray = (self.labels["errors_weak"] - self.labels["errors_strong"]).to_numpy()
        return found


def folder_of(name: str) -> Path:
    """Where an extractor's features lie."""
    return WORK / "features" / name


def featurize(corpus: Corpus, names: Sequence[str]) -> None:
    """Write the features that are not there yet; encodings come from the content store where it has them."""
    for name in names:
        identity = _identity(corpus, name)
        identity["utterances"] = digest(corpus.manifest["sha256"].tolist())
        folder = folder_of(name)
        if not folder.exists() or read_json(folder / "extractor.json") != identity:
            write_features(folder, _features(corpus, name), identity)


def _identity(corpus: Corpus, name: str) -> dict[str, object]:
    if name == TAGS:
        return {"kind": TAGS, "values": digest([list(corpus.tags), corpus.tags.to_numpy().tolist()])}
    return identity_of(EXTRACTORS[name], specs_of(corpus.references))


def _features(corpus: Corpus, name: str) -> Features:
    if name == TAGS:
        return iter(zip(corpus.manifest["id"], corpus.tags.to_numpy()[:, None], strict=True))
    encodings = partial(_encodings, corpus, f"experiments: {name}")
    sources = Sources(corpus.manifest, corpus.transcripts, corpus.references, corpus.dims, encodings)
    return features_of(EXTRACTORS[name], sources, f"experiments: {name}")


def _encodings(corpus: Corpus, title: str, options: EncoderExtractor) -> Features:
    reference, store, rows = corpus.references[options.arm], ContentStore(), utterances(corpus.manifest)
    work = Work(reference.sha256, reference.decode, False, (options,))
    batches = plan_work(rows, work, store, BATCH_SIZE)
    if batches:
        errors = compute(reference.load(), batches, work, store, title)
        if errors:
            raise UserError("; ".join(f"{id_}: {reason}" for id_, reason in sorted(errors.items())))
    for row in rows:
        states = store.read_encoding(work.encoding_path(store, row.sha256, options))
        if states is None:
            raise UserError(f"{row.id}: the content store lost its encoding; run again")
        yield row.id, states


@cache
def open_reader(name: str) -> FeatureReader:
    """The features of an extractor, mapped into memory."""
    return FeatureReader(folder_of(name))


def _vector(part: Part, feature: np.ndarray) -> np.ndarray:
    """What a part says of one utterance."""
    if part.extractor not in OVER_TIME:
        names = NAMES.get(part.extractor, ())
        columns = [names.index(column) for column in part.columns] or slice(None)
        vector: np.ndarray = feature[0, columns]
        return vector
    last = part.columns == ("last",)
    return over_time(feature[:, -1:] if last else feature[:, : part.states])


def pool_parts(parts: Sequence[Part], utterance: str) -> np.ndarray:
    """One utterance's vector, shape (1, width), float32."""
    return side_by_side([_vector(part, open_reader(part.extractor)[utterance]) for part in parts])


class PooledReader(FeatureReader):
    """One vector an utterance: mean and deviation of each part's features, side by side; made once."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = [(part, open_reader(part.extractor)) for part in parts]
        self.extractor = {"parts": [[repr(part), reader.extractor] for part, reader in self._parts]}
        ids = self._parts[0][1].ids
        self._rows = {id_: row for row, id_ in enumerate(ids)}
        path = WORK / "vectors" / f"{digest(self.extractor)}.npy"
        if not path.exists():
            made = np.concatenate([pool_parts(parts, id_) for id_ in ids])
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, made)
        self._vectors = np.load(path, mmap_mode="r")

    def __getitem__(self, utterance: str) -> np.ndarray:
        row = self._rows[utterance]
        vector: np.ndarray = self._vectors[row : row + 1]
        return vector

    def frames(self, utterance: str) -> int:
        """One: a vector."""
        return 1

    def sha256(self, utterance: str) -> str:
        """Hash of the vector."""
        return hashlib.sha256(self[utterance].tobytes()).hexdigest()

    def pooling_macs(self, utterance: str) -> int:
        """Products of the pooling."""
        total = 0
        for part, reader in self._parts:
            if part.extractor in OVER_TIME:
                shape = reader[utterance].shape
                states = 1 if part.columns == ("last",) else part.states or shape[1]
                total += over_time_macs(shape[0], states * shape[2])
        return total

"""The corpus, its folds, and what a candidate's folds amount to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whisper_router.decider.folds import Fold, speaker_folds
from whisper_router.evaluation import Pair, build_pair
from whisper_router.experiments.candidates import Candidate
from whisper_router.experiments.data import Corpus
from whisper_router.experiments.training import Job, Trained


@dataclass(frozen=True)
class Setting:
    """The corpus, its pair and the outer folds."""

    corpus: Corpus
    pair: Pair
    folds: list[Fold]
    number: np.ndarray  # of the fold that tests each utterance
    seed: int

    @classmethod
    def of(cls, corpus: Corpus, folds: int, seed: int) -> "Setting":
        """Folds over the speakers."""
        pair = build_pair(corpus.labels, corpus.transcripts, corpus.dims)
        parts = speaker_folds(corpus.labels, folds, seed)
        number = np.empty(len(corpus.labels), dtype=int)
        for i, fold in enumerate(parts):
            number[fold.test] = i
        return cls(corpus, pair, parts, number, seed)

    def job(self, candidate: Candidate, fold: Fold) -> Job:
        """A candidate on a fold."""
        labels = self.corpus.labels
        return Job(candidate, fold, labels["id"].to_numpy(), labels["label"].to_numpy(), self.corpus.gains)

    def inner(self, outer: Fold, folds: int) -> list[Fold]:
        """Folds of what an outer fold may learn from."""
        rows = np.sort(np.concatenate([outer.train, outer.dev]))
        table = self.corpus.labels.iloc[rows].reset_index(drop=True)
        parts = speaker_folds(table, folds, self.seed)
        return [Fold(rows[part.train], rows[part.dev], rows[part.test]) for part in parts]


@dataclass(frozen=True)
class Outer:
    """A candidate's out-of-fold results."""

    scores: np.ndarray
    macs: dict[str, np.ndarray]
    parameters: int
    seconds: float
    trainings: list[Trained]


def gather(setting: Setting, trained: Sequence[Trained]) -> Outer:
    """Put the folds of a candidate together."""
    n = len(setting.number)
    scores, macs = np.empty(n), {"macs": np.empty(n), "macs_paper": np.empty(n)}
    for fold, one in zip(setting.folds, trained, strict=True):
        scores[fold.test] = one.scores
        macs["macs"][fold.test], macs["macs_paper"][fold.test] = one.macs, one.paper_macs
    return Outer(scores, macs, trained[0].parameters, sum(one.seconds for one in trained), list(trained))

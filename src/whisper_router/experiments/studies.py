"""How a decider does with less data, and on a corpus that it has not seen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whisper_router.decider.folds import Fold, speaker_folds
from whisper_router.evaluation import auroc
from whisper_router.experiments.candidates import Candidate
from whisper_router.experiments.setting import Outer, Setting, gather
from whisper_router.experiments.training import run_here

PARTS = (0.25, 0.5, 0.75)  # of the training speakers, for the learning curve


def _number(value: float) -> float | None:
    """To 4 decimals; None where there is none, of a part with one class."""
    return round(float(value), 4) if np.isfinite(value) else None


def fewer(setting: Setting, fold: Fold, part: float) -> Fold:
    """A fold that learns from part of its training speakers."""
    speakers = setting.corpus.labels["speaker"].to_numpy()
    found = np.unique(speakers[fold.train])
    kept = np.random.default_rng(setting.seed).permutation(found)[: max(2, round(part * len(found)))]
    return Fold(fold.train[np.isin(speakers[fold.train], kept)], fold.dev, fold.test)


def learning_curve(setting: Setting, candidate: Candidate, whole: Outer) -> list[dict[str, Any]]:
    """AUROC of a candidate by how much it learns from."""
    parts = [[fewer(setting, fold, part) for fold in setting.folds] for part in PARTS]
    made = iter(run_here([setting.job(candidate, fold) for folds in parts for fold in folds]))
    outers = [gather(setting, [next(made) for _ in folds]) for folds in parts]
    sizes = [*parts, setting.folds]
    masks = {
        str(name): (setting.corpus.labels["corpus"] == name).to_numpy()
        for name in sorted(setting.corpus.labels["corpus"].unique())
    }
    rows = []
    for part, folds, outer in zip((*PARTS, 1.0), sizes, [*outers, whole], strict=True):
        weights = np.stack([np.ones(len(setting.number)), *(mask.astype(float) for mask in masks.values())])
        found = auroc(setting.pair.label, outer.scores, weights, setting.number)
        named = zip(["all", *masks], found, strict=True)
        rows.append(
            {
                "part": part,
                "utterances": round(float(np.mean([len(fold.train) for fold in folds]))),
                "auroc": {name: _number(value) for name, value in named},
            }
        )
    return rows


def per_doubling(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """What twice as many utterances add to the AUROC: least squares over the learning curve."""
    sizes = np.log2([row["utterances"] for row in rows])
    result = {}
    for name in rows[0]["auroc"]:
        values = [row["auroc"][name] for row in rows]
        known = all(value is not None for value in values) and len(set(sizes)) > 1
        result[name] = _number(np.polyfit(sizes, values, 1)[0]) if known else None
    return result


def across(setting: Setting, tried: Sequence[Candidate], outer: dict[str, Outer]) -> list[dict[str, Any]]:
    """Learn from one corpus, be tested on each other; beside it the AUROC of who learns from all."""
    corpora = setting.corpus.labels["corpus"].to_numpy()
    names = sorted(set(corpora))
    pairs = [
        (one, source, target) for one in tried for source in names for target in names if source != target
    ]
    folds = []
    for _, source, target in pairs:
        inside = np.flatnonzero(corpora == source)
        table = setting.corpus.labels.iloc[inside].reset_index(drop=True)
        part = speaker_folds(table, 5, setting.seed)[0]
        train, dev = np.concatenate([part.train, part.test]), part.dev
        folds.append(Fold(inside[train], inside[dev], np.flatnonzero(corpora == target)))
    made = run_here([setting.job(one, fold) for (one, _, _), fold in zip(pairs, folds, strict=True)])
    rows = []
    for (one, source, target), fold, trained in zip(pairs, folds, made, strict=True):
        label = setting.pair.label[fold.test]
        alone = auroc(label, trained.scores, np.ones((1, len(label))))
        mixed = auroc(
            label, outer[one.name].scores[fold.test], np.ones((1, len(label))), setting.number[fold.test]
        )
        rows.append(
            {
                "candidate": one.name,
                "train": str(source),
                "test": str(target),
                "auroc": _number(alone[0]),
                "auroc_all": _number(mixed[0]),
            }
        )
    return rows

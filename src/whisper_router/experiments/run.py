"""whisper-router experiments: cross-validate the candidates, choose among them, compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from whisper_router.crossval import Fold, speaker_folds
from whisper_router.evaluation import Pair, auroc, build_pair, choices
from whisper_router.experiments.candidates import (
    BEFORE,
    CHOICES,
    DURATION,
    NOT_MEASURED,
    PAPER,
    SNR,
    Candidate,
    candidates,
)
from whisper_router.experiments.data import Corpus, featurize
from whisper_router.experiments.figures import blocks_pair, differences, ends, figures
from whisper_router.experiments.seconds import measure_seconds
from whisper_router.experiments.training import Job, Trained, reader_of, run_jobs

INNER = 3  # folds of the choice among configurations
PARTS = (0.25, 0.5, 0.75)  # of the training speakers, for the learning curve

Curves = dict[str, pd.DataFrame]


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


def inner_auroc(setting: Setting, folds: Sequence[Fold], trained: Sequence[Trained]) -> float:
    """AUROC within the inner test folds."""
    rows = np.concatenate([fold.test for fold in folds])
    scores = np.concatenate([one.scores for one in trained])
    number = np.repeat(np.arange(len(folds)), [len(fold.test) for fold in folds])
    label = setting.pair.label[rows]
    return float(auroc(label, scores, np.ones((1, len(rows))), number)[0])


def nested(setting: Setting, tried: Sequence[Candidate], outer: dict[str, Outer]) -> dict[str, Any]:
    """For each choice: what inner folds choose in each outer fold, and the scores that it gives there."""
    inner = [setting.inner(fold, INNER) for fold in setting.folds]
    jobs = [setting.job(one, part) for one in tried for folds in inner for part in folds]
    made = iter(run_jobs(jobs))
    values = {
        one.name: [inner_auroc(setting, folds, [next(made) for _ in folds]) for folds in inner]
        for one in tried
    }
    result: dict[str, Any] = {"trainings": len(jobs), "choices": {}}
    for choice, groups in CHOICES.items():
        names = [one.name for one in tried if one.group in groups]
        if not names:
            continue
        chosen = [max(names, key=lambda name: values[name][i]) for i in range(len(inner))]
        scores = np.empty(len(setting.number))
        macs = {currency: np.empty(len(scores)) for currency in ("macs", "macs_paper")}
        for fold, name in zip(setting.folds, chosen, strict=True):
            scores[fold.test] = outer[name].scores[fold.test]
            for currency, values_ in macs.items():
                values_[fold.test] = outer[name].macs[currency][fold.test]
        result["choices"][choice] = {
            "configurations": names,
            "chosen": chosen,
            "scores": scores,
            "macs": macs,
        }
    return result


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
    made = iter(run_jobs([setting.job(candidate, fold) for folds in parts for fold in folds]))
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
    made = run_jobs([setting.job(one, fold) for (one, _, _), fold in zip(pairs, folds, strict=True)])
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


def plain_lines(pair: Pair) -> dict[str, dict[str, float]]:
    """WER and cost of always-weak, always-strong, oracle and post-hoc."""
    made = choices(pair, np.zeros(len(pair.label), dtype=bool), pair.weak)
    words = pair.words.sum()
    return {
        name: {
            "wer": round(float(made[name].errors.sum() / words), 6),
            **{
                currency: round(float(made[name].cost[currency].sum() / pair.strong[currency].sum()), 6)
                for currency in ("macs", "macs_paper")
            },
        }
        for name in ("weak", "strong", "oracle", "posthoc")
    }


def experiment(
    folds: int = 5, seed: int = 0, tried: Sequence[Candidate] | None = None
) -> tuple[dict[str, Any], Curves, Pair]:
    """Cross-validate and compare; returns the figures, the curves and the pair.

    Raises
    ------
    UserError
        label has not run, or the corpus holds too few speakers.
    """
    torch.set_num_threads(1)
    found = list(candidates() if tried is None else tried)
    corpus = Corpus.load()
    featurize(corpus, list(dict.fromkeys(part.extractor for one in found for part in one.parts)))
    for one in found:
        reader_of(one)  # its vectors are made once, before processes share them
    setting = Setting.of(corpus, folds, seed)
    pair, labels = setting.pair, corpus.labels
    made = iter(run_jobs([setting.job(one, fold) for one in found for fold in setting.folds]))
    outer = {one.name: gather(setting, [next(made) for _ in setting.folds]) for one in found}
    by_name = {one.name: one for one in found}

    rows: dict[str, Any] = {}
    curves: Curves = {}
    strong = corpus.transcripts[corpus.transcripts["arm"] == "strong"].set_index("id").loc[labels["id"]]
    contexts = np.array([int(attempts[0]) for attempts in strong["attempt_contexts"]])
    for one in found:
        own = pair if one.blocks is None else blocks_pair(pair, corpus.dims["strong"], one.blocks, contexts)
        result = outer[one.name]
        rows[one.name], curves[one.name] = figures(
            one, own, labels, result.scores, setting.number, result.macs
        )
        rows[one.name] |= {
            "options": one.options.model_dump(mode="json", exclude={"extractor"}),
            "parts": [repr(part) for part in one.parts],
            "parameters": result.parameters,
            "training_seconds": round(result.seconds, 1),
        }
    chosen = nested(setting, [one for one in found if one.nested], outer)
    best = {}
    for choice, made_ in chosen["choices"].items():
        first = replace(by_name[made_["chosen"][0]], group=choice)
        row, line = figures(first, pair, labels, made_["scores"], setting.number, made_["macs"])
        hindsight = max(made_["configurations"], key=lambda name: rows[name]["auroc"]["all"]["value"])
        best[choice] = {**row, "chosen": made_["chosen"], "hindsight": hindsight}
        curves[f"{choice}, chosen in inner folds"] = line
    compared = {}
    rivals = [name for name in (SNR, DURATION) if name in outer]
    paper = [one.name for one in found if one.group == PAPER]
    for choice, made_ in chosen["choices"].items():
        others = {name: outer[name].scores for name in [*rivals, *paper]}
        compared[choice] = differences(pair, setting.number, made_["scores"], others) if others else {}
    for name in (one.name for one in found if one.group == BEFORE):
        others = {rival: outer[rival].scores for rival in rivals}
        compared[name] = differences(pair, setting.number, outer[name].scores, others) if others else {}
    hindsights = [by_name[row["hindsight"]] for row in best.values()]
    corpora = labels["corpus"].nunique()
    domains = across(setting, hindsights, outer) if corpora > 1 else []
    learning = {one.name: learning_curve(setting, one, outer[one.name]) for one in hindsights}
    weak, always = ends(pair)
    report = {
        "arms": {name: reference.model for name, reference in corpus.references.items()},
        "corpus": {
            "utterances": len(labels),
            "speakers": pair.n_speakers,
            "minutes": round(float(labels["duration_s"].sum()) / 60, 1),
            "names": {str(name): int(count) for name, count in labels["corpus"].value_counts().items()},
            "need_strong": round(float(pair.label.mean()), 4),
            "train": [len(fold.train) for fold in setting.folds],
        },
        "folds": folds,
        "inner": INNER,
        "seed": seed,
        "wer": {"weak": round(float(weak), 6), "strong": round(float(always), 6)},
        "lines": plain_lines(pair),
        "candidates": rows,
        "best": best,
        "differences": compared,
        "learning_curve": learning,
        "per_doubling": {name: per_doubling(points) for name, points in learning.items()},
        "across": domains,
        "not_measured": NOT_MEASURED,
        "compute": {
            "configurations": len(found),
            "in the choice": sum(one.nested for one in found),
            "trainings": len(found) * folds + chosen["trainings"],
            "training_seconds": round(sum(one.seconds for one in outer.values()), 1),
        },
        "seconds": measure_seconds(setting.corpus, found, setting.job(found[0], setting.folds[0])),
    }
    return report, curves, pair

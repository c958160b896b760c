"""whisper-router experiments: cross-validate the candidates, choose among them, compare."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mode
from typing import Any

import numpy as np
import pandas as pd
import torch

from whisper_router.decider.folds import Fold
from whisper_router.evaluation import Pair, auroc, choices
from whisper_router.experiments.candidates import (
    BEFORE,
    CHOICES,
    DURATION,
    NO_TAGS,
    NOT_MEASURED,
    PAPER,
    SNR,
    SPEAKER,
    TAGS,
    Candidate,
    candidates,
)
from whisper_router.experiments.data import Corpus, featurize
from whisper_router.experiments.figures import differences, ends, figures
from whisper_router.experiments.seconds import measure_seconds
from whisper_router.experiments.setting import Outer, Setting, gather
from whisper_router.experiments.studies import across, learning_curve, per_doubling
from whisper_router.experiments.training import Trained, reader_of, run_jobs

INNER = 3  # folds of the choice among configurations

Curves = dict[str, pd.DataFrame]


def inner_auroc(setting: Setting, folds: Sequence[Fold], trained: Sequence[Trained]) -> float:
    """AUROC within the inner test folds."""
    rows = np.concatenate([fold.test for fold in folds])
    scores = np.concatenate([one.scores for one in trained])
    number = np.repeat(np.arange(len(folds)), [len(fold.test) for fold in folds])
    label = setting.pair.label[rows]
    return float(auroc(label, scores, np.ones((1, len(rows))), number)[0])


def nested(
    setting: Setting,
    tried: Sequence[Candidate],
    outer: dict[str, Outer],
    inner: Sequence[Sequence[Fold]],
    trained: Sequence[Trained],
) -> dict[str, Any]:
    """For each choice: what inner folds choose in each outer fold, and the scores that it gives there.

    Parameters
    ----------
    inner : sequence of sequence of Fold
        The inner folds of each outer fold.
    trained : sequence of Trained
        Every candidate on every inner fold, in that order.
    """
    made = iter(trained)
    values = {
        one.name: [inner_auroc(setting, folds, [next(made) for _ in folds]) for folds in inner]
        for one in tried
    }
    result: dict[str, Any] = {"trainings": len(trained), "choices": {}}
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
    corpus = Corpus.load()
    tags = bool(corpus.tags.shape[1])
    found = list(candidates(tags) if tried is None else tried)
    featurize(corpus, list(dict.fromkeys(part.extractor for one in found for part in one.parts)))
    for one in found:
        reader_of(one)  # its vectors are made once, before processes share them
    setting = Setting.of(corpus, folds, seed)
    pair, labels = setting.pair, corpus.labels
    choosable = [one for one in found if one.nested]
    inner = [setting.inner(fold, INNER) for fold in setting.folds]
    jobs = [setting.job(one, fold) for one in found for fold in setting.folds]
    trained = run_jobs(
        [*jobs, *(setting.job(one, part) for one in choosable for parts in inner for part in parts)]
    )
    made = iter(trained[: len(jobs)])
    outer = {one.name: gather(setting, [next(made) for _ in setting.folds]) for one in found}
    by_name = {one.name: one for one in found}

    rows: dict[str, Any] = {}
    curves: Curves = {}
    for one in found:
        result = outer[one.name]
        tagged = corpus.tagged if any(part.extractor == TAGS for part in one.parts) else None
        rows[one.name], curves[one.name] = figures(
            one, pair, labels, result.scores, setting.number, result.macs, tagged
        )
        rows[one.name] |= {
            "options": one.options.model_dump(mode="json", exclude={"extractor"}),
            "parts": [repr(part) for part in one.parts],
            "parameters": result.parameters,
            "training_seconds": round(result.seconds, 1),
        }
    chosen = nested(setting, choosable, outer, inner, trained[len(jobs) :])
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
    names = [name for row in best.values() for name in (row["hindsight"], mode(row["chosen"]))]
    studied = {name: by_name[name] for name in names}
    corpora = labels["corpus"].nunique()
    domains = across(setting, list(studied.values()), outer) if corpora > 1 else []
    learning = {name: learning_curve(setting, one, outer[name]) for name, one in studied.items()}
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
        "not_measured": NOT_MEASURED if tags else {SPEAKER: NO_TAGS, **NOT_MEASURED},
        "compute": {
            "configurations": len(found),
            "in the choice": len(choosable),
            "trainings": len(found) * folds + chosen["trainings"],
            "training_seconds": round(sum(one.seconds for one in outer.values()), 1),
        },
        "seconds": measure_seconds(setting.corpus, found, setting.job(found[0], setting.folds[0])),
    }
    return report, curves, pair

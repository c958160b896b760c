"""Figures of a candidate over its out-of-fold scores."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from whisper_router.decider.calibration import expected_calibration_error, reliability
from whisper_router.evaluation import Pair, Spent, auroc, routed_cost, with_intervals
from whisper_router.experiments.candidates import Candidate

RESAMPLES = 1000
SHARES = np.arange(101) / 100  # of utterances sent to the strong arm
SHOWN = (0.2, 0.4, 0.5, 0.6, 0.8)
SPANS = (0.2, 0.5, 0.8)  # of the cost from always-weak to always-strong
RECOVERED = (0.5, 0.8, 0.95)  # of the WER gap, for CPT (RouteLLM, arXiv 2406.18665)


def ranks(scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Share of the own fold that an utterance is sent to strong after, in [0, 1): deciders differ by fold."""
    result = np.empty(len(scores))
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        order = rows[np.argsort(-scores[rows], kind="stable")]
        result[order] = np.arange(len(rows)) / len(rows)
    return result


def curve(pair: Pair, scores: np.ndarray, folds: np.ndarray, spent: Spent) -> pd.DataFrame:
    """WER, and cost in every currency as a share of always-strong's, at each share sent to strong."""
    place = ranks(scores, folds)
    rows = []
    for share in SHARES:
        strong = place < share - 1e-9
        errors = np.where(strong, pair.strong_errors, pair.weak_errors)
        cost = routed_cost(pair, strong, spent)
        shares = {name: cost[name].sum() / pair.strong[name].sum() for name in cost}
        rows.append({"share": share, "wer": errors.sum() / pair.words.sum(), **shares})
    return pd.DataFrame(rows)


def ends(pair: Pair) -> tuple[float, float]:
    """WER of always-weak and of always-strong."""
    words = pair.words.sum()
    return pair.weak_errors.sum() / words, pair.strong_errors.sum() / words


def _gap(line: pd.DataFrame, pair: Pair) -> dict[str, Any]:
    """How much of the WER gap is recovered for what; null where the arms do not differ."""
    weak, strong = ends(pair)
    if weak <= strong:
        return {"apgr": None, "cpt": None, "recovered": None}
    recovered = ((weak - line["wer"]) / (weak - strong)).to_numpy()
    cpt = {}
    for wanted in RECOVERED:
        reached = np.flatnonzero(recovered >= wanted - 1e-9)
        cpt[f"{wanted:g}"] = float(SHARES[reached[0]]) if reached.size else None
    whole = np.flatnonzero(recovered >= 1 - 1e-9)
    cpt["1"] = float(SHARES[whole[0]]) if whole.size else None
    spans = {}
    least = pair.weak["macs"].sum() / pair.strong["macs"].sum()
    for part in SPANS:
        affordable = line["macs"].to_numpy() <= least + part * (1 - least)
        spans[f"{part:g}"] = round(float(recovered[affordable][-1]), 4) if affordable.any() else None
    return {"apgr": round(float(recovered.mean()), 4), "cpt": cpt, "recovered": spans}


def ranking(
    pair: Pair, labels: pd.DataFrame, scores: np.ndarray, folds: np.ndarray, tagged: np.ndarray | None = None
) -> dict[str, Any]:
    """AUROC within folds, of all and of each corpus, with intervals over speakers.

    ``tagged``, shape (utterances,): whose corpus has tags that the scores go by; it is compared within each
    such corpus and not across, since which corpus it is says more than an accent.
    """
    names = sorted(labels["corpus"].unique())
    corpora = {str(name): (labels["corpus"] == name).to_numpy() for name in names}
    parts, known = folds, np.ones(len(scores))
    if tagged is not None:
        parts = folds * len(names) + labels["corpus"].map(names.index).to_numpy()
        known = tagged.astype(float)

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        counted = weights * known
        inside = {name: auroc(pair.label, scores, counted * mask, parts) for name, mask in corpora.items()}
        return {"all": auroc(pair.label, scores, counted, parts), **inside}

    return with_intervals(measure, pair.speakers, RESAMPLES, 0)


def figures(
    candidate: Candidate,
    pair: Pair,
    labels: pd.DataFrame,
    scores: np.ndarray,
    folds: np.ndarray,
    macs: Mapping[str, np.ndarray],
    tagged: np.ndarray | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """A candidate's row of the table, and its curve.

    Parameters
    ----------
    scores, folds : ndarray
        Out-of-fold scores and the number of the fold, shape (utterances,).
    macs : mapping
        Currency -> the decider's own products, shape (utterances,).
    tagged : ndarray, optional
        Of a candidate that reads tags: whose corpus has any, shape (utterances,).
    """
    line = curve(pair, scores, folds, Spent(candidate.reads, macs, candidate.blocks))
    label, place = pair.label == 1, ranks(scores, folds)
    thresholds = [*np.unique(scores), np.inf]
    accuracy = [float(((scores >= limit) == label).mean()) for limit in thresholds]
    shown = {
        f"{share:g}": {
            name: round(float(line.loc[round(share * 100), name]), 6)
            for name in ("wer", "macs", "macs_paper")
        }
        for share in SHOWN
    }

    def beyond(weights: np.ndarray) -> dict[str, np.ndarray]:
        words = weights @ pair.words
        made = {}
        for share in SHOWN:
            errors = np.where(place < share - 1e-9, pair.strong_errors, pair.weak_errors)
            made[f"{share:g}"] = weights @ (errors - pair.strong_errors) / words
        return made

    row = {
        "group": candidate.group,
        "reads": candidate.reads,
        "blocks": candidate.blocks,
        "auroc": ranking(pair, labels, scores, folds, tagged),
        "accuracy_best": round(max(accuracy), 6),
        "accuracy_half": round(float(((scores >= 0.5) == label).mean()), 6),
        "ece": expected_calibration_error(scores, pair.label),
        "reliability": reliability(scores, pair.label),
        "at": shown,
        "wer_minus_strong": with_intervals(beyond, pair.speakers, RESAMPLES, 0),
        "decider_macs": {name: round(float(values.mean())) for name, values in macs.items()},
        **_gap(line, pair),
    }
    return row, line


def differences(
    pair: Pair, folds: np.ndarray, scores: np.ndarray, others: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """AUROC of one decider less that of each other, with intervals over speakers."""

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        mine = auroc(pair.label, scores, weights, folds)
        return {name: mine - auroc(pair.label, other, weights, folds) for name, other in others.items()}

    return with_intervals(measure, pair.speakers, RESAMPLES, 0)

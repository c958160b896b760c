"""Policies as candidates of the verdict."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from whisper_router.evaluation import routed_cost
from whisper_router.policy.calibrate import Figure, Policy
from whisper_router.policy.choose import Sample
from whisper_router.policy.folds import part_of
from whisper_router.policy.make import metrics_at
from whisper_router.verdict import Candidate, FoldCandidates

Array = np.ndarray


def _known(figures: Mapping[str, Figure]) -> tuple[float, dict[str, float]]:
    """The upper end of the rise in WER above always-strong's, and savings by currency."""
    rise = figures["wer_rise"]
    upper = rise.interval[1] if isinstance(rise.interval, tuple) else rise.value
    savings = {
        name.removeprefix("saving_"): figure.value
        for name, figure in figures.items()
        if name.startswith("saving_") and figure.value is not None
    }
    return float("inf") if upper is None else upper, savings


def candidate(policy: Policy, sample: Sample, threshold: float | Array) -> Candidate:
    """A policy on labelled utterances.

    Parameters
    ----------
    threshold : float or ndarray
        What scores are compared with: one, or one for each utterance.
    """
    strong = sample.scores >= threshold
    return Candidate(
        strong, routed_cost(sample.pair, strong, sample.spent), *_known(policy.calibration.figures)
    )


def fold_candidates(
    candidates: Mapping[str, Candidate],
    policies: Mapping[str, Policy],
    scored: Mapping[str, Sample],
    thresholds: Mapping[str, float | Array],
    resamples: int,
    seed: int,
) -> list[FoldCandidates]:
    """The candidates as each fold of cross-validated utterances knows them: by the other folds alone.

    Parameters
    ----------
    candidates, policies, thresholds : mapping
        By the policy's name.
    scored : mapping
        By the decider's name.
    resamples, seed : int
        Of the bootstrap over speakers.

    Returns
    -------
    list of FoldCandidates
        Empty where the utterances are not cross-validated.
    """
    folds = next(iter(scored.values())).folds
    if folds is None:
        return []
    known = []
    for fold in np.unique(folds):
        rows = folds == fold
        others = {name: part_of(sample, np.flatnonzero(~rows)) for name, sample in scored.items()}
        seen = {}
        for name, policy in policies.items():
            threshold = float(np.broadcast_to(thresholds[name], rows.shape)[rows][0])
            figures = metrics_at(others[policy.decider], threshold, 0.0, resamples, seed)
            named = ("wer_rise", *(key for key in figures if key.startswith("saving_")))
            rise, saving = _known({key: Figure.model_validate(figures[key]) for key in named})
            seen[name] = replace(candidates[name], calibration_rise=rise, calibration_saving=saving)
        known.append(FoldCandidates(rows, seen))
    return known

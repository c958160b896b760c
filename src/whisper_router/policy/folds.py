"""Policies of a small corpus: each fold goes by a threshold that was chosen on the other folds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from whisper_router.evaluation import Pair
from whisper_router.policy.calibrate import Policy
from whisper_router.policy.choose import Sample, choose
from whisper_router.policy.options import PolicyOptions

Array = np.ndarray


def _rows_of(value: Any, rows: Array) -> Any:
    if isinstance(value, dict):
        return {key: _rows_of(one, rows) for key, one in value.items()}
    return value[rows]


def part_of(sample: Sample, rows: Array) -> Sample:
    """Some utterances of a sample, by number."""
    pair = sample.pair
    values = {name: _rows_of(value, rows) for name, value in vars(pair).items()}
    values["speakers"] = pd.factorize(pair.speakers[rows])[0]
    spent = replace(sample.spent, decider=_rows_of(sample.spent.decider, rows))
    folds = None if sample.folds is None else sample.folds[rows]
    earlier = sample.earlier if folds is None else sample.scores[rows]
    return Sample(Pair(**values), sample.scores[rows], spent, earlier, folds, sample.reference)


def thresholds(options: PolicyOptions, policy: Policy, sample: Sample) -> float | Array:
    """What the scores of a sample are compared with, so that no figure is of utterances it was chosen on.

    Returns
    -------
    float or ndarray
        The policy's threshold; for cross-validated utterances one for each, shape (utterances,), chosen by
        the policy's options on the utterances of the other folds.
    """
    if sample.folds is None:
        return policy.threshold
    made = np.zeros(len(sample.scores))
    for fold in np.unique(sample.folds):
        others = part_of(sample, np.flatnonzero(sample.folds != fold))
        made[sample.folds == fold] = choose(options, others).threshold
    return made

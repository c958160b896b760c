"""Utterances of one speaker are alike: how much less they say than as many independent ones."""

import numpy as np
from scipy import stats


def design_effect(values: np.ndarray, speakers: np.ndarray) -> float:
    """By how much utterances outnumber the independent draws that they are worth, at least 1.

    1 + (m - 1) rho, with m the mean size of an utterance's speaker and rho the intraclass correlation of the
    values' ranks, by analysis of variance (Kish 1965, Survey Sampling). 1 where all speakers have one
    utterance, or there is only one speaker.

    Parameters
    ----------
    values, speakers : ndarray
        Shape (utterances,).
    """
    sizes = np.unique(speakers, return_counts=True)[1]
    number = np.unique(speakers, return_inverse=True)[1]
    n, k = len(values), len(sizes)
    if k < 2 or k == n:
        return 1.0
    ranks = stats.rankdata(values)
    means = np.bincount(number, ranks) / sizes
    between = (sizes * (means - ranks.mean()) ** 2).sum() / (k - 1)
    within = ((ranks - means[number]) ** 2).sum() / (n - k)
    size = (n - (sizes**2).sum() / n) / (k - 1)
    spread = between + (size - 1) * within
    rho = (between - within) / spread if spread > 0 else 0.0
    return float(1 + ((sizes**2).sum() / n - 1) * max(rho, 0.0))

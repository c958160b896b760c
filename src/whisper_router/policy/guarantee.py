"""Thresholds that keep a promise on new data, from labels that were not used for anything else.

A threshold is tested on a grid that is fixed before any calibration label or score is seen, from the safest
(everything to the strong arm) outward; the first that fails its test ends the sequence, so the probability
that any threshold is accepted wrongly is at most delta (fixed-sequence testing, Bauer 1991; Learn then Test,
Angelopoulos et al. 2021, arXiv 2110.01052). Nothing is assumed of the scores: a decider without skill costs
savings, not the promise. What is assumed is that calibration and later data are independent draws of one
population: of utterances, or, in the versions over speakers, of speakers.
"""

import math

import numpy as np
from scipy.stats import beta, binom

from whisper_router.policy.calibrate import NEVER_STRONG

Array = np.ndarray

GRID = np.append(np.arange(1001) / 1000, NEVER_STRONG)  # thresholds, from always-strong to always-weak
MARGIN = 2  # the sequence of the share among the weak starts where so many times the least count is expected
CAP = 0.95  # of the largest bet that cannot ruin


def upper_bound(events: Array | int, count: Array | int, delta: float) -> Array:
    """One-sided Clopper-Pearson bound: the rate is below it with probability 1 - delta; 1 if count is 0."""
    events, count = np.asarray(events), np.asarray(count)
    bound = beta.ppf(1 - delta, events + 1, np.maximum(count - events, 1e-9))
    return np.where(events >= count, 1.0, bound)


def least_count(alpha: float, delta: float) -> int:
    """The fewest observations, none of them an event, whose bound is at most alpha."""
    return math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9)


def least_count_at(rate: float, alpha: float, delta: float) -> int | None:
    """The fewest observations at this rate of events whose bound is at most alpha; None if it is above."""
    if rate >= alpha:
        return None
    low = least_count(alpha, delta)
    counts = np.unique(np.geomspace(low, 1e6, 2000).astype(int))
    enough = binom.cdf(np.ceil(rate * counts), counts, alpha) <= delta
    return int(counts[enough][0]) if enough.any() else None


def count_tests(events: Array, counts: Array, alpha: float) -> Array:
    """p-values of "the rate is above alpha", exact; ``events`` of ``counts`` at each threshold."""
    return np.where(counts > 0, binom.cdf(events, counts, alpha), 1.0)


def betting_tests(excess: Array, alpha: float, delta: float) -> Array:
    """p-values of "the mean over speakers is above alpha", by betting (Waudby-Smith and Ramdas 2024, JRSS B).

    Parameters
    ----------
    excess : ndarray
        Shape (speakers, thresholds): a speaker's rate less alpha, from -alpha to 1 - alpha.

    Notes
    -----
    Capital grows by ``1 - bet * excess`` a speaker, each bet made from the speakers before. If the mean
    excess is above 0 the capital is a supermartingale, and Ville's inequality bounds its maximum.
    """
    speakers = len(excess)
    capital = np.ones(excess.shape[1])
    best, total = capital.copy(), np.zeros_like(capital)
    squares = np.full_like(capital, alpha * (1 - alpha) / 4)
    for i, row in enumerate(excess, start=1):
        bet = np.sqrt(2 * math.log(1 / delta) * i / (speakers * squares))
        capital = capital * (1 - np.minimum(bet, CAP / (1 - alpha)) * row)
        best = np.maximum(best, capital)
        total = total + row
        squares = squares + (row - total / i) ** 2
    return 1 / best


def last_accepted(tests: Array, start: int, delta: float) -> int | None:
    """Index of the last threshold of the sequence before the first that fails; None if the first does."""
    failed = np.flatnonzero(tests[start:] > delta)
    stop = start + int(failed[0]) if failed.size else len(tests)
    return stop - 1 if stop > start else None


def below(scores: Array, values: Array) -> Array:
    """Sum of the values of the utterances that go to the weak arm, at each threshold of the grid.

    Parameters
    ----------
    scores, values : ndarray
        Shape (utterances,).

    Returns
    -------
    ndarray
        Shape (thresholds,).
    """
    order = np.argsort(scores, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(values[order], dtype=np.float64)])
    return sums[np.searchsorted(scores[order], GRID, side="left")]


def rank(scores: Array, known: Array) -> Array:
    """Share of known scores that are not above each score; the scores themselves where none is known."""
    if not known.size:
        return scores
    found: Array = np.searchsorted(np.sort(known), scores, side="right") / known.size
    return found


def threshold_at(level: float, known: Array) -> float:
    """The score from which on ``rank`` is at least ``level``; ``known`` in ascending order."""
    if not known.size or level <= 0 or level > 1:
        return float(level)
    return float(known[math.ceil(level * known.size - 1e-9) - 1])


def speaker_means(scores: Array, values: Array, speakers: Array) -> Array:
    """``below`` for each speaker, divided by the speaker's utterances; shape (speakers, thresholds)."""
    rows = [np.flatnonzero(speakers == speaker) for speaker in range(int(speakers.max()) + 1)]
    return np.stack([below(scores[own], values[own]) / own.size for own in rows if own.size])


def needed_share(alpha: float, delta: float, speakers: int) -> float:
    """The weak share at which so many speakers without an event let ``betting_tests`` accept at least."""
    return float(math.expm1(math.log(1 / delta) / speakers) * (1 - alpha) / (CAP * alpha))


def least_speakers(alpha: float, delta: float) -> int:
    """The fewest speakers, none with an event, that let ``betting_tests`` accept."""
    return math.ceil(math.log(1 / delta) / math.log1p(CAP * alpha / (1 - alpha)) - 1e-9)


def start_of(earlier_scores: Array, share: float) -> int:
    """Index of the first threshold that sends this share of earlier scores, not of calibration, to weak."""
    expected = np.searchsorted(np.sort(earlier_scores), GRID, side="left") / max(len(earlier_scores), 1)
    expected[-1] = 1.0
    return int(np.argmax(expected >= min(share, 1.0)))


def risk_controlled(means: Array, count: int, alpha: float) -> int:
    """Index of the last threshold that conformal risk control accepts; 0 (always-strong) if none.

    The expected loss of a new draw is at most alpha, on average over calibration sets: losses are between 0
    and 1 and grow with the threshold (Angelopoulos et al. 2022, arXiv 2208.02814, eq. 4).
    """
    fine = np.flatnonzero((count * means + 1) / (count + 1) <= alpha)
    return int(fine[-1]) if fine.size else 0

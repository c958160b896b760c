"""The guarantee's threshold on a calibration set, and what may be said about it."""

import math

import numpy as np

from whisper_router.evaluation import Pair
from whisper_router.policy.calibrate import Promise
from whisper_router.policy.guarantee import (
    CAP,
    GRID,
    MARGIN,
    below,
    betting_tests,
    count_tests,
    last_accepted,
    least_count,
    least_count_at,
    least_speakers,
    needed_share,
    rank,
    risk_controlled,
    speaker_means,
    start_of,
    threshold_at,
    upper_bound,
)
from whisper_router.policy.options import GuaranteeOptions
from whisper_router.reference import TEXT, Reference

Array = np.ndarray

LITTLE = 0.1  # the weak share at which the rate is read that says how many units would suffice

ASSUMES = {
    "utterance": "Calibration and later utterances are independent draws of one population. Utterances of "
    "one speaker are alike, so among few speakers, or for new ones, it holds less often than it says.",
    "speaker": "Calibration and later speakers are independent draws of one population, each with any "
    "number of utterances, however alike; every speaker counts the same. It takes many speakers.",
}

ASSUMES_FOLDS = (
    "The scores are those of deciders trained on the other folds: that the router's own decider, trained on "
    "all utterances, does as well is taken for granted."
)


def losses(pair: Pair, options: GuaranteeOptions) -> Array:
    """What an utterance adds to the risk if it goes to the weak arm, shape (utterances,)."""
    lost: Array = (pair.weak_errors - pair.strong_errors) / pair.words
    return np.clip(lost, 0, 1) if options.risk == "mean_loss" else (lost > options.tau + 1e-9).astype(float)


def guarantee(
    options: GuaranteeOptions, pair: Pair, scores: Array, earlier: Array, reference: Reference = TEXT
) -> tuple[float, Promise]:
    """The threshold that sends most to the weak arm and keeps the promise, and the promise.

    Parameters
    ----------
    earlier : ndarray
        Scores of utterances that are not in the calibration set: the grid is their ranks, so that it stays
        fixed even where scores were made probabilities on the calibration labels. Empty: scores themselves.
    reference : Reference
        What the errors are counted against: the promise says it.

    Returns
    -------
    tuple
        0 (everything to the strong arm) where nothing can be promised.
    """
    alpha, delta, loss = options.alpha, options.delta, losses(pair, options)
    known, scores, earlier = np.sort(earlier), rank(scores, earlier), rank(earlier, earlier)
    ones = np.ones_like(loss)
    risk, weak = below(scores, loss) / len(loss), below(scores, ones) / len(loss)
    by_speaker = options.unit == "speaker"
    if by_speaker:
        risks = speaker_means(scores, loss, pair.speakers)
        weaks = speaker_means(scores, ones, pair.speakers)
        risk, weak = risks.mean(axis=0), weaks.mean(axis=0)
    units = len(risks) if by_speaker else len(loss)
    at: int | None
    if options.risk == "mean_loss":
        least = math.ceil(1 / alpha - 1 - 1e-9)
        at = risk_controlled(risk, units, alpha)
        needed = _enough_for_mean(risk, weak, alpha)
    elif by_speaker:
        least = least_speakers(alpha, delta)
        base = weaks if options.risk == "weak" else np.ones_like(weaks)
        excess = risks - alpha * base
        start = start_of(earlier, needed_share(alpha, delta, units) * MARGIN) if options.risk == "weak" else 0
        at = last_accepted(betting_tests(excess, alpha, delta), start, delta)
        needed = _enough_speakers(excess[:, _little(weak)], alpha, delta)
    else:
        least = least_count(alpha, delta)
        events = below(scores, loss)
        counts = below(scores, ones) if options.risk == "weak" else np.full(len(GRID), float(len(loss)))
        start = start_of(earlier, MARGIN * least / len(loss)) if options.risk == "weak" else 0
        at = last_accepted(count_tests(events, counts, alpha), start, delta)
        point = _little(weak)
        share = weak[point] if options.risk == "weak" else 1.0
        needed = least_count_at(float(risk[point] / share), alpha, delta)
        if options.risk == "weak" and needed is not None:
            needed = math.ceil(needed / share)
    at = at or 0
    holds = units >= least and weak[at] > 0
    at = at if holds else 0
    observed = risk[at] / max(weak[at], 1e-12) if options.risk == "weak" else risk[at]
    bound = None
    if not by_speaker and options.risk != "mean_loss":
        bound = round(float(upper_bound(events[at], counts[at], delta)), 6)
    return threshold_at(GRID[at], known), Promise(
        holds=holds,
        says=_says(options, reference, holds, units, least, needed),
        assumes=ASSUMES[options.unit],
        risk=options.risk,
        alpha=alpha,
        delta=None if options.risk == "mean_loss" else delta,
        tau=None if options.risk == "mean_loss" else options.tau,
        unit=options.unit,
        observed=round(float(observed), 6),
        bound=bound,
        units=units,
        least_units=least,
        would_suffice=needed if needed is None else max(needed, least),
    )


def _little(weak: Array) -> int:
    """The first threshold that sends at least a tenth to the weak arm."""
    return int(np.argmax(weak >= LITTLE))


def _enough_for_mean(risk: Array, weak: Array, alpha: float) -> int | None:
    rate = risk[_little(weak)]
    return math.ceil((1 - alpha) / (alpha - rate) - 1e-9) if rate < alpha else None


def _enough_speakers(excess: Array, alpha: float, delta: float) -> int | None:
    """Speakers like these whose capital reaches 1 / delta, by its mean growth a speaker."""
    growth = float(np.log1p(-CAP / (1 - alpha) * excess).mean())
    return math.ceil(math.log(1 / delta) / growth) if growth > 0 else None


def _says(
    options: GuaranteeOptions, reference: Reference, holds: bool, units: int, least: int, needed: int | None
) -> str:
    alpha, sure = f"{options.alpha:.1%}", f"With probability {1 - options.delta:.0%}"
    weak, text = reference.weak, f"{reference.strong}'s text"
    worse = "come out worse than the strong arm's" if reference.is_text else f"differ from {text}"
    if options.tau and options.risk != "mean_loss":
        worse += f" by more than {options.tau:.1%} {'WER' if reference.is_text else 'of the words'}"
    loses = f"loses at most {alpha} WER" if reference.is_text else f"changes at most {alpha} of {text}"
    average = " on average over new speakers" if options.unit == "speaker" else ""
    promise = {
        "all": f"{sure}, at most {alpha} of all utterances go to {weak} and {worse}{average}.",
        "weak": f"{sure}, at most {alpha} of the utterances that go to {weak} {worse}{average}.",
        "mean_loss": f"In expectation (not with a probability), going to {weak} {loses} an "
        f"utterance{average}, each counted as at most 100 %.",
    }[options.risk]
    if holds:
        return promise
    many = f"{options.unit}s"
    if units < least:
        return (
            f"No promise, everything goes to the strong arm: {units} calibration {many} are too few. "
            f"At least {least} are needed, and {_suffice(needed, least, many)}. It would say: {promise}"
        )
    return (
        f"No promise, everything goes to the strong arm: among {units} calibration {many} no threshold "
        f"that sends some of them to the weak arm passes; "
        f"{_suffice(needed, least, many)}. It would say: {promise}"
    )


def _suffice(needed: int | None, least: int, many: str) -> str:
    if needed is None:
        return "at the rate seen with a tenth sent to the weak arm no number suffices"
    return (
        f"at the rate seen with a tenth sent to the weak arm about {max(needed, least)} {many} would suffice"
    )

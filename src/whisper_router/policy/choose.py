"""How each kind of policy chooses its threshold on labelled utterances."""

from dataclasses import dataclass

import numpy as np

from whisper_router.errors import UserError
from whisper_router.evaluation import Pair, Spent, sweep
from whisper_router.policy.calibrate import Promise, share_threshold, threshold_after
from whisper_router.policy.options import CostBudgetOptions, GuaranteeOptions, PolicyOptions, WerBudgetOptions
from whisper_router.policy.promise import ASSUMES_FOLDS, guarantee
from whisper_router.reference import TEXT, Reference

Array = np.ndarray


@dataclass(frozen=True)
class Sample:
    """Labelled utterances with a decider's scores.

    ``earlier`` are scores of other utterances of the same population (the dev split): they tell where a
    sequence of tests may start without looking at the sample. An empty array where there are none.
    ``folds`` numbers the decider that scored each utterance, where they were cross-validated; then
    ``earlier`` are the scores themselves.
    """

    pair: Pair
    scores: Array
    spent: Spent
    earlier: Array
    folds: Array | None = None
    reference: Reference = TEXT


@dataclass(frozen=True)
class Chosen:
    """A threshold, what it was chosen for, and what a guarantee promises."""

    threshold: float
    target: float
    figure: str
    meaning: str
    promise: Promise | None = None


def swept(sample: Sample) -> tuple[Array, Array, dict[str, Array]]:
    """Thresholds from none to all to strong, WER, and cost as a share of always-strong's by currency."""
    table = sweep(sample.pair, sample.scores, sample.spent)
    ordered = np.sort(sample.scores)[::-1]
    sent = np.rint(table["strong_share"].to_numpy() * len(ordered)).astype(int)
    thresholds = np.array([threshold_after(ordered, count) for count in sent])
    costs = {
        name.removesuffix("_routed"): table[name].to_numpy() for name in table if name.endswith("_routed")
    }
    return thresholds, costs.pop("wer"), costs


def _costs_in(currency: str, costs: dict[str, Array]) -> Array:
    if currency not in costs:
        raise UserError(
            f"{currency}: the cost table has no {currency} of this decider and its arms; "
            "run `whisper-router cost --measure`, or name another currency"
        )
    return costs[currency]


def _cost_budget(options: CostBudgetOptions, sample: Sample) -> Chosen:
    thresholds, _, costs = swept(sample)
    cost = _costs_in(options.currency, costs)
    fits = np.flatnonzero(cost <= options.budget + 1e-12)
    if not fits.size:
        raise UserError(
            f"a cost_budget of {options.budget:.0%} of always-strong's {options.currency}: no threshold "
            f"costs less than {cost.min():.1%}, the decision included; raise the budget"
        )
    meaning = (
        f"cost at most {options.budget:.1%} of always-strong's {options.currency}, as much to strong as fits"
    )
    return Chosen(float(thresholds[fits[-1]]), options.budget, f"{options.currency}_routed", meaning)


def _wer_budget(options: WerBudgetOptions, sample: Sample) -> Chosen:
    thresholds, wer, costs = swept(sample)
    cost, rise = _costs_in(options.currency, costs), wer - wer[-1]
    fits = np.flatnonzero(rise <= options.points / 100 + 1e-12)  # always-strong is one of them
    best = fits[np.argmin(cost[fits])]
    meaning = (
        f"the largest saving in {options.currency} whose WER is at most {options.points:g} points "
        "above always-strong's"
        if sample.reference.is_text
        else f"the largest saving in {options.currency} at which at most {options.points:g} % of the words "
        f"differ from {sample.reference.strong}'s text"
    )
    return Chosen(float(thresholds[best]), options.points / 100, "wer_rise", meaning)


def _best_wer(sample: Sample) -> Chosen:
    thresholds, wer, _ = swept(sample)
    best = int(np.argmin(wer))  # of equals the one that sends the least to strong
    meaning = (
        "the lowest WER on these utterances, which new ones will hardly reach: it is the luckiest of many"
        if sample.reference.is_text
        else f"the fewest utterances to {sample.reference.strong} at which no word here differs from its "
        "text; without transcripts nothing can be better"
    )
    return Chosen(float(thresholds[best]), round(float(wer[best]), 6), "wer_routed", meaning)


def _guarantee(options: GuaranteeOptions, sample: Sample) -> Chosen:
    threshold, promise = guarantee(options, sample.pair, sample.scores, sample.earlier, sample.reference)
    if sample.folds is not None:
        promise = promise.model_copy(update={"assumes": f"{promise.assumes} {ASSUMES_FOLDS}"})
    return Chosen(threshold, options.alpha, promise.figure, promise.says, promise)


def choose(options: PolicyOptions, sample: Sample) -> Chosen:
    """The threshold of a policy.

    Raises
    ------
    UserError
        No utterance, a budget below what the decision costs, or a currency without data.
    """
    if not sample.scores.size:
        raise UserError("no labelled utterance to calibrate on; add speakers to the calibration split")
    if options.kind == "fixed":
        return Chosen(options.threshold, options.threshold, "threshold", "set by hand")
    if options.kind == "strong_share":
        meaning = f"at most {options.share:.1%} of the utterances to the strong arm"
        return Chosen(share_threshold(sample.scores, options.share), options.share, "strong_share", meaning)
    if options.kind == "best_wer":
        return _best_wer(sample)
    if options.kind == "cost_budget":
        return _cost_budget(options, sample)
    if options.kind == "wer_budget":
        return _wer_budget(options, sample)
    return _guarantee(options, sample)

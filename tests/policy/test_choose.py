"""Each kind of policy finds the threshold that a search by hand finds, and says what it was asked for."""

from dataclasses import replace

import numpy as np
import pytest

from whisper_router.cost import CURRENCIES
from whisper_router.errors import UserError
from whisper_router.evaluation import Pair, Spent
from whisper_router.policy.calibrate import NEVER_STRONG, Bound, Policy
from whisper_router.policy.choose import Sample, choose
from whisper_router.policy.make import make_policy, policy_metrics
from whisper_router.policy.options import (
    BestWerOptions,
    CostBudgetOptions,
    FixedOptions,
    GuaranteeOptions,
    StrongShareOptions,
    WerBudgetOptions,
)

BOUND = Bound(weak_arm="a", strong_arm="b", extractor="c", decider="d", normaliser="e", calibration_set="f")


def make_sample(n: int = 120, seed: int = 0) -> Sample:
    """Scores that mean something: a high one makes errors of the weak arm likelier; 12 speakers."""
    random = np.random.default_rng(seed)
    scores = np.round(random.uniform(size=n), 2)
    words = random.integers(3, 15, n)
    weak = np.minimum(random.poisson(3 * scores), words)
    strong = np.minimum(random.poisson(0.6, n), words)
    weak_cost = {currency: random.uniform(1, 2, n) for currency in CURRENCIES}
    strong_cost = {currency: random.uniform(3, 6, n) for currency in CURRENCIES}
    zeros = np.zeros(n)
    nothing = dict.fromkeys(CURRENCIES, zeros)
    label = (weak > strong).astype(int)
    pair = Pair(
        np.arange(n) % 12, words, weak, strong, label, zeros, zeros, weak_cost, strong_cost, nothing, nothing
    )
    return Sample(pair, scores, Spent("weak", nothing), random.uniform(size=50))


SAMPLE = make_sample()
EVERY = np.unique(np.concatenate([[0.0, NEVER_STRONG], SAMPLE.scores + 0.005]))


def wer(threshold: float) -> float:
    pair, strong = SAMPLE.pair, SAMPLE.scores >= threshold
    return np.where(strong, pair.strong_errors, pair.weak_errors).sum() / pair.words.sum()


def cost(threshold: float, currency: str = "macs") -> float:
    """Of a cascade: the weak arm always, the strong one on top."""
    pair, strong = SAMPLE.pair, SAMPLE.scores >= threshold
    paid = pair.weak[currency].sum() + pair.strong[currency][strong].sum()
    return paid / pair.strong[currency].sum()


def test_a_threshold_by_hand_and_a_share_are_taken_as_they_are():
    fixed = choose(FixedOptions(kind="fixed", decider="d", threshold=0.35), SAMPLE)
    assert (fixed.threshold, fixed.target, fixed.figure) == (0.35, 0.35, "threshold")
    shared = choose(StrongShareOptions(kind="strong_share", decider="d", share=0.25), SAMPLE)
    assert (SAMPLE.scores >= shared.threshold).mean() == pytest.approx(0.25, abs=0.03)
    assert (shared.target, shared.figure) == (0.25, "strong_share")


@pytest.mark.parametrize("currency", ["macs", "macs_paper"])
@pytest.mark.parametrize("budget", [0.6, 0.9, 2.0])
def test_a_cost_budget_sends_as_much_to_strong_as_it_pays_for(budget, currency):
    options = CostBudgetOptions(kind="cost_budget", decider="d", budget=budget, currency=currency)
    chosen = choose(options, SAMPLE)
    best = min(threshold for threshold in EVERY if cost(threshold, currency) <= budget)
    assert (SAMPLE.scores >= chosen.threshold).sum() == (SAMPLE.scores >= best).sum()
    assert cost(chosen.threshold, currency) <= budget


def test_a_budget_below_the_decision_is_refused_with_the_least():
    with pytest.raises(UserError, match=r"no threshold costs less than 3\d\.\d%"):
        choose(CostBudgetOptions(kind="cost_budget", decider="d", budget=0.1), SAMPLE)


def test_a_currency_without_a_table_is_refused_with_the_remedy():
    with pytest.raises(UserError, match="cost --measure"):
        choose(WerBudgetOptions(kind="wer_budget", decider="d", points=1, currency="joules"), SAMPLE)


@pytest.mark.parametrize("points", [0.0, 1.0, 5.0, 100.0])
def test_a_wer_budget_is_the_cheapest_threshold_within_it(points):
    chosen = choose(WerBudgetOptions(kind="wer_budget", decider="d", points=points), SAMPLE)
    within = [cost(threshold) for threshold in EVERY if wer(threshold) - wer(0) <= points / 100]
    assert wer(chosen.threshold) - wer(0) <= points / 100 + 1e-12
    assert cost(chosen.threshold) == pytest.approx(min(within))


def test_the_best_wer_is_the_lowest_of_all_thresholds():
    chosen = choose(BestWerOptions(kind="best_wer", decider="d"), SAMPLE)
    assert wer(chosen.threshold) == min(wer(threshold) for threshold in EVERY) < wer(0)


@pytest.mark.parametrize("unit", ["utterance", "speaker"])
@pytest.mark.parametrize("risk", ["all", "weak", "mean_loss"])
def test_a_guarantee_is_an_artefact_that_says_what_it_observed(risk, unit):
    options = GuaranteeOptions(kind="guarantee", decider="d", risk=risk, unit=unit, alpha=0.3)
    policy = make_policy("sure", options, SAMPLE, BOUND)
    assert Policy.model_validate_json(policy.to_json()) == policy
    promise = policy.promise
    observed = policy.calibration.figures[policy.figure].value or 0.0  # None: nothing goes to weak
    assert observed == pytest.approx(promise.observed, abs=1e-5)
    assert policy.meaning == promise.says
    if unit == "utterance" and risk != "mean_loss":
        assert promise.observed <= promise.bound <= 0.3


def test_a_policy_says_what_other_thresholds_would_do():
    policy = make_policy("p", FixedOptions(kind="fixed", decider="d", threshold=0.5), SAMPLE, BOUND)
    rows = policy.calibration.sweep
    assert (rows[0].strong_share, rows[-1].strong_share) == (0, 1)
    for row in rows:
        assert row.strong_share == pytest.approx((SAMPLE.scores >= row.threshold).mean(), abs=1e-6)
        assert row.wer_routed == pytest.approx(wer(row.threshold), abs=1e-6)
        assert row.saving_macs == pytest.approx(1 - cost(row.threshold), abs=1e-6)
    assert policy.expects(0.0) == rows[-1]
    interval = policy.calibration.figures["wer_rise"].interval
    assert interval[0] < policy.calibration.figures["wer_rise"].value < interval[1]


def test_a_target_is_judged_on_other_utterances():
    policy = make_policy("p", StrongShareOptions(kind="strong_share", decider="d", share=0.5), SAMPLE, BOUND)
    for shift, met in ((-0.3, True), (0.3, False)):
        other = replace(make_sample(seed=1), scores=np.clip(make_sample(seed=1).scores + shift, 0, 1))
        target = policy_metrics(policy, other, 100, 0)["target"]
        assert target["met"] is met
        assert target["value"] == pytest.approx((other.scores >= policy.threshold).mean(), abs=1e-6)


def test_nothing_to_calibrate_on_is_refused():
    empty = replace(SAMPLE, scores=np.empty(0))
    with pytest.raises(UserError, match="no labelled utterance"):
        choose(BestWerOptions(kind="best_wer", decider="d"), empty)

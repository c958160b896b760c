"""Thresholds of cross-validated utterances: each fold goes by one that it had no part in."""

from dataclasses import replace

import numpy as np
import pytest

from whisper_router.cost import CURRENCIES
from whisper_router.evaluation import Pair, Spent
from whisper_router.policy.calibrate import Bound
from whisper_router.policy.choose import Sample, choose
from whisper_router.policy.folds import part_of, thresholds
from whisper_router.policy.make import make_policy, policy_metrics
from whisper_router.policy.options import (
    BestWerOptions,
    CostBudgetOptions,
    FixedOptions,
    GuaranteeOptions,
    PolicyOptions,
    StrongShareOptions,
    WerBudgetOptions,
)

BOUND = Bound(weak_arm="a", strong_arm="b", extractor="c", decider="d", normaliser="e", calibration_set="f")
FOLDS, SPEAKERS, UTTERANCES = 5, 20, 200
OPTIONS: tuple[PolicyOptions, ...] = (
    StrongShareOptions(kind="strong_share", decider="d", share=0.4),
    CostBudgetOptions(kind="cost_budget", decider="d", budget=0.9),
    WerBudgetOptions(kind="wer_budget", decider="d", points=1.0),
    BestWerOptions(kind="best_wer", decider="d"),
    GuaranteeOptions(kind="guarantee", decider="d", risk="all", alpha=0.2),
    GuaranteeOptions(kind="guarantee", decider="d", risk="weak", alpha=0.3),
)
EACH = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.kind)


def make_sample(seed: int = 0) -> Sample:
    random = np.random.default_rng(seed)
    scores = np.round(random.uniform(size=UTTERANCES), 3)
    words = random.integers(5, 15, UTTERANCES)
    weak, strong = random.poisson(3 * scores), random.poisson(0.6, UTTERANCES)
    costs = [dict.fromkeys(CURRENCIES, np.full(UTTERANCES, value)) for value in (1.0, 3.0, 0.0)]
    zeros, speakers = np.zeros(UTTERANCES), np.arange(UTTERANCES) % SPEAKERS
    label = (weak > strong).astype(int)
    pair = Pair(speakers, words, weak, strong, label, zeros, zeros, *costs[:2], costs[2], costs[2])
    return Sample(pair, scores, Spent("weak", costs[2]), scores, speakers % FOLDS)


SAMPLE = make_sample()


def at(options: PolicyOptions, sample: Sample = SAMPLE) -> np.ndarray:
    return thresholds(options, make_policy("one", options, sample, BOUND), sample)


@EACH
def test_a_fold_s_threshold_is_what_the_other_folds_choose_whatever_happened_in_it(options):
    made = at(options)
    for fold in range(FOLDS):
        inside = SAMPLE.folds == fold
        (threshold,) = set(made[inside])
        assert threshold == choose(options, part_of(SAMPLE, np.flatnonzero(~inside))).threshold
        other = np.where(inside, 9, SAMPLE.pair.weak_errors)
        scores = np.where(inside, 1 - SAMPLE.scores, SAMPLE.scores)
        changed = replace(SAMPLE, pair=replace(SAMPLE.pair, weak_errors=other), scores=scores, earlier=scores)
        assert set(at(options, changed)[inside]) == {threshold}


@EACH
def test_figures_are_those_of_every_fold_at_its_own_threshold(options):
    made, policy = at(options), make_policy("one", options, SAMPLE, BOUND)
    strong = SAMPLE.scores >= made
    figures = policy_metrics(policy, SAMPLE, 100, 0, made)
    errors = np.where(strong, SAMPLE.pair.strong_errors, SAMPLE.pair.weak_errors).sum()
    assert figures["wer_routed"]["value"] == pytest.approx(errors / SAMPLE.pair.words.sum(), abs=1e-6)
    assert figures["counts"] == {
        "utterances": UTTERANCES,
        "speakers": SPEAKERS,
        "need_strong": int(SAMPLE.pair.label.sum()),
        "sent_to_strong": int(strong.sum()),
        "folds": FOLDS,
    }


def test_a_threshold_set_by_hand_is_that_of_every_fold():
    options = FixedOptions(kind="fixed", decider="d", threshold=0.3)
    assert set(at(options)) == {0.3}


def test_without_folds_the_threshold_is_the_policy_s():
    sample = replace(SAMPLE, folds=None)
    policy = make_policy("one", OPTIONS[0], sample, BOUND)
    assert thresholds(OPTIONS[0], policy, sample) == policy.threshold
    assert "folds" not in policy_metrics(policy, sample, 100, 0)["counts"]


@pytest.mark.parametrize("risk", ["all", "weak"])
def test_a_guarantee_says_whose_scores_it_was_tested_on(risk):
    options = GuaranteeOptions(kind="guarantee", decider="d", risk=risk, alpha=0.3)
    promise = make_policy("one", options, SAMPLE, BOUND).promise
    assert promise.holds
    assert "deciders trained on the other folds" in promise.assumes
    plain = make_policy("one", options, replace(SAMPLE, folds=None), BOUND).promise
    assert "folds" not in plain.assumes

"""Guarantees: exact bounds, sequences that stop, refusals with what would suffice, simulated validity."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from whisper_router.policy.guarantee import (
    GRID,
    below,
    betting_tests,
    count_tests,
    last_accepted,
    least_count,
    least_count_at,
    least_speakers,
    rank,
    risk_controlled,
    speaker_means,
    start_of,
    threshold_at,
    upper_bound,
)
from whisper_router.policy.options import GuaranteeOptions
from whisper_router.policy.promise import guarantee
from whisper_router.reference import Reference

ROOT = Path(__file__).parents[2]
DRAWS = 1000


@pytest.fixture(scope="module")
def simulation() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import policy_simulation

        yield policy_simulation


def options(**given: object) -> GuaranteeOptions:
    return GuaranteeOptions(kind="guarantee", decider="d", **{"alpha": 0.1, "delta": 0.1, **given})


def test_three_observations_without_an_event_bound_the_rate_by_0_54():
    assert float(upper_bound(0, 3, 0.1)) == pytest.approx(0.536, abs=1e-3)


@given(count=st.integers(1, 400), events=st.integers(0, 400), delta=st.sampled_from([0.05, 0.1, 0.2]))
@settings(max_examples=60)
def test_the_bound_is_clopper_and_pearson_s_and_agrees_with_the_test(count, events, delta):
    events = min(events, count)
    expected = binomtest(events, count).proportion_ci(1 - 2 * delta, "exact").high
    bound = float(upper_bound(events, count, delta))
    assert bound == pytest.approx(expected, abs=1e-9)
    for alpha in (bound - 1e-6, bound + 1e-6):
        if 0 < alpha < 1:
            accepted = count_tests(np.array([events]), np.array([count]), alpha)[0] <= delta
            assert accepted == (bound <= alpha)


@pytest.mark.parametrize(("alpha", "delta"), [(0.05, 0.1), (0.1, 0.1), (0.01, 0.05), (0.5, 0.5)])
def test_the_least_count_is_the_first_that_accepts_without_an_event(alpha, delta):
    least = least_count(alpha, delta)
    assert upper_bound(0, least, delta) <= alpha < upper_bound(0, least - 1, delta)
    assert least_count_at(0.0, alpha, delta) == least
    assert least_count_at(alpha, alpha, delta) is None


def test_the_least_number_of_speakers_is_the_first_whose_bets_accept_without_an_event():
    for alpha in (0.05, 0.1, 0.3):
        least = least_speakers(alpha, 0.1)
        for speakers, accepts in ((least, True), (least - 1, False)):
            p = betting_tests(np.full((speakers, 1), -alpha), alpha, 0.1)[0]
            assert (p <= 0.1) == accepts


def test_sums_below_a_threshold_leave_out_the_threshold_itself():
    scores, values = np.array([0.2, 0.0, 0.2, 1.0]), np.array([1.0, 2.0, 4.0, 8.0])
    sums = dict(zip(GRID.tolist(), below(scores, values).tolist(), strict=True))
    assert (sums[0.0], sums[0.001], sums[0.2], sums[0.201], sums[1.0]) == (0, 2, 2, 7, 7)
    assert sums[GRID[-1]] == 15
    means = speaker_means(scores, values, np.array([0, 1, 1, 0]))
    assert means[:, -1].tolist() == [4.5, 3.0]


def test_a_sequence_stops_at_the_first_failure_even_if_later_tests_pass():
    tests = np.array([0.01, 0.02, 0.5, 0.01])
    assert last_accepted(tests, 0, 0.1) == 1
    assert last_accepted(tests, 3, 0.1) == 3
    assert last_accepted(tests, 2, 0.1) is None


def test_a_start_is_where_earlier_scores_send_the_share_to_weak():
    earlier = np.arange(100) / 100
    assert GRID[start_of(earlier, 0.25)] == pytest.approx(0.241)
    assert start_of(np.array([]), 0.25) == len(GRID) - 1


def test_risk_control_adds_the_one_loss_that_may_come():
    means = np.array([0.0, 0.01, 0.04, 0.05, 0.2])
    assert risk_controlled(means, 99, 0.05) == 2  # (99 * 0.04 + 1) / 100 <= 0.05 < (99 * 0.05 + 1) / 100
    assert risk_controlled(means, 10, 0.05) == 0


@pytest.mark.parametrize("risk", ["all", "weak", "mean_loss"])
@pytest.mark.parametrize("unit", ["utterance", "speaker"])
def test_too_few_promise_nothing_send_all_to_strong_and_say_how_many_would_do(simulation, risk, unit):
    rng = np.random.default_rng(1)
    made = {}
    for speakers in (3, 600):
        harm, scores, owner = np.zeros(speakers), rng.uniform(size=speakers), np.arange(speakers)
        pair = simulation.pair_of(harm, owner)
        made[speakers] = guarantee(options(risk=risk, unit=unit), pair, scores, rng.uniform(size=200))
    threshold, promise = made[3]
    assert threshold == 0
    assert not promise.holds
    assert promise.least_units > 3
    assert promise.would_suffice >= promise.least_units
    assert f"3 calibration {unit}s are too few" in promise.says
    assert str(promise.least_units) in promise.says
    threshold, promise = made[600]
    assert promise.holds
    assert threshold == GRID[-1]
    assert "No promise" not in promise.says


def test_a_rate_above_alpha_everywhere_is_said_to_need_more_than_data(simulation):
    harm, owner = np.ones(500), np.arange(500)
    scores = np.random.default_rng(0).uniform(size=500)
    threshold, promise = guarantee(options(risk="weak"), simulation.pair_of(harm, owner), scores, scores)
    assert (threshold, promise.holds, promise.would_suffice) == (0.0, False, None)
    assert "no number suffices" in promise.says


def test_tau_is_the_loss_that_does_not_count(simulation):
    pair = simulation.pair_of(np.ones(200), np.arange(200))
    scores = np.random.default_rng(0).uniform(size=200)
    for tau, harmed in ((0.0, True), (0.5, True), (1.0, False)):
        threshold, promise = guarantee(options(tau=tau), pair, scores, scores)
        assert (threshold < 0.5) == harmed
        assert promise.tau == tau


def slack(draws: int, delta: float) -> int:
    """The most failures among draws that a rate of delta explains, one time in 1000 apart."""
    return int(binom.ppf(0.999, draws, delta))


@pytest.mark.parametrize("risk", ["all", "weak"])
@pytest.mark.parametrize("number", range(4))
def test_a_guarantee_over_independent_utterances_fails_no_more_often_than_delta(simulation, risk, number):
    population = simulation.POPULATIONS[number]
    made = simulation.simulate(population, options(risk=risk), 200, 1, DRAWS)
    assert made["fails"] <= slack(DRAWS, 0.1), made


@pytest.mark.parametrize("risk", ["all", "weak"])
@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_guarantee_over_speakers_fails_no_more_often_than_delta_however_alike_they_are(
    simulation, risk, number
):
    population = simulation.POPULATIONS[number]
    made = simulation.simulate(population, options(risk=risk, unit="speaker"), 40, 5, 300)
    assert made["fails"] <= slack(300, 0.1), made


def test_speakers_that_are_alike_break_the_promise_over_utterances(simulation):
    """What the version over speakers is for; and that the simulation can see a broken promise."""
    made = simulation.simulate(simulation.POPULATIONS[4], options(), 20, 20, 300)
    assert made["fails"] > slack(300, 0.1), made


@pytest.mark.parametrize("number", range(4))
def test_the_expected_loss_stays_under_alpha(simulation, number):
    made = simulation.simulate(simulation.POPULATIONS[number], options(risk="mean_loss"), 100, 1, DRAWS)
    assert made["mean_risk"] <= 0.1 + 3 * 0.1 / math.sqrt(DRAWS), made


def test_a_decider_with_skill_sends_more_to_weak(simulation):
    shares = [
        simulation.simulate(simulation.POPULATIONS[number], options(), 300, 1, 100)["mean_weak_share"]
        for number in (0, 3)
    ]
    assert shares[0] > shares[1] + 0.1


@given(
    known=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    scores=st.lists(st.integers(0, 20), min_size=1, max_size=40),
    level=st.integers(0, 1000),
)
@settings(max_examples=200)
def test_a_threshold_sends_those_to_strong_whose_rank_is_at_least_its_level(known, scores, level):
    earlier, own = np.array(known) / 20, np.array(scores) / 20
    threshold = threshold_at(level / 1000, np.sort(earlier))
    ranks = rank(own, earlier)
    assert ((own >= threshold) == (ranks >= level / 1000 - 1e-12)).all()


def test_scores_made_probabilities_on_the_labels_have_the_same_guarantee(simulation):
    random = np.random.default_rng(5)
    scores, earlier = random.uniform(size=400), random.uniform(size=150)
    pair = simulation.pair_of(random.uniform(size=400) < 0.5 * scores, np.arange(400))
    plain, promise = guarantee(options(), pair, scores, earlier)
    assert promise.holds
    for made in (np.sqrt, np.square, lambda values: 0.2 + values / 10):
        threshold, same = guarantee(options(), pair, made(scores), made(earlier))
        assert same == promise
        assert threshold == pytest.approx(float(made(plain)))
        assert ((made(scores) >= threshold) == (scores >= plain)).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"tau": 0.1},
            "With probability 90%, at most 30.0% of all utterances go to tiny.en and differ from base's text "
            "by more than 10.0% of the words.",
        ),
        ({}, "at most 30.0% of all utterances go to tiny.en and differ from base's text."),
        (
            {"risk": "weak", "tau": 0.1},
            "that go to tiny.en differ from base's text by more than 10.0% of the words.",
        ),
        ({"risk": "mean_loss"}, "going to tiny.en changes at most 30.0% of base's text an utterance, each"),
    ],
)
def test_without_transcripts_a_promise_is_about_differing_from_the_strong_arm_s_text(given, said, simulation):
    random = np.random.default_rng(0)
    pair = simulation.pair_of(random.random(200) < 0.1, np.arange(200))
    asked, scores, none = options(**{"alpha": 0.3, **given}), random.random(200), np.array([])
    threshold, promise = guarantee(asked, pair, scores, none, Reference("strong", "tiny.en", "base"))
    assert said in promise.says
    same, told = guarantee(asked, pair, scores, none)
    assert "the weak arm" in told.says
    assert "base" not in told.says
    assert threshold == same
    assert promise.model_copy(update={"says": told.says}) == told

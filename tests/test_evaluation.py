"""Metrics of a pair worked out by hand, and rules that hold for every pair."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from whisper_router.cost import CURRENCIES, Dims, arm_macs, encoder_macs, paper_encoder_macs, paper_macs
from whisper_router.evaluation import (
    MIN_SPEAKERS,
    Pair,
    Spent,
    auroc,
    build_pair,
    choices,
    evaluate,
    first_blocks,
    oracle_frontier,
    paid_currency,
    routed_cost,
    speaker_weights,
    spent_on,
    sweep,
    with_intervals,
)
from whisper_router.features.kinds import BlocksExtractor
from whisper_router.features.options import ConfidenceExtractor

READS = ("weak", "weak_encoder", "strong_encoder")

SCORES = np.array([0.1, 0.6, 0.9, 0.7])
HAND = Pair(
    speakers=np.array([0, 0, 1, 1]),
    words=np.array([5, 10, 15, 10]),
    weak_errors=np.array([0, 2, 4, 1]),
    strong_errors=np.array([0, 1, 1, 3]),
    label=np.array([0, 1, 1, 0]),
    weak_logprob=np.array([-0.1, -0.9, -0.5, -0.2]),
    strong_logprob=np.array([-0.1, -0.5, -0.6, -0.1]),
    weak={"macs": np.array([10.0, 10, 20, 10]), "macs_paper": np.array([50.0, 60, 70, 60])},
    strong={"macs": np.array([30.0, 40, 50, 40]), "macs_paper": np.array([300.0, 400, 500, 400])},
    weak_encoder={"macs": np.array([8.0, 8, 9, 8]), "macs_paper": np.array([20.0, 20, 20, 20])},
    strong_encoder={"macs": np.array([25.0, 26, 27, 25]), "macs_paper": np.array([90.0, 90, 90, 90])},
)


def values(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: figure["value"] for name, figure in metrics.items() if "value" in figure}


def spent(reads: str, n: int, decider: float = 0.0) -> Spent:
    """The decider costs the same in both accountings."""
    return Spent(reads, dict.fromkeys(CURRENCIES, np.full(n, decider)))


def measured(
    pair: Pair, scores: np.ndarray, threshold: float, reads: str = "weak", decider: float = 0.0
) -> dict:
    return evaluate(pair, scores, threshold, spent(reads, len(scores), decider), 100, 0)


@st.composite
def pairs(draw: st.DrawFn, min_speakers: int = 1) -> Pair:
    """Any pair of arms: errors, costs and confidences without rhyme or reason."""
    n = draw(st.integers(max(2, min_speakers), 24))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    words = random.integers(1, 20, n)
    weak, strong = random.integers(0, words + 3), random.integers(0, words + 3)
    encoder = {currency: random.uniform(1, 5, n) for currency in CURRENCIES}
    weak_cost = {currency: encoder[currency] + random.uniform(0, 20, n) for currency in CURRENCIES}
    strong_cost = {currency: weak_cost[currency] * random.uniform(0.5, 9, n) for currency in CURRENCIES}
    return Pair(
        speakers=np.arange(n) % draw(st.integers(min_speakers, n)),
        words=words,
        weak_errors=weak,
        strong_errors=strong,
        label=(weak > strong).astype(int),
        weak_logprob=random.normal(size=n),
        strong_logprob=random.normal(size=n),
        weak=weak_cost,
        strong=strong_cost,
        weak_encoder=encoder,
        strong_encoder={
            currency: value * random.uniform(0.1, 1, n) for currency, value in strong_cost.items()
        },
    )


def scores_of(pair: Pair, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 6, len(pair.words)) / 5


def many_speakers(weak: list[int], strong: list[int], n: int = 20) -> Pair:
    """``n`` speakers with one utterance of ten words each; errors repeat."""
    cost = {currency: np.ones(n) for currency in CURRENCIES}
    weak_errors, strong_errors = np.resize(weak, n), np.resize(strong, n)
    return Pair(
        speakers=np.arange(n),
        words=np.full(n, 10),
        weak_errors=weak_errors,
        strong_errors=strong_errors,
        label=(weak_errors > strong_errors).astype(int),
        weak_logprob=np.zeros(n),
        strong_logprob=np.zeros(n),
        weak=cost,
        strong={currency: 5 * value for currency, value in cost.items()},
        weak_encoder={currency: value / 2 for currency, value in cost.items()},
        strong_encoder={currency: 4 * value for currency, value in cost.items()},
    )


def test_word_error_rates_of_the_hand_made_pair_are_exact():
    found = values(measured(HAND, SCORES, 0.65))
    assert {name: found[f"wer_{name}"] for name in ("weak", "strong", "routed", "oracle")} == {
        "weak": 7 / 40,
        "strong": 5 / 40,
        "routed": 6 / 40,
        "oracle": 3 / 40,
    }
    assert found["wer_posthoc"] == (0 + 1 + 4 + 3) / 40
    assert found["wer_random"] == round((2 * 7 + 9 * 5) / 11 / 40, 6)  # 140 of 50 to 160 is paid
    assert found["wer_gap"] == 2 / 40
    assert found["gap_recovered"] == 0.5
    assert found["strong_share"] == found["positive_share"] == found["accuracy"] == 0.5
    assert found["auroc"] == 0.75


def test_costs_of_the_hand_made_cascade_are_exact():
    found = values(measured(HAND, SCORES, 0.65, decider=1.0))
    assert found["macs_strong"] == found["macs_paper_strong"] == 1
    assert found["macs_weak"] == 50 / 160
    assert found["macs_routed"] == (50 + 4 + 50 + 40) / 160
    assert found["saving_macs"] == round(1 - (50 + 4 + 50 + 40) / 160, 6)
    assert found["macs_random"] == found["macs_routed"]
    assert found["macs_oracle"] == (10 + 40 + 50 + 10) / 160
    assert found["macs_posthoc"] == (50 + 160) / 160
    assert found["macs_paper_routed"] == (240 + 4 + 500 + 400) / 1600
    assert found["saving_macs_paper"] == round(1 - (240 + 4 + 500 + 400) / 1600, 6)


def test_a_router_on_the_weak_encoder_pays_encoder_and_decider_always_and_the_rest_where_it_goes():
    cost = routed_cost(HAND, SCORES >= 0.65, spent("weak_encoder", 4, 1.0))
    assert cost["macs"].tolist() == [10 + 1, 10 + 1, 9 + 1 + 50, 8 + 1 + 40]
    assert cost["macs_paper"].tolist() == [50 + 1, 60 + 1, 20 + 1 + 500, 20 + 1 + 400]


def test_a_router_on_the_strong_encoder_pays_it_always_and_the_strong_arm_goes_on_from_it():
    cost = routed_cost(HAND, SCORES >= 0.65, spent("strong_encoder", 4, 1.0))
    assert cost["macs"].tolist() == [25 + 1 + 10, 26 + 1 + 10, 50 + 1, 40 + 1]
    assert cost["macs_paper"].tolist() == [90 + 1 + 50, 90 + 1 + 60, 500 + 1, 400 + 1]


def test_a_decider_may_cost_another_sum_in_each_accounting():
    each = Spent("strong_encoder", {"macs": np.arange(4.0), "macs_paper": 10 * np.arange(4.0)})
    free = routed_cost(HAND, SCORES >= 0.65, spent("strong_encoder", 4))
    cost = routed_cost(HAND, SCORES >= 0.65, each)
    for currency in CURRENCIES:
        np.testing.assert_array_equal(cost[currency] - free[currency], each.decider[currency])


@pytest.mark.parametrize(
    ("extractor", "reads"),
    [
        (ConfidenceExtractor(kind="confidence"), "weak"),
        (BlocksExtractor(kind="encoder"), "weak_encoder"),
        (BlocksExtractor(kind="encoder", arm="strong", pool=1), "strong_encoder"),
    ],
    ids=READS,
)
def test_what_is_spent_on_a_decision_follows_from_what_it_reads(extractor, reads):
    decider = dict.fromkeys(CURRENCIES, np.ones(4))
    assert spent_on(extractor, decider) == Spent(reads, decider)


@settings(max_examples=50)
@given(blocks=st.integers(1, 5), limit=st.floats(0, 1))
def test_first_blocks_are_paid_always_and_the_strong_arm_goes_on_from_them(blocks, limit):
    first = {"macs": np.arange(4.0) + blocks, "macs_paper": np.full(4, 7.0)}
    pair = replace(HAND, strong_blocks={blocks: first, blocks + 1: HAND.strong_encoder})
    decider = dict.fromkeys((*CURRENCIES, "cpu_seconds"), np.full(4, 2.0))
    extractor = BlocksExtractor(kind="encoder", arm="strong", blocks=blocks)
    strong = limit <= SCORES
    cost = routed_cost(pair, strong, spent_on(extractor, decider))
    assert set(cost) == set(CURRENCIES)  # the first blocks' seconds are not measured
    for currency in CURRENCIES:
        weak = first[currency] + 2 + pair.weak[currency]
        np.testing.assert_allclose(cost[currency], np.where(strong, 2 + pair.strong[currency], weak))


def test_a_pair_knows_what_each_number_of_first_blocks_costs():
    rows = [("a", "weak", -0.1, 5, [500], [9]), ("a", "strong", -0.2, 6, [700, 1500], [10, 10])]
    columns = ["id", "arm", "avg_logprob", "tokens", "attempt_contexts", "attempt_tokens"]
    labels = pd.DataFrame(
        {"id": ["a"], "speaker": ["s"], "words": [4], "errors_weak": [2], "errors_strong": [1], "label": [1]}
    )
    pair = build_pair(labels, pd.DataFrame(rows, columns=columns), {"weak": TINY, "strong": BASE})
    assert list(pair.strong_blocks) == list(range(1, BASE.audio_layers))
    for blocks, cost in pair.strong_blocks.items():
        assert first_blocks(BASE, blocks).audio_layers == blocks
        d, frames = BASE.width, 700
        front = BASE.n_mels * d * 6 + 3 * d * d
        attention = blocks * 2 * frames * frames * d
        assert cost["macs"].tolist() == [frames * (front + blocks * 12 * d * d) + attention]
        assert cost["macs_paper"].tolist() == [1500 * (front + blocks * 12 * d * d)]
        assert cost["macs"] < pair.strong_encoder["macs"]


@pytest.mark.parametrize("reads", ["weak", "weak_encoder"])
def test_a_threshold_above_every_score_costs_what_the_weak_arm_costs(reads):
    found = values(measured(HAND, SCORES, 1.000001, reads))
    assert found["wer_routed"] == found["wer_weak"] == found["wer_random"]
    for currency in CURRENCIES:
        assert found[f"{currency}_routed"] == found[f"{currency}_weak"] == found[f"{currency}_random"]


def test_a_threshold_below_every_score_costs_what_the_strong_arm_costs_if_its_encoder_was_read():
    found = values(measured(HAND, SCORES, 0.0, "strong_encoder"))
    assert found["wer_routed"] == found["wer_strong"]
    assert found["macs_routed"] == found["macs_paper_routed"] == 1


def test_the_post_hoc_choice_keeps_the_weak_hypothesis_where_both_are_as_likely():
    tied = replace(HAND, strong_logprob=HAND.weak_logprob)
    found = values(measured(tied, SCORES, 0.65))
    assert found["wer_posthoc"] == found["wer_weak"] != found["wer_strong"]


def test_a_score_on_the_threshold_is_sent_to_the_strong_arm():
    assert measured(HAND, SCORES, 0.6)["counts"]["sent_to_strong"] == 3


def test_counts_are_those_of_the_split():
    assert measured(HAND, SCORES, 0.65)["counts"] == {
        "utterances": 4,
        "speakers": 2,
        "need_strong": 2,
        "sent_to_strong": 2,
    }


@pytest.mark.parametrize("n", [1, 2, MIN_SPEAKERS - 1])
def test_under_10_speakers_are_too_few_for_an_interval(n):
    pair = replace(many_speakers([3, 1], [1, 1]), speakers=np.arange(20) % n)
    found = measured(pair, scores_of(pair, 0), 0.5)
    intervals = {figure["interval"] for figure in found.values() if "interval" in figure}
    assert intervals == {f"too few: {n} speakers, an interval takes {MIN_SPEAKERS}"}


def test_from_10_speakers_on_every_figure_has_an_interval_around_it():
    pair = replace(many_speakers([3, 1, 9], [1, 1, 1], 30), speakers=np.arange(30) % MIN_SPEAKERS)
    found = measured(pair, scores_of(pair, 0), 0.5)
    for name, figure in found.items():
        if name != "counts":
            low, high = figure["interval"]
            assert low <= figure["value"] <= high, name
    low, high = found["wer_routed"]["interval"]
    assert low < high


def test_an_interval_is_the_same_each_time_and_differs_with_the_seed():
    pair = many_speakers([3, 1, 2, 7], [1, 0, 4])
    first, again, other = (
        evaluate(pair, scores_of(pair, 0), 0.5, spent("weak", 20), 100, seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first["wer_weak"]["interval"] != other["wer_weak"]["interval"]
    assert first["wer_weak"]["value"] == other["wer_weak"]["value"]


def test_speakers_that_are_all_alike_leave_no_uncertainty():
    found = measured(many_speakers([4], [2]), np.full(20, 0.5), 0.5)
    assert found["wer_weak"] == {"value": 0.4, "interval": [0.4, 0.4]}


def test_an_interval_has_the_width_of_a_mean_s():
    random = np.random.default_rng(0)
    pair = many_speakers(random.integers(0, 10, 400).tolist(), [0], 400)

    def wer(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"wer": weights @ pair.weak_errors / (weights @ pair.words)}

    low, high = with_intervals(wer, pair.speakers, 2000, 0)["wer"]["interval"]
    expected = 2 * 1.96 * np.std(pair.weak_errors / 10) / np.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.15)


def test_speakers_are_drawn_whole():
    speakers = np.array([0, 0, 0, 1, 2, 2])
    weights = speaker_weights(speakers, 50, 0)
    assert weights.shape == (50, 6)
    for speaker in range(3):
        own = weights[:, speakers == speaker]
        assert (own == own[:, :1]).all()
    np.testing.assert_array_equal(weights[:, [0, 3, 4]].sum(axis=1), 3)
    assert len(np.unique(weights, axis=0)) > 5


def test_a_figure_that_some_resamples_lack_has_the_interval_of_the_others():
    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights[:, 0] > 0
        return {"some": np.where(drawn, 2.0, np.nan), "none": np.full(len(weights), np.nan)}

    found = with_intervals(measure, np.arange(12), 100, 0)
    assert found["some"] == {"value": 2.0, "interval": [2.0, 2.0]}
    assert found["none"] == {"value": None, "interval": [None, None]}


def test_the_gap_recovered_is_null_with_a_reason_where_the_gap_may_be_0():
    found = measured(many_speakers([3, 1], [1, 3]), scores_of(HAND, 0).repeat(5), 0.5)
    low, high = found["wer_gap"]["interval"]
    assert low < 0 < high
    assert found["gap_recovered"]["value"] is None
    assert (
        found["gap_recovered"]["reason"]
        == f"the interval of WER_weak - WER_strong, {low:.4f} to {high:.4f}, holds 0"
    )


def test_the_gap_recovered_is_a_number_where_the_gap_is_sure():
    pair = many_speakers([3, 5], [1, 1])
    found = measured(pair, np.resize([0.2, 0.8], 20), 0.5)
    assert found["gap_recovered"]["value"] == pytest.approx(4 / 6)
    assert "reason" not in found["gap_recovered"]


def test_no_gap_is_recovered_where_the_weak_arm_is_the_better():
    found = measured(many_speakers([1, 1], [3, 5]), np.resize([0.2, 0.8], 20), 0.5)
    assert found["wer_gap"]["interval"][1] < 0
    assert found["gap_recovered"]["value"] is None


def test_a_split_of_one_class_has_no_auroc_and_equal_arms_no_gap():
    found = measured(many_speakers([2], [2]), np.full(20, 0.5), 0.7)
    assert found["auroc"]["value"] is None
    assert found["gap_recovered"]["value"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("speakers", [20, 5])
def test_every_figure_that_is_null_has_a_reason(speakers):
    pair = replace(many_speakers([2], [2]), speakers=np.arange(20) % speakers)
    found = measured(pair, np.full(20, 0.5), 0.7)
    nulls = {name: figure for name, figure in found.items() if figure.get("value", 0) is None}
    assert set(nulls) == {"auroc", "gap_recovered"}
    assert all(figure.get("reason") for figure in nulls.values())


@pytest.mark.parametrize(
    ("known", "paid"),
    [
        ({"macs", "macs_paper"}, "macs"),
        ({"joules", "macs", "cpu_seconds"}, "cpu_seconds"),
        ({"macs_paper"}, "macs_paper"),
        ({"joules"}, "joules"),
    ],
)
def test_costs_are_compared_in_the_currency_that_is_paid_first(known, paid):
    assert paid_currency(known) == paid


def test_random_routing_is_mixed_in_the_only_currency_that_is_known():
    strong = SCORES >= 0.65
    routed = {"macs_paper": routed_cost(HAND, strong, spent("weak", 4))["macs_paper"]}
    mixed = choices(HAND, strong, routed)["random"]
    assert mixed.cost["macs_paper"].sum() == pytest.approx(routed["macs_paper"].sum())


PROPERTY = settings(max_examples=30)


@PROPERTY
@given(pair=pairs(), seed=st.integers(0, 99), threshold=st.floats(-0.1, 1.1), reads=st.sampled_from(READS))
def test_the_oracle_is_the_best_and_random_lies_on_the_line(pair, seed, threshold, reads):
    found = values(evaluate(pair, scores_of(pair, seed), threshold, spent(reads, len(pair.words)), 2, 0))
    tolerance = 2e-6
    others = ("weak", "strong", "routed", "random", "posthoc")
    assert all(found["wer_oracle"] <= found[f"wer_{name}"] + tolerance for name in others)
    ends = sorted((found["macs_weak"], found["macs_strong"]))
    assert found["macs_random"] == pytest.approx(np.clip(found["macs_routed"], *ends), abs=tolerance)
    price = found["macs_strong"] - found["macs_weak"]
    if abs(price) > 0.05:
        share = (found["macs_random"] - found["macs_weak"]) / price
        for figure in ("wer", *CURRENCIES):
            line = (1 - share) * found[f"{figure}_weak"] + share * found[f"{figure}_strong"]
            assert found[f"{figure}_random"] == pytest.approx(line, abs=tolerance * 200)
    for currency in CURRENCIES:
        assert found[f"saving_{currency}"] == pytest.approx(1 - found[f"{currency}_routed"], abs=tolerance)


@PROPERTY
@given(pair=pairs(), seed=st.integers(0, 99), reads=st.sampled_from(READS))
def test_a_sweep_runs_from_always_weak_to_always_strong(pair, seed, reads):
    scores = scores_of(pair, seed)
    table = sweep(pair, scores, spent(reads, len(scores)))
    first, last = table.iloc[0], table.iloc[-1]
    assert (first["strong_share"], last["strong_share"]) == (0, 1)
    assert first["wer_routed"] == pytest.approx(pair.weak_errors.sum() / pair.words.sum())
    assert last["wer_routed"] == pytest.approx(pair.strong_errors.sum() / pair.words.sum())
    for currency in CURRENCIES:
        strong = pair.strong[currency].sum()
        before = getattr(pair, reads)[currency].sum()
        again = {"weak": (0, 1), "weak_encoder": (0, 1), "strong_encoder": (1, 0)}[reads]  # paid for nothing
        weak = (pair.weak[currency].sum() + again[0] * before) / strong
        assert first[f"{currency}_routed"] == pytest.approx(weak)
        assert last[f"{currency}_routed"] == pytest.approx(1 + again[1] * before / strong)
    assert table["threshold"].is_monotonic_decreasing
    assert table["strong_share"].is_monotonic_increasing
    assert len(table) == len(np.unique(scores)) + 1


@PROPERTY
@given(pair=pairs(), seed=st.integers(0, 99), threshold=st.floats(0, 1), reads=st.sampled_from(READS))
def test_a_point_of_the_sweep_is_what_the_evaluation_says(pair, seed, threshold, reads):
    scores, free = scores_of(pair, seed), spent(reads, len(pair.words))
    table = sweep(pair, scores, free)
    point = table[table["threshold"] >= threshold].iloc[-1]
    found = values(evaluate(pair, scores, threshold, free, 2, 0))
    for name in ("strong_share", "wer_routed", *(f"{currency}_routed" for currency in CURRENCIES)):
        assert point[name] == pytest.approx(found[name], abs=2e-6)


@PROPERTY
@given(pair=pairs())
def test_the_oracle_s_frontier_runs_from_weak_to_oracle_and_beats_every_single_step(pair):
    made = choices(pair, pair.label == 1, pair.strong)
    for currency in CURRENCIES:
        cost, wer = oracle_frontier(pair, currency)
        whole = pair.strong[currency].sum()
        assert (cost[0], wer[0]) == pytest.approx(
            (pair.weak[currency].sum() / whole, pair.weak_errors.sum() / pair.words.sum())
        )
        assert (cost[-1], wer[-1]) == pytest.approx(
            (made["oracle"].cost[currency].sum() / whole, made["oracle"].errors.sum() / pair.words.sum())
        )
        assert (np.diff(wer) < 0).all()
        slopes = [-dy / dx if dx > 0 else np.inf for dx, dy in zip(np.diff(cost), np.diff(wer), strict=True)]
        assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(slopes))


TINY, BASE = Dims(80, 384, 4, 4, 51865, 4), Dims(80, 512, 6, 6, 51865, 4)


def test_a_pair_is_built_from_labels_and_transcripts_by_id():
    labels = pd.DataFrame(
        {
            "id": ["b", "a"],
            "speaker": ["talks/2", "talks/1"],
            "words": [4, 6],
            "errors_weak": [2, 1],
            "errors_strong": [1, 1],
            "label": [1, 0],
        }
    )
    rows = [
        ("a", "weak", -0.1, 5, [500], [9]),
        ("a", "strong", -0.2, 6, [500], [10]),
        ("unlabelled", "weak", -9.0, 1, [500], [5]),
        ("b", "strong", -0.3, 7, [500, 1500], [30, 11]),
        ("b", "weak", -0.4, 8, [500, 1500, 1500], [40, 35, 12]),
    ]
    columns = ["id", "arm", "avg_logprob", "tokens", "attempt_contexts", "attempt_tokens"]
    pair = build_pair(labels, pd.DataFrame(rows, columns=columns), {"weak": TINY, "strong": BASE})
    assert pair.n_speakers == 2
    assert pair.words.tolist() == [4, 6]
    assert (pair.weak_errors.tolist(), pair.strong_errors.tolist()) == ([2, 1], [1, 1])
    assert pair.label.tolist() == [1, 0]
    assert (pair.weak_logprob.tolist(), pair.strong_logprob.tolist()) == ([-0.4, -0.1], [-0.3, -0.2])
    assert pair.weak["macs"].tolist() == [
        arm_macs(TINY, [(500, 40), (1500, 35), (1500, 12)]),
        arm_macs(TINY, [(500, 9)]),
    ]
    assert pair.strong["macs"].tolist() == [
        arm_macs(BASE, [(500, 30), (1500, 11)]),
        arm_macs(BASE, [(500, 10)]),
    ]
    assert pair.weak["macs_paper"].tolist() == [paper_macs(TINY, 8), paper_macs(TINY, 5)]
    assert pair.strong["macs_paper"].tolist() == [paper_macs(BASE, 7), paper_macs(BASE, 6)]
    assert pair.weak_encoder["macs"].tolist() == [encoder_macs(TINY, 500)] * 2
    assert pair.weak_encoder["macs_paper"].tolist() == [paper_encoder_macs(TINY)] * 2
    assert pair.strong_encoder["macs"].tolist() == [encoder_macs(BASE, 500)] * 2
    assert pair.strong_encoder["macs_paper"].tolist() == [paper_encoder_macs(BASE)] * 2


SMALL = Dims(80, 768, 12, 12, 51865, 4)
TOKENS = 14


def paper_pair(n: int) -> Pair:
    """Tiny and Small over 30 s, 14 tokens an utterance."""
    weak, strong = (
        {"macs": arm_macs(dims, [(1500, 4 + TOKENS)]), "macs_paper": paper_macs(dims, TOKENS)}
        for dims in (TINY, SMALL)
    )
    encoders = [
        {"macs": encoder_macs(dims, 1500), "macs_paper": paper_encoder_macs(dims)} for dims in (TINY, SMALL)
    ]
    whole = [{c: np.full(n, value, float) for c, value in cost.items()} for cost in (weak, strong, *encoders)]
    return replace(many_speakers([1], [0], n), **dict(zip(PAPER_COSTS, whole, strict=True)))


PAPER_COSTS = ("weak", "strong", "weak_encoder", "strong_encoder")


@pytest.mark.parametrize(
    ("reads", "currency", "share", "percent"),
    [
        ("strong_encoder", "macs_paper", 0.15, 87.0),
        ("strong_encoder", "macs_paper", 0.30, 73.9),
        ("strong_encoder", "macs_paper", 0.50, 56.5),
        ("strong_encoder", "macs", 0.15, 100.2),
        ("strong_encoder", "macs", 0.30, 99.9),
        ("strong_encoder", "macs", 0.50, 99.6),
        ("weak_encoder", "macs", 0.30, 80),
        ("weak_encoder", "macs", 0.50, 60),
        ("weak", "macs", 0.30, 81),
        ("weak", "macs", 0.50, 61),
    ],
)
def test_shares_of_always_small_are_those_computed_from_the_paper(reads, currency, share, percent):
    """Tables computed from Whisper's sizes; the paper's ResNet takes 0.89 G."""
    scores = np.arange(20) / 20
    decider = 0.89e9 if reads == "strong_encoder" else 0.0
    found = values(measured(paper_pair(20), scores, share, reads, decider))
    assert found["strong_share"] == pytest.approx(1 - share)
    tolerance = 0.06 if reads == "strong_encoder" else 0.6
    assert 100 * found[f"{currency}_routed"] == pytest.approx(percent, abs=tolerance)


def test_a_label_without_its_transcript_is_named():
    labels = pd.DataFrame({"id": ["a"]})
    transcripts = pd.DataFrame({"id": ["b"], "arm": ["weak"]})
    with pytest.raises(KeyError, match="a"):
        build_pair(labels, transcripts, {"weak": TINY})


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_the_area_under_the_curve_is_that_of_scikit_learn(seed: int):
    random = np.random.default_rng(seed)
    label = np.r_[0, 1, random.integers(0, 2, 30)]
    scores = random.random(32).round(1)
    weights = random.integers(1, 4, (3, 32)).astype(float)
    expected = [roc_auc_score(label, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(auroc(label, scores, weights), expected)


def folded(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with ties, folds by number (some of one class), and rows of weights."""
    random = np.random.default_rng(seed)
    n = int(random.integers(8, 60))
    folds = random.integers(0, random.integers(1, 6), n) * 7
    label = random.integers(0, 2, n)
    label[:4], folds[:4] = (0, 1, 0, 1), folds[0]
    label[folds == folds[-1]] = 0 if folds[-1] != folds[0] else label[folds == folds[-1]]
    return label, random.random(n).round(1), folds, random.integers(1, 4, (3, n)).astype(float)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_the_area_by_fold_is_that_of_scikit_learn_within_each_weighted_by_its_pairs(seed: int):
    label, scores, folds, weights = folded(seed)
    expected = []
    for row in weights:
        areas, pairs_ = [], []
        for fold in np.unique(folds):
            mine = folds == fold
            if len(set(label[mine])) == 2:
                areas.append(roc_auc_score(label[mine], scores[mine], sample_weight=row[mine]))
                pairs_.append(row[mine & (label == 1)].sum() * row[mine & (label == 0)].sum())
        expected.append(np.average(areas, weights=pairs_))
    np.testing.assert_allclose(auroc(label, scores, weights, folds), expected)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_the_area_by_fold_knows_no_scale_of_a_fold_s_scores(seed: int):
    label, scores, folds, weights = folded(seed)
    moved = scores * (1 + folds) + 100 * folds
    found = auroc(label, scores, weights, folds)
    np.testing.assert_allclose(auroc(label, moved, weights, folds), found)
    np.testing.assert_allclose(
        auroc(label, scores, weights, np.full(len(label), 3)), auroc(label, scores, weights)
    )


def test_folds_of_one_class_each_have_no_area():
    label, ones = np.array([0, 0, 1, 1]), np.ones((1, 4))
    assert np.isnan(auroc(label, np.arange(4.0), ones, label)).all()


def test_an_evaluation_counts_pairs_within_a_fold_alone():
    pair = many_speakers([2, 0], [1, 1])
    folds = np.arange(20) // 10
    scores = np.where(pair.label == 1, 0.4, 0.2) + 0.5 * folds  # right within a fold, not across
    whole = evaluate(pair, scores, 0.5, spent("weak", 20), 100, 0)
    within = evaluate(pair, scores, 0.5, spent("weak", 20), 100, 0, folds)
    assert whole["auroc"]["value"] == pytest.approx(0.75)
    assert within["auroc"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert {name: figure for name, figure in within.items() if name != "auroc"} == {
        name: figure for name, figure in whole.items() if name != "auroc"
    }

"""The verdict: outcomes that are known, and rules that hold for every pair."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.evaluation import MIN_SPEAKERS, Pair
from whisper_router.policy.options import VerdictOptions
from whisper_router.verdict import RANDOM, Candidate, Verdict, choose_policy, judge

MODELS = {"weak": "tiny.en", "strong": "base"}


def make_pair(weak: float, strong: float, n: int = 400, speakers: int = 40, seed: int = 0) -> Pair:
    """Utterances of ten words; an arm errs on this share of them, independently; strong costs 4 times."""
    random = np.random.default_rng(seed)
    errors = {"weak": random.binomial(10, weak, n), "strong": random.binomial(10, strong, n)}
    ones = np.ones(n)
    costs = {name: {"macs": factor * ones} for name, factor in (("weak", 10.0), ("strong", 40.0))}
    return Pair(
        speakers=np.arange(n) % speakers,
        words=np.full(n, 10),
        weak_errors=errors["weak"],
        strong_errors=errors["strong"],
        label=(errors["weak"] > errors["strong"]).astype(int),
        weak_logprob=ones,
        strong_logprob=ones,
        weak=costs["weak"],
        strong=costs["strong"],
        weak_encoder={"macs": 3 * ones},
        strong_encoder={"macs": 20 * ones},
    )


def candidate(pair: Pair, strong: np.ndarray, rise: float = 0.0, saving: float = 0.3) -> Candidate:
    """A cascade: the weak arm always, the strong one where it is sent to."""
    cost = {"macs": pair.weak["macs"] + np.where(strong, pair.strong["macs"], 0.0)}
    return Candidate(strong, cost, rise, {"macs": saving})


def verdict_of(pair: Pair, strong: np.ndarray, **more: object) -> Verdict:
    options = VerdictOptions()
    return judge(pair, {"cascade": candidate(pair, strong)}, MODELS, options, 400, 0, **more)


def test_a_router_that_keeps_the_wer_for_less_is_advised():
    pair = make_pair(0.2, 0.05)
    pair = replace(pair, weak_errors=np.where(np.arange(400) % 4, pair.strong_errors, 9))
    pair = replace(pair, label=(pair.weak_errors > pair.strong_errors).astype(int))
    made = verdict_of(pair, pair.label == 1)
    assert (made.outcome, made.policy, made.dominated_by) == ("route", "cascade", None)
    assert made.headline.startswith("route with cascade. WER")
    assert made["cascade"].cost == pytest.approx(0.25 + 0.25, abs=0.03)
    assert made["cascade"].wer < made[RANDOM].wer
    assert made[RANDOM].cost == pytest.approx(made["cascade"].cost)
    assert "of 10 utterances go to base" in made.headline
    assert made.next_steps("cascade") == ["`whisper-router register --commit --champion` lets it serve"]
    assert "router.policy=cascade" in made.next_steps("other")[0]


def test_a_weak_arm_that_is_as_good_is_advised_alone():
    pair = make_pair(0.05, 0.05)
    pair = replace(pair, strong_errors=pair.weak_errors, label=np.zeros(400, dtype=int))
    made = verdict_of(pair, np.arange(400) % 2 == 0)
    assert (made.outcome, made.dominated_by) == ("weak", "weak")
    assert made.headline.startswith("do not route. tiny.en alone is good enough")
    assert made.next_steps("cascade")[0].startswith("use tiny.en alone")


def test_a_router_without_skill_is_not_advised():
    pair = make_pair(0.4, 0.05)
    made = verdict_of(pair, np.arange(400) % 2 == 0)
    assert made.outcome == "strong"
    assert made["cascade"].wer >= made["strong"].wer
    assert "Use base alone" in made.headline


def test_a_router_that_costs_more_than_the_strong_arm_is_dominated():
    pair = make_pair(0.4, 0.05)
    made = verdict_of(pair, np.arange(400) % 20 > 0)
    assert (made.outcome, made.dominated_by) == ("strong", "strong")
    assert "costs 120% of its multiply-accumulates" in made.headline


def test_few_utterances_leave_it_open_and_more_would_tell():
    pair = make_pair(0.13, 0.1, n=40, speakers=20)
    made = verdict_of(pair, (pair.label == 1) & (np.arange(40) % 2 == 0))
    assert made.outcome == "open"
    assert made.headline.startswith("too little data to tell. So far: ")
    assert made.more is not None
    assert made.more.utterances > 40
    assert f"About {made.more.utterances:,} more" in made.basis
    assert made.next_steps("cascade")[0].startswith("add utterances")


def test_below_ten_speakers_nothing_is_told():
    pair = make_pair(0.4, 0.05, speakers=MIN_SPEAKERS - 1)
    made = verdict_of(pair, np.arange(400) % 2 == 0)
    assert (made.outcome, made.leaning, made.resolution, made.more) == ("open", "strong", None, None)
    assert "takes 10 speakers" in made.basis


def test_few_utterances_that_lose_are_counted_at_their_upper_bound():
    """Three of 60 utterances lose a word each by going to the weak arm, none gains: 0.5 points are seen."""
    pair = make_pair(0.0, 0.0, n=60, speakers=20)
    pair = replace(pair, weak_errors=(np.arange(60) % 21 == 0).astype(int))
    made = verdict_of(pair, np.zeros(60, dtype=bool))
    assert made["weak"].wer == 0.005
    assert made["weak"].at_most_worse == pytest.approx(8.767 / 600, abs=1e-4)
    assert made.outcome == "strong"
    same = verdict_of(replace(pair, weak_errors=pair.strong_errors), np.zeros(60, dtype=bool))
    assert (same.outcome, same["weak"].at_most_worse) == ("weak", pytest.approx(3.689 / 600, abs=1e-4))


def test_a_verdict_is_kept_and_read(tmp_path):
    made = verdict_of(make_pair(0.2, 0.1, n=60), np.arange(60) % 2 == 0)
    made.write(tmp_path / "verdict.json")
    assert Verdict.read(tmp_path / "verdict.json") == made


def test_without_transcripts_the_strong_arm_has_no_figure_of_quality():
    pair = make_pair(0.1, 0.05)
    pair = replace(pair, strong_errors=np.zeros(400, dtype=int), label=(pair.weak_errors > 0).astype(int))
    made = verdict_of(pair, pair.label == 1, reference="strong")
    assert "WER" not in made.headline
    assert "base alone" not in made.headline or "Use base alone" in made.headline
    assert "words that differ from base's text" in made.headline


def test_calibration_chooses_the_cheapest_policy_near_the_best():
    pair = make_pair(0.2, 0.1, n=20)
    none = np.zeros(20, dtype=bool)
    known = {
        "best": candidate(pair, none, 0.000, -0.1),
        "near": candidate(pair, none, 0.009, 0.4),
        "far": candidate(pair, none, 0.050, 0.7),
    }
    assert choose_policy(known, 1.0, "macs") == "near"
    assert choose_policy(known, 0.5, "macs") == "best"
    assert choose_policy({name: known[name] for name in ("near", "far")}, 0.5, "macs") == "near"


@settings(max_examples=60)
@given(
    weak=st.floats(0.01, 0.5),
    strong=st.floats(0.01, 0.5),
    n=st.integers(10, 120),
    speakers=st.integers(1, 30),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
)
def test_an_advised_choice_is_within_tolerance_and_none_that_is_too_is_cheaper(
    weak, strong, n, speakers, seed, share
):
    pair = make_pair(weak, strong, n, speakers, seed)
    sent = np.random.default_rng(seed).uniform(size=n) < share
    made = verdict_of(pair, sent)
    arms = [made[name] for name in ("weak", "strong", "cascade")]
    if made.outcome == "open":
        near = [one for one in arms if one.at_most_worse is not None and one.at_most_worse <= 0.01]
        assert all(one.name == "cascade" for one in near)  # and the cascade does no better than the dice
        return
    chosen = made["cascade" if made.outcome == "route" else made.outcome]
    assert chosen.at_most_worse <= 0.01 + 1e-6
    assert chosen.wer <= min(one.wer for one in arms) + 0.01 + 1e-6
    for other in arms:
        if other.cost < chosen.cost - 1e-6 and other.at_most_worse <= 0.01 - 1e-6:
            assert other.name == "cascade"
            assert made["cascade"].wer >= made[RANDOM].wer - 1e-6

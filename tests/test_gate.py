"""The gate's rules on contests whose outcome is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whisper_router.contest import Performance
from whisper_router.gate import (
    Contest,
    Evidence,
    Verdict,
    default_policy,
    guarantee,
    improvement,
    judge,
    latency,
    size,
    slices,
    worth,
)
from whisper_router.policy.calibrate import Policy, Promise
from whisper_router.retrain_options import GateOptions

N, SPEAKERS = 240, 24
OPTIONS = GateOptions(resamples=300)


def side(errors: np.ndarray, seconds: float = 0.5) -> Performance:
    return Performance(errors, np.full(len(errors), seconds), np.zeros(len(errors), bool), Path())


def macs(champion: float, challenger: float, weak: float = 20.0) -> dict[str, np.ndarray]:
    values = {"champion": champion, "challenger": challenger, "weak": weak, "strong": 110.0}
    return {name: np.full(N, value) for name, value in values.items()}


@pytest.fixture
def contest() -> Contest:
    """Champion and challenger alike; the arms differ by a word in every second utterance."""
    random = np.random.default_rng(0)
    errors = random.integers(0, 3, N)
    weak = errors + (np.arange(N) % 2)
    return Contest(
        side(errors),
        side(errors.copy()),
        np.arange(N) % SPEAKERS,
        np.full(N, 10),
        weak,
        errors,
        macs(100.0, 100.0),
        pd.DataFrame({"corpus": np.where(np.arange(N) < N // 2, "calls", "talks")}),
    )


def test_the_same_again_is_no_improvement(contest):
    verdict = improvement(contest, OPTIONS)
    assert not verdict.passed
    assert "wanted 2.0% of the gap" in verdict.detail


def test_fewer_errors_pass_and_say_how_much_of_the_gap(contest):
    better = contest.champion.errors - (np.arange(N) % 4 == 0)
    verdict = improvement(replace(contest, challenger=side(better)), OPTIONS)
    assert verdict.passed
    assert "recovers 50.0% more of the gap" in verdict.detail


def test_a_saving_passes_only_at_equal_errors(contest):
    cheaper = replace(contest, macs=macs(100.0, 80.0))
    assert improvement(cheaper, OPTIONS).passed
    worse = contest.champion.errors + (np.arange(N) % 8 == 0)
    verdict = improvement(replace(cheaper, challenger=side(worse)), OPTIONS)
    assert not verdict.passed
    assert "saves 20.0%" in verdict.detail


def test_a_gain_that_one_speaker_makes_is_none(contest):
    better = np.where(contest.speakers == 0, 0, contest.champion.errors)
    verdict = improvement(replace(contest, challenger=side(better), macs=None), OPTIONS)
    assert not verdict.passed
    assert "costs are not compared" in verdict.detail


def test_a_challenger_that_an_arm_alone_dominates_is_not_worth_serving(contest):
    assert worth(contest).passed
    bad = side(contest.weak_errors + 1)
    verdict = worth(replace(contest, challenger=bad))
    assert not verdict.passed
    assert "always-weak has WER 15." in verdict.detail
    assert "the challenger 25." in verdict.detail
    assert worth(replace(contest, challenger=bad, macs=macs(100.0, 10.0))).passed  # cheaper than the weak arm
    dear = worth(replace(contest, macs=macs(120.0, 120.0)))
    assert not dear.passed
    assert "always-strong" in dear.detail
    assert "the champion is not worth serving either: always-strong" in dear.detail


def test_evidence_without_the_costs_of_the_arms_is_judged_as_it_was(contest, routers):
    kept = {name: contest.macs[name] for name in ("champion", "challenger")}
    older = replace(contest, challenger=replace(contest.challenger, router=routers["confidence"]), macs=kept)
    assert [verdict.rule for verdict in judge(older, OPTIONS)] == [
        "improvement",
        "slices",
        "guarantee",
        "latency",
    ]


def test_few_speakers_are_not_judged(contest):
    few = replace(contest, speakers=np.arange(N) % 9)
    assert improvement(few, OPTIONS).detail == "9 test speakers, a judgement takes 10"


def test_a_slice_that_lost_is_named(contest):
    assert slices(contest, OPTIONS).passed
    worse = contest.champion.errors + ((np.arange(N) < N // 2) & (np.arange(N) % 2 == 0))
    verdict = slices(replace(contest, challenger=side(worse)), OPTIONS)
    assert not verdict.passed
    assert "corpus calls: WER up by 5.00% on 1200 words" in verdict.detail
    assert slices(replace(contest, challenger=side(worse)), GateOptions(min_slice_words=1201)).passed


def test_slower_or_larger_than_allowed_fails(contest):
    errors = contest.champion.errors
    assert latency(replace(contest, challenger=side(errors, 0.625)), OPTIONS).passed
    assert not latency(replace(contest, challenger=side(errors, 0.63)), OPTIONS).passed
    assert size(100_000_000, OPTIONS).passed
    assert not size(100_000_001, OPTIONS).passed


def test_every_rule_is_judged(contest, routers):
    judged = replace(contest, challenger=replace(contest.challenger, router=routers["confidence"]))
    verdicts = {verdict.rule: verdict for verdict in judge(judged, OPTIONS)}
    assert list(verdicts) == ["worth", "improvement", "slices", "guarantee", "latency"]
    assert verdicts["guarantee"] == Verdict("guarantee", True, "policy half (strong_share) promises nothing")


@pytest.fixture
def promising(routers) -> Callable[..., Policy]:
    """A policy that promises a share of harm of at most alpha."""
    policy = default_policy(routers["confidence"])

    def make(alpha: float, **more: object) -> Policy:
        said = {"says": "at most so many", "assumes": "draws", "observed": 0, "units": 90, "least_units": 22}
        fields = {"holds": True, "risk": "all", "unit": "utterance", "alpha": alpha, **said, **more}
        return policy.model_copy(update={"kind": "guarantee", "promise": Promise.model_validate(fields)})

    return make


def test_a_promise_is_broken_only_where_the_whole_interval_is_above(contest, promising):
    """All go to the weak arm, and every second utterance is worse there."""
    verdicts = {alpha: guarantee(contest, promising(alpha), OPTIONS) for alpha in (0.2, 0.5, 0.6)}
    assert [verdict.passed for verdict in verdicts.values()] == [False, True, True]
    assert verdicts[0.2].detail.startswith("harm_all 50.00%, promised at most 20.00% (95 %: ")
    lucky = replace(contest, weak_errors=contest.strong_errors + (contest.speakers < 3))
    assert guarantee(lucky, promising(0.1), OPTIONS).passed  # 12.5 %, but of three speakers of 24


def test_what_goes_to_strong_breaks_no_promise(contest, promising):
    strong = replace(contest, challenger=replace(contest.challenger, strong=np.ones(N, bool)))
    assert guarantee(strong, promising(0.01), OPTIONS).passed
    weak = guarantee(strong, promising(0.01, risk="weak"), OPTIONS)
    assert weak == Verdict("guarantee", True, "nothing goes to the weak arm")


def test_losses_within_tau_count_for_nothing(contest, promising):
    assert guarantee(contest, promising(0.01, tau=0.1), OPTIONS).passed
    assert not guarantee(contest, promising(0.01, tau=0.09), OPTIONS).passed


def test_a_policy_that_could_promise_nothing_fails(contest, promising):
    verdict = guarantee(contest, promising(0.3, holds=False, says="No promise: too few"), OPTIONS)
    assert verdict == Verdict("guarantee", False, "policy half: No promise: too few")


@pytest.mark.parametrize("costs", [True, False])
def test_what_a_verdict_was_made_of_is_kept_and_gives_the_same_verdict(contest, tmp_path, routers, costs):
    router = routers["confidence"]
    better = contest.champion.errors - (np.arange(N) % 4 == 0)
    held = replace(
        contest,
        challenger=replace(side(better), router=router),
        macs=contest.macs if costs else None,
    )
    evidence = Evidence(OPTIONS, 1234, "3", held)
    evidence.write(tmp_path / "gate")
    read = Evidence.read(tmp_path / "gate", router)
    assert (read.options, read.size_bytes, read.champion) == (OPTIONS, 1234, "3")
    assert read.judge() == evidence.judge()
    assert len(read.judge()) == 6


@pytest.mark.parametrize("champion", [None, "3"])
def test_a_verdict_without_a_contest_is_kept_too(tmp_path, champion):
    evidence = Evidence(
        OPTIONS, 1234, champion, None, "version 3 cannot be run: no such file" if champion else ""
    )
    evidence.write(tmp_path)
    read = Evidence.read(tmp_path, tmp_path)
    assert read == evidence
    assert [verdict.passed for verdict in read.judge()] == [True, champion is None]

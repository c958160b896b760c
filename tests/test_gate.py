"""The gate's rules on contests whose outcome is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whisper_router.contest import Performance
from whisper_router.gate import Contest, improvement, judge, latency, size, slices
from whisper_router.retrain_options import GateOptions

N, SPEAKERS = 240, 24
OPTIONS = GateOptions(resamples=300)


def side(errors: np.ndarray, seconds: float = 0.5) -> Performance:
    return Performance(errors, np.full(len(errors), seconds), np.zeros(len(errors), bool), Path())


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
        (np.full(N, 100.0), np.full(N, 100.0)),
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
    cheaper = replace(contest, macs=(np.full(N, 100.0), np.full(N, 80.0)))
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


def test_every_rule_is_judged(contest):
    assert [verdict.rule for verdict in judge(contest, OPTIONS)] == ["improvement", "slices", "latency"]

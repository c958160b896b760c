"""A threshold sends the share it was asked for, never more, and as much as ties allow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from whisper_router.policy.calibrate import (
    NEVER_STRONG,
    Bound,
    Calibration,
    Policy,
    share_threshold,
)

SCORES = st.one_of(
    st.lists(st.integers(0, 1_000_000), min_size=1, max_size=60),
    st.lists(st.sampled_from([0, 1, 250_000, 499_999, 500_000, 999_999, 1_000_000]), min_size=1, max_size=60),
).map(lambda millionths: np.round(np.array(millionths) / 1e6, 6))
SHARES = st.one_of(st.floats(0, 1), st.fractions(0, 1, max_denominator=60).map(float))
many = settings(max_examples=150)


@many
@given(scores=SCORES, share=SHARES)
def test_the_share_sent_is_never_above_the_target_and_as_large_as_ties_allow(scores, share):
    threshold = share_threshold(scores, share)
    sent = scores >= threshold
    room = share * len(scores) + 1e-9
    assert sent.sum() <= room
    if not sent.all():
        next_best = scores[~sent].max()
        assert sent.sum() + (scores == next_best).sum() > room


@many
@given(scores=SCORES, share=SHARES, more=SHARES)
def test_a_larger_share_never_has_a_higher_threshold(scores, share, more):
    low, high = sorted((share, more))
    assert share_threshold(scores, high) <= share_threshold(scores, low)


@many
@given(scores=SCORES, share=SHARES, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_scores_does_not_count(scores, share, seed):
    shuffled = np.array(seed.sample(scores.tolist(), len(scores)))
    assert share_threshold(shuffled, share) == share_threshold(scores, share)


def test_scores_that_differ_in_the_last_bit_are_told_apart():
    low = np.nextafter(0.5, 0)
    low, high = np.nextafter(low, 0), low
    scores = np.array([low, high])
    assert (scores >= share_threshold(scores, 0.5)).tolist() == [False, True]


def test_the_threshold_lies_between_the_last_sent_and_the_first_kept():
    assert share_threshold(np.array([0.1, 0.2, 0.6, 0.9]), 0.5) == pytest.approx(0.4)


@pytest.mark.parametrize("score", [0.0, 0.3, 1.0])
def test_scores_that_are_all_equal_are_sent_all_or_none(score):
    scores = np.full(5, score)
    assert not (scores >= share_threshold(scores, 0.99)).any()
    assert (scores >= share_threshold(scores, 1.0)).all()


def test_a_share_of_0_sends_nothing_whatever_its_score():
    assert share_threshold(np.array([0.2, 1.0]), 0.0) == NEVER_STRONG > 1
    assert share_threshold(np.array([]), 0.5) == NEVER_STRONG


def test_decimal_shares_are_not_rounded_down():
    scores = np.arange(100) / 100
    for percent in range(101):
        assert (scores >= share_threshold(scores, percent / 100)).sum() == percent


def test_a_policy_comes_back_from_json_and_refuses_unknown_parts():
    policy = Policy(
        name="half",
        decider="d",
        kind="strong_share",
        target=0.5,
        threshold=1 / 3,
        calibration=Calibration(
            utterances=4, speakers=2, strong_share=0.5, wer_weak=0.3, wer_strong=0.1, wer_routed=0.2
        ),
        bound=Bound(
            weak_arm="a", strong_arm="b", extractor="c", decider="d", normaliser="e", calibration_set="f"
        ),
    )
    assert Policy.model_validate_json(policy.to_json()) == policy
    with pytest.raises(ValidationError, match="surprise"):
        Policy.model_validate({**policy.model_dump(), "surprise": 1})

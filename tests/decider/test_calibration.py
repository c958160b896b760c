"""Calibrated scores are probabilities, in the order in which they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.decider.calibration import (
    expected_calibration_error,
    fit_calibration,
    reliability,
)
from whisper_router.decider.curve import draw_reliability
from whisper_router.decider.options import LogisticOptions
from whisper_router.decider.registry import (
    CalibratedDecider,
    calibrated,
    decider_sha256,
    fit_decider,
    load_decider,
    save_decider,
)

KINDS = ["temperature", "isotonic"]


def overconfident(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose log-odds are three times too large, and labels."""
    random = np.random.default_rng(seed)
    odds = random.standard_normal(size) - 0.5
    labels = (random.random(size) < 1 / (1 + np.exp(-odds))).astype(int)
    return np.round(1 / (1 + np.exp(-3 * odds - 1)), 6), labels


@pytest.mark.parametrize("kind", KINDS)
def test_overconfident_scores_become_probabilities_on_other_utterances(kind):
    calibration = fit_calibration(kind, *overconfident(2000, 0))
    scores, labels = overconfident(4000, 1)
    assert expected_calibration_error(scores, labels) > 0.1
    assert expected_calibration_error(calibration.apply(scores), labels) < 0.04


@settings(max_examples=40)
@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=50), kind=st.sampled_from(KINDS))
def test_the_order_of_scores_is_never_turned_round(scores, kind):
    calibration = fit_calibration(kind, *overconfident(300, 0))
    made = calibration.apply(np.sort(np.array(scores)))
    assert (np.diff(made) >= 0).all()
    assert ((made >= 0) & (made <= 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_alone_calibrates_nothing(kind):
    assert fit_calibration(kind, np.array([0.1, 0.9]), np.array([1, 1])) is None


def test_scores_that_order_the_labels_the_wrong_way_are_left_alone():
    scores, labels = overconfident(500, 0)
    assert fit_calibration("temperature", scores, 1 - labels) is None
    assert fit_calibration("none", scores, labels) is None


def test_the_bins_hold_every_utterance_and_their_error_is_the_distance_from_the_diagonal():
    scores, labels = np.repeat([0.2, 0.8], 50), np.tile([0, 1], 50)
    bins = reliability(scores, labels)
    assert sum(part["utterances"] for part in bins) == 100
    assert expected_calibration_error(scores, labels) == pytest.approx(0.3)


def test_the_chart_is_drawn_alike_each_time(tmp_path):
    lines = {"as trained": reliability(*overconfident(100, 0))}
    for name in ("a.png", "b.png"):
        draw_reliability(tmp_path / name, "A decider", lines)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_a_decider_is_stored_with_its_calibration(kind, examples, tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = [(random.standard_normal((1, 3)) + label).astype(np.float32) for label in labels]
    data = examples(tmp_path / "f", features, labels)
    options = LogisticOptions(kind="logistic", extractor="x", calibration=kind)
    trained, _ = fit_decider(options, data, data, "x")
    decider = calibrated(trained, options, data)
    assert isinstance(decider, CalibratedDecider) == (kind != "none")
    save_decider(tmp_path / "d", decider, options, {})
    loaded, description = load_decider(tmp_path / "d")
    assert ("calibration" in description) == (kind != "none")
    np.testing.assert_array_equal(loaded.score(features), decider.score(features))
    assert (loaded.parameters, loaded.macs(1)) == (trained.parameters, trained.macs(1))
    save_decider(tmp_path / "raw", trained, options, {})
    assert (decider_sha256(tmp_path / "d") == decider_sha256(tmp_path / "raw")) == (kind == "none")

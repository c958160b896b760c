"""What a decider is taught follows from the errors of both arms."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from whisper_router.decider.objectives import TIE_WEIGHT, loss, targets
from whisper_router.decider.options import GbtOptions, LogisticOptions, MlpOptions
from whisper_router.decider.registry import KINDS
from whisper_router.decider.training import Examples

GAINS = np.array([3, 1, 0, -1, 0, 40])
LABELS = (GAINS > 0).astype(int)


def test_the_label_needs_no_errors_and_weighs_all_alike():
    target, weights = targets("label", 0, LABELS, None)
    np.testing.assert_array_equal(target, LABELS)
    np.testing.assert_array_equal(weights, 1)


def test_a_margin_asks_for_more_errors_than_that():
    assert targets("margin", 0, LABELS, GAINS)[0].tolist() == LABELS.tolist()
    assert targets("margin", 1, LABELS, GAINS)[0].tolist() == [1, 0, 0, 0, 0, 1]
    assert targets("margin", 5, LABELS, GAINS)[0].tolist() == [0, 0, 0, 0, 0, 1]


def test_cost_weighs_an_utterance_by_the_errors_that_the_choice_costs():
    target, weights = targets("cost", 0, LABELS, GAINS)
    np.testing.assert_array_equal(target, LABELS)
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(weights / weights[1], [3, 1, TIE_WEIGHT, 1, TIE_WEIGHT, 5])


def test_a_regression_learns_the_gain_within_limits():
    assert targets("regression", 0, LABELS, GAINS)[0].tolist() == [3, 1, 0, -1, 0, 5]


def test_without_errors_the_other_objectives_are_refused():
    with pytest.raises(TypeError, match="regression"):
        targets("regression", 0, LABELS, None)


def test_the_loss_is_cross_entropy_of_logits_or_squared_error():
    outputs, weights = np.array([-1.0, 2.0, 0.5]), np.array([1.0, 2.0, 3.0])
    label = np.array([0.0, 1.0, 0.0])
    wanted = log_loss(label, 1 / (1 + np.exp(-outputs)), sample_weight=weights)
    assert loss("label", outputs, label, weights) == pytest.approx(wanted)
    assert loss("regression", outputs, label, weights) == pytest.approx((1 + 2 + 0.75) / 6)


@pytest.fixture
def graded(examples, tmp_path, monkeypatch) -> Examples:
    """Utterances whose first number is their gain, in noise; the second is noise."""
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    gains = np.clip(np.round(random.standard_normal(300) * 2), -4, 4).astype(int)
    features = random.standard_normal((300, 6, 1, 2)) * 0.5
    features[:, :, 0, 0] += gains[:, None]
    made = examples(tmp_path / "f", list(features.astype(np.float16)), (gains > 0).astype(int))
    return Examples(made.reader, made.ids, made.labels, gains)


@pytest.mark.parametrize("objective", ["label", "margin", "cost", "regression"])
@pytest.mark.parametrize(
    "options",
    [
        LogisticOptions(kind="logistic", extractor="x"),
        GbtOptions(kind="gbt", extractor="x", trees=50),
        MlpOptions(kind="mlp", extractor="x", epochs=8, learning_rate=0.01),
    ],
    ids=["logistic", "gbt", "mlp"],
)
def test_every_decider_learns_every_objective(options, objective, graded):
    options = options.model_copy(update={"objective": objective, "margin": int(objective == "margin")})
    decider, _ = KINDS[options.kind].fit(options, graded, graded, "graded")
    scores = decider.score(graded.reader.batch(graded.ids))
    assert np.corrcoef(scores, graded.gains)[0, 1] > 0.7
    assert ((scores >= 0) & (scores <= 1)).all()


def test_weights_move_a_decider(graded):
    features = graded.reader.batch(graded.ids)
    scores = [
        KINDS["logistic"]
        .fit(LogisticOptions(kind="logistic", extractor="x", objective=name), graded, graded, "x")[0]
        .score(features)
        for name in ("label", "cost")
    ]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3

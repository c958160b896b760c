"""Cross-fitting: no utterance shapes its own score, and the last decider learns from all."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from whisper_router.decider.calibration import fit_calibration
from whisper_router.decider.folds import CrossFitted, cross_fit, mean_curve, settled, speaker_folds
from whisper_router.decider.options import DeciderOptions, GbtOptions, LogisticOptions, MlpOptions
from whisper_router.decider.registry import fit_decider
from whisper_router.decider.training import Examples

OPTIONS: dict[str, DeciderOptions] = {
    "logistic": LogisticOptions(kind="logistic", extractor="toy"),
    "gbt": GbtOptions(kind="gbt", extractor="toy", trees=40, learning_rate=0.1, min_in_leaf=5),
    "mlp": MlpOptions(kind="mlp", extractor="toy", epochs=6, hidden=8, learning_rate=0.03),
}
UTTERANCES, FOLDS = 90, 3
KINDS = pytest.mark.parametrize("kind", OPTIONS)


@pytest.fixture
def toy(tmp_path, monkeypatch, examples: Callable[..., Examples]) -> Examples:
    """Utterances whose label shows in one of their numbers; two for each speaker."""
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    labels = (random.random(UTTERANCES) < 0.5).astype(int)
    features = random.normal(size=(UTTERANCES, 3, 2, 4)).astype(np.float16)
    features[:, :, 0, 0] += 3 * labels[:, None]
    return examples(tmp_path / "features", list(features), labels)


@pytest.fixture
def parts(toy: Examples) -> list:
    rows = np.arange(UTTERANCES)
    table = pd.DataFrame({"speaker": rows // 2, "label": toy.labels, "text": rows})
    return speaker_folds(table, FOLDS, 0)


def fit(kind: str, toy: Examples, parts: list) -> CrossFitted:
    return cross_fit(OPTIONS[kind], toy, parts, "toy")


@KINDS
def test_an_utterance_has_the_score_of_a_decider_that_was_trained_without_its_fold(kind, toy, parts):
    made = fit(kind, toy, parts)
    for number, fold in enumerate(parts):
        assert set(made.folds[fold.test]) == {number}
        train, dev = (
            replace(toy, ids=[toy.ids[row] for row in rows], labels=toy.labels[rows])
            for rows in (fold.train, fold.dev)
        )
        alone, _ = fit_decider(OPTIONS[kind], train, dev, "alone")
        features = toy.reader.batch([toy.ids[row] for row in fold.test])
        np.testing.assert_array_equal(made.raw[fold.test], alone.score(features))


@KINDS
def test_its_own_label_never_shapes_the_probability_that_an_utterance_gets(kind, toy, parts):
    made = fit(kind, toy, parts)
    for fold in parts:
        others = np.setdiff1d(np.arange(UTTERANCES), fold.test)
        without = fit_calibration("temperature", made.raw[others], toy.labels[others])
        np.testing.assert_array_equal(made.scores[fold.test], without.apply(made.raw[fold.test]))


@KINDS
def test_the_last_decider_learns_from_all_at_the_point_that_is_best_on_average(kind, toy, parts):
    made = fit(kind, toy, parts)
    best = min(made.curve, key=lambda point: point["dev_loss"])
    assert made.options == settled(OPTIONS[kind], best)
    whole, _ = fit_decider(made.options, toy, toy, "whole")
    scores = whole.score(toy.reader.batch(toy.ids))
    final = made.decider.score(toy.reader.batch(toy.ids))
    np.testing.assert_array_equal(final, fit_calibration("temperature", made.raw, toy.labels).apply(scores))
    flipped = replace(toy, labels=np.where(np.arange(UTTERANCES) == 0, 1 - toy.labels, toy.labels))
    other, _ = fit_decider(made.options, flipped, flipped, "other")
    assert not np.array_equal(other.score(toy.reader.batch(toy.ids)), scores)


def test_a_mean_curve_is_as_long_as_the_shortest_and_names_what_the_options_settle_on():
    curves = [
        [{"epoch": 1, "dev_loss": 0.5}, {"epoch": 2, "dev_loss": 0.1}],
        [{"epoch": 1, "dev_loss": 0.3}, {"epoch": 2, "dev_loss": 0.4}, {"epoch": 3, "dev_loss": 0.0}],
    ]
    assert mean_curve(curves) == [{"epoch": 1, "dev_loss": 0.4}, {"epoch": 2, "dev_loss": 0.25}]
    assert settled(OPTIONS["mlp"], {"epoch": 2.0}) == OPTIONS["mlp"].model_copy(
        update={"epochs": 2, "patience": None}
    )
    assert settled(OPTIONS["gbt"], {"trees": 20.0}).trees == 20
    assert settled(OPTIONS["logistic"], {"c": 0.1}).c == (0.1,)

"""The WER from the arms' disagreement, where the truth is known."""

import numpy as np
import pandas as pd
import pytest

from whisper_router.wer_estimate import differing, estimate


def spoken(random: np.random.Generator, speakers: int, hard: float) -> pd.DataFrame:
    """Ten utterances a speaker of ten words; two of three errors are differences between the arms."""
    talent = np.repeat(np.minimum(random.beta(4, 16, speakers) * hard, 1), 10)
    errors = random.binomial(10, talent)
    return pd.DataFrame(
        {
            "speaker": np.repeat(np.arange(speakers), 10),
            "words": 10,
            "errors": errors,
            "words_strong": 10,
            "differences": random.binomial(errors, 2 / 3),
        }
    )


def sums(table: pd.DataFrame) -> pd.DataFrame:
    return table.groupby("speaker").sum()


def effect(table: pd.DataFrame) -> float:
    return differing(*(table[name].to_numpy() for name in ("words_strong", "differences", "speaker")))


def test_the_formula():
    known = pd.DataFrame(
        {"words": [60, 40], "errors": [8, 12], "words_strong": [50, 50], "differences": [5, 5]}
    )
    now = pd.DataFrame({"words_strong": [10, 30], "differences": [2, 6]})
    made = estimate(known, 1.0, now)
    assert (made.wer_before, made.disagreement_before, made.disagreement) == (0.2, 0.1, 0.2)
    assert made.wer == pytest.approx(0.4)


@pytest.mark.parametrize("hard", [1.0, 2.0])
def test_the_interval_holds_the_truth_of_harder_audio_nearly_always(hard):
    random = np.random.default_rng(0)
    held = 0
    for _ in range(40):
        known, now = spoken(random, 40, 1.0), spoken(random, 30, hard)
        made = estimate(sums(known), effect(known), now)
        truth = now["errors"].sum() / now["words"].sum()
        held += made.interval[0] <= truth <= made.interval[1]
        assert made.wer == pytest.approx(truth, rel=0.4)
    assert held >= 35


def test_errors_that_both_arms_make_alike_are_missed():
    random = np.random.default_rng(1)
    known, now = spoken(random, 40, 1.0), spoken(random, 40, 2.0)
    alike = now.assign(differences=now["differences"] // 2)
    assert estimate(sums(known), 1.0, alike).wer < 0.7 * estimate(sums(known), 1.0, now).wer

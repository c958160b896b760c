"""The WER of served audio without labels, from how far both arms differ on a sampled share of it.

    WER_now = WER_calibration * D_now / D_calibration

WER is that of the routed texts, D the disagreement: word differences between both arms' texts over the words
of the strong arm's. The assumption: an error is as often a difference between the arms as it was on the
calibration split. Errors that both arms make alike are no difference, so audio on which they fail in the same
way more often (names that neither knows, speech too faint for both) has a higher WER than is estimated.
Without any assumption, by the triangle inequality: the sum of both arms' errors is at least the differences.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from whisper_router.clusters import design_effect

RESAMPLES, SEED = 2000, 0
COUNTS = ("words", "errors", "words_strong", "differences")


@dataclass(frozen=True)
class WerEstimate:
    """Disagreement and WER on the calibration split and now."""

    disagreement_before: float
    disagreement: float
    wer_before: float
    wer: float
    interval: tuple[float, float]  # of wer, 95 %
    p: float  # share of the resamples in which the disagreement is no higher than before


def differing(words_strong: np.ndarray, differences: np.ndarray, speakers: np.ndarray) -> float:
    """Design effect of the disagreement."""
    rate = differences.sum() / max(words_strong.sum(), 1)
    return design_effect(differences - rate * words_strong, speakers)


def estimate(by_speaker: pd.DataFrame, effect: float, shadow: pd.DataFrame) -> WerEstimate:
    """The routed WER of the audio that shadow rows were drawn from.

    The interval is a bootstrap over the calibration split's speakers and over the shadow rows, of which so
    many fewer are drawn as speakers repeat themselves on the calibration split: the log knows no speaker.

    Parameters
    ----------
    by_speaker : DataFrame
        A row a speaker of the calibration split: reference words, errors of the routed texts, words of the
        strong arm, differences.
    effect : float
        Design effect of the disagreement on the calibration split.
    shadow : DataFrame
        A row a window: words_strong, differences.
    """
    known, now = (
        by_speaker[list(COUNTS)].to_numpy(float),
        shadow[["words_strong", "differences"]].to_numpy(float),
    )
    random = np.random.default_rng(SEED)
    drawn = max(1, round(len(now) / effect))
    before = random.multinomial(len(known), np.full(len(known), 1 / len(known)), RESAMPLES) @ known
    rows = np.stack([now[random.integers(len(now), size=drawn)].sum(axis=0) for _ in range(RESAMPLES)])
    with np.errstate(invalid="ignore", divide="ignore"):
        rise = (rows[:, 1] / rows[:, 0]) / (before[:, 3] / before[:, 2])
    finite = np.isfinite(rise)
    rise, before = rise[finite], before[finite]
    low, high = np.quantile(rise * before[:, 1] / before[:, 0], [0.025, 0.975])
    words, errors, strong, differences = known.sum(axis=0)
    disagreement = now[:, 1].sum() / now[:, 0].sum()
    wer = errors / words
    return WerEstimate(
        differences / strong,
        disagreement,
        wer,
        wer * disagreement / (differences / strong),
        (float(low), float(high)),
        float((rise <= 1).mean()),
    )

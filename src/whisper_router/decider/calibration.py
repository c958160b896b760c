"""Probability calibration: scores that are probabilities, fitted on the calibration split."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from whisper_router.decider.options import SCORE_DECIMALS, CalibrationKind

EDGE = 10.0**-SCORE_DECIMALS  # scores of 0 and 1 have no log-odds
BINS = 10


class Calibration(BaseModel):
    """A map from scores to probabilities that never turns their order round."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["temperature", "isotonic"]
    x: tuple[float, ...] = Field(min_length=1)  # temperature: its slope; isotonic: scores
    y: tuple[float, ...]  # temperature: the shift of the log-odds; isotonic: probabilities at those scores

    @model_validator(mode="after")
    def _belong_together(self) -> "Calibration":
        if len(self.y) != len(self.x) or (self.kind == "temperature" and len(self.x) != 1):
            raise ValueError(f"{self.kind} with {len(self.x)} numbers in x and {len(self.y)} in y")
        if list(self.x) != sorted(self.x):
            raise ValueError("x does not rise")
        return self

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities to 6 decimals."""
        if self.kind == "temperature":
            made = expit(self.x[0] * logit(np.clip(scores, EDGE, 1 - EDGE)) + self.y[0])
        else:
            made = np.interp(scores, self.x, self.y)
        rounded: np.ndarray = np.round(made, SCORE_DECIMALS)
        return rounded


def fit_calibration(kind: CalibrationKind, scores: np.ndarray, labels: np.ndarray) -> Calibration | None:
    """Fit on scores (utterances,) that the decider gives to utterances that it has not learnt from.

    ``temperature`` is Guo et al. 2017 with a shift (Platt 1999): two numbers, order kept. ``isotonic`` is
    free in form and joins neighbours. None where there is nothing to fit: one class, or scores that order the
    labels the wrong way.
    """
    if kind == "none" or len(set(labels.tolist())) < 2:
        return None
    if kind == "isotonic":
        fitted = IsotonicRegression(y_min=0, y_max=1).fit(scores, labels)
        x, y = fitted.X_thresholds_, fitted.y_thresholds_
        return Calibration(kind=kind, x=_plain(x), y=_plain(y))
    odds = logit(np.clip(scores, EDGE, 1 - EDGE))[:, None]
    model = LogisticRegression(C=1e4).fit(odds, labels)
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        return None
    return Calibration(kind=kind, x=_plain([slope]), y=_plain(model.intercept_))


def _plain(values: np.ndarray | list[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 9) for value in values)


def reliability(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Mean score, share of positives and count in bins of as many utterances each, lowest scores first."""
    parts = np.array_split(np.argsort(scores, kind="stable"), min(BINS, max(1, len(scores))))
    return [
        {
            "score": round(float(scores[rows].mean()), 6),
            "positive": round(float(labels[rows].mean()), 6),
            "utterances": len(rows),
        }
        for rows in parts
        if len(rows)
    ]


def expected_calibration_error(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of score and share of positives over the bins of `reliability`."""
    bins = reliability(scores, labels)
    gaps = [abs(part["score"] - part["positive"]) * part["utterances"] for part in bins]
    return round(sum(gaps) / len(scores), 6) if len(scores) else float("nan")

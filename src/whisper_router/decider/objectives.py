"""What a decider is taught: the target of each utterance and how much it counts."""

import numpy as np
from scipy.special import expit

from whisper_router.decider.options import Objective

TIE_WEIGHT = 0.3  # of an utterance on which both arms make as many errors, where one error weighs 1
GAIN_LIMIT = 5  # errors: a text that runs away must not outweigh hundreds of utterances


def targets(
    objective: Objective, margin: int, labels: np.ndarray, gains: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Target and weight of each utterance, both of shape (utterances,); weights have the mean 1.

    Parameters
    ----------
    margin : int
        Errors that the strong arm must save, for the objective ``margin``: more than this.
    gains : ndarray, optional
        Errors of the weak arm less those of the strong; the objective ``label`` does without.
    """
    weights = np.ones(len(labels))
    if objective == "label":
        return labels.astype(np.float64), weights
    if gains is None:
        raise TypeError(f"the objective {objective} reads the errors of both arms")
    if objective == "margin":
        return (gains > margin).astype(np.float64), weights
    limited = np.clip(gains, -GAIN_LIMIT, GAIN_LIMIT).astype(np.float64)
    if objective == "regression":
        return limited, weights
    weights = np.where(gains == 0, TIE_WEIGHT, np.abs(limited))
    return labels.astype(np.float64), weights / weights.mean()


def loss(objective: Objective, outputs: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    """Weighted mean squared error of a regression, else binary cross-entropy of logits in nats."""
    if objective == "regression":
        each = (outputs - target) ** 2
    else:
        each = np.logaddexp(0, outputs) - target * outputs
    return float(np.average(each, weights=weights))


def to_scores(outputs: np.ndarray) -> np.ndarray:
    """Logits, or expected gains, as scores in [0, 1]; calibration makes probabilities of the latter."""
    scores: np.ndarray = expit(outputs)
    return scores

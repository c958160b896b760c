"""Logistic regression, trained by scikit-learn, stored as arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from whisper_router.decider.options import SCORE_DECIMALS, LogisticOptions
from whisper_router.decider.training import Examples
from whisper_router.errors import UserError

CHUNK = 256


def _vectors(features: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([feature.astype(np.float64).mean(axis=0).ravel() for feature in features])


def _means(examples: Examples) -> np.ndarray:
    """Mean features of all utterances; a few hundred of whole features are in memory at once."""
    ids = examples.ids
    parts = [ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK)]
    return np.concatenate([_vectors(examples.reader.batch(part)) for part in parts])


class LogisticDecider:
    """Probability that the strong arm is needed, from the mean feature of an utterance."""

    def __init__(self, weight: np.ndarray, bias: float) -> None:
        self.weight, self.bias = weight, bias  # (width,), on raw features: the scaler is folded in

    @classmethod
    def fit(
        cls, options: LogisticOptions, train: Examples, dev: Examples, title: str
    ) -> tuple["LogisticDecider", list[dict[str, float]]]:
        """Train one model for each ``c``, keep the one with the lowest dev loss; return it and the curve."""
        x, y = _means(train), train.labels
        x_dev, y_dev = _means(dev), dev.labels
        scaler = StandardScaler().fit(x)
        curve, best, best_loss = [], None, np.inf
        for c in options.c:
            model = LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(x), y)
            losses = [
                float(log_loss(labels, model.predict_proba(scaler.transform(data))[:, 1], labels=[0, 1]))
                for data, labels in ((x, y), (x_dev, y_dev))
            ]
            curve.append({"c": c, "train_loss": round(losses[0], 6), "dev_loss": round(losses[1], 6)})
            if losses[1] < best_loss:
                best, best_loss = model, losses[1]
        if best is None:
            raise UserError(f"{title}: no c gave a finite dev loss: the features are not finite")
        weight = best.coef_[0] / scaler.scale_
        return cls(weight, float(best.intercept_[0] - weight @ scaler.mean_)), curve

    def score(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Scores in [0, 1] to 6 decimals, one an utterance, each independent of the others."""
        logits = [vector @ self.weight + self.bias for vector in _vectors(features)]
        scores: np.ndarray = expit(np.array(logits))
        return np.round(scores, SCORE_DECIMALS)

    def macs(self, frames: int) -> int:
        """Multiply-accumulates for an utterance of that many feature frames."""
        return (frames + 1) * self.weight.size

    def paper_macs(self, frames: int) -> int:
        """Those of the linear layer alone."""
        return self.weight.size

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return self.weight.size + 1

    def save(self, path: Path) -> None:
        """Write the weights."""
        save_file({"weight": self.weight, "bias": np.array([self.bias])}, path)

    @classmethod
    def load(cls, path: Path, options: LogisticOptions) -> "LogisticDecider":
        """Read the weights."""
        arrays = load_file(path)
        return cls(arrays["weight"], float(arrays["bias"][0]))

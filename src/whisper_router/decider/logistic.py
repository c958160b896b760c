"""Logistic regression, or ridge regression of the gain, trained by scikit-learn, stored as arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from whisper_router.decider.objectives import loss, to_scores
from whisper_router.decider.options import SCORE_DECIMALS, LogisticOptions
from whisper_router.decider.pooling import all_vectors, pooling_macs, vectors
from whisper_router.decider.training import Examples
from whisper_router.errors import UserError


class LogisticDecider:
    """Score that the strong arm is needed, linear in the pooled feature of an utterance."""

    FILE = "weights.safetensors"

    def __init__(self, weight: np.ndarray, bias: float, options: LogisticOptions) -> None:
        self.weight, self.bias = weight, bias  # (width,), on raw features: the scaler is folded in
        self.options = options

    @classmethod
    def fit(
        cls, options: LogisticOptions, train: Examples, dev: Examples, title: str
    ) -> tuple["LogisticDecider", list[dict[str, float]]]:
        """Train one model for each ``c``, keep the one with the lowest dev loss; return it and the curve."""
        x, x_dev = all_vectors(train, options), all_vectors(dev, options)
        (y, sizes), (y_dev, sizes_dev) = (part.targets(options) for part in (train, dev))
        scaler = StandardScaler().fit(x)
        curve, best, best_loss = [], None, np.inf
        for c in options.c:
            if options.objective == "regression":
                model = Ridge(1 / c).fit(scaler.transform(x), y, sizes)
            elif len(set(y.tolist())) < 2:
                raise UserError(f"{title}: no utterance is above the margin {options.margin}; lower it")
            else:
                model = LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(x), y, sizes)
            outputs = [scaler.transform(data) @ np.ravel(model.coef_) for data in (x, x_dev)]
            bias = float(np.ravel(model.intercept_)[0])
            losses = [
                loss(options.objective, made + bias, target, weights)
                for made, target, weights in zip(outputs, (y, y_dev), (sizes, sizes_dev), strict=True)
            ]
            curve.append({"c": c, "train_loss": round(losses[0], 6), "dev_loss": round(losses[1], 6)})
            if losses[1] < best_loss:
                best, best_loss = (np.ravel(model.coef_), bias), losses[1]
        if best is None:
            raise UserError(f"{title}: no c gave a finite dev loss: the features are not finite")
        weight = best[0] / scaler.scale_
        return cls(weight, float(best[1] - weight @ scaler.mean_), options), curve

    def score(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Scores in [0, 1] to 6 decimals, one an utterance, each independent of the others."""
        logits = [vector @ self.weight + self.bias for vector in vectors(features, self.options)]
        return np.round(to_scores(np.array(logits)), SCORE_DECIMALS)

    def macs(self, frames: int) -> int:
        """Multiply-accumulates for an utterance of that many feature frames."""
        return pooling_macs(self.weight.size, frames, self.options) + self.weight.size

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
    def load(cls, path: Path, content: bytes, options: LogisticOptions) -> "LogisticDecider":
        """The weights of a file by its content.

        Raises
        ------
        UserError
            They are not those of such a decider.
        """
        try:
            arrays = load(content)
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}; run train and package again") from error
        found = {name: (str(array.dtype), array.ndim) for name, array in arrays.items()}
        if found != {"weight": ("float64", 1), "bias": ("float64", 1)} or arrays["bias"].size != 1:
            raise UserError(
                f"{path} is damaged: it holds {found}, not weight and bias, a row of float64 each; "
                "run train and package again"
            )
        for name, array in arrays.items():
            if not (array.size and np.isfinite(array).all()):
                raise UserError(
                    f"{path} is damaged: {name} is empty or not finite; run train and package again"
                )
        return cls(arrays["weight"], float(arrays["bias"][0]), options)

"""Gradient-boosted trees on the pooled features: LightGBM, stored in its text format."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_router.decider.objectives import loss, to_scores
from whisper_router.decider.options import SCORE_DECIMALS, GbtOptions
from whisper_router.decider.pooling import all_vectors, pooling_macs, vectors
from whisper_router.decider.training import Examples
from whisper_router.errors import UserError
from whisper_router.files import write_text

if TYPE_CHECKING:
    import lightgbm

STEP = 10  # trees between two points of the curve


def _lightgbm() -> Any:
    """LightGBM, for those who use it: its wheel leans on a library of the system that small images lack."""
    try:
        import lightgbm
    except OSError as error:
        raise UserError(
            f"a decider of kind gbt takes LightGBM, which fails: {error}; apt-get install libgomp1"
        ) from error
    return lightgbm


class GbtDecider:
    """Score that the strong arm is needed, from the sum of small trees."""

    FILE = "weights.txt"

    def __init__(self, booster: "lightgbm.Booster", options: GbtOptions) -> None:
        self.booster, self.options = booster, options

    @classmethod
    def fit(
        cls, options: GbtOptions, train: Examples, dev: Examples, title: str
    ) -> tuple["GbtDecider", list[dict[str, float]]]:
        """Grow trees and keep as many as give the lowest dev loss; return the decider and the curve."""
        x, x_dev = all_vectors(train, options), all_vectors(dev, options)
        if not (np.isfinite(x).all() and np.isfinite(x_dev).all()):
            raise UserError(f"{title}: the features are not finite")
        (y, weight), (y_dev, weight_dev) = (part.targets(options) for part in (train, dev))
        settings: dict[str, Any] = {
            "objective": "regression" if options.objective == "regression" else "binary",
            "learning_rate": options.learning_rate,
            "num_leaves": options.leaves,
            "min_data_in_leaf": options.min_in_leaf,
            "feature_fraction": options.feature_share,
            "bagging_fraction": options.row_share,
            "bagging_freq": 1,
            "lambda_l2": options.l2,
            "seed": options.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }
        lightgbm = _lightgbm()
        booster = lightgbm.train(settings, lightgbm.Dataset(x, y, weight=weight), options.trees)
        curve: list[dict[str, float]] = []
        for trees in range(STEP, options.trees + STEP, STEP):
            outputs = [booster.predict(data, raw_score=True, num_iteration=trees) for data in (x, x_dev)]
            losses = (
                loss(options.objective, np.asarray(made), target, weights)
                for made, target, weights in zip(outputs, (y, y_dev), (weight, weight_dev), strict=True)
            )
            named = zip(("train_loss", "dev_loss"), losses, strict=True)
            curve.append({"trees": min(trees, options.trees)} | {name: round(v, 6) for name, v in named})
        best = min(curve, key=lambda point: point["dev_loss"])
        text = booster.model_to_string(num_iteration=int(best["trees"]))
        return cls(lightgbm.Booster(model_str=text), options), curve

    def score(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Scores in [0, 1] to 6 decimals, one an utterance, each independent of the others."""
        outputs = self.booster.predict(vectors(features, self.options), raw_score=True, num_threads=1)
        return np.round(to_scores(np.asarray(outputs)), SCORE_DECIMALS)

    def macs(self, frames: int) -> int:
        """Pooling's multiply-accumulates, and the trees' comparisons counted as such."""
        return pooling_macs(self._width, frames, self.options) + self.paper_macs(frames)

    def paper_macs(self, frames: int) -> int:
        """The comparisons on the longest way through each tree, and its leaf."""
        return self.booster.num_trees() * self.options.leaves

    @property
    def _width(self) -> int:
        return int(self.booster.num_feature())

    @property
    def parameters(self) -> int:
        """Thresholds and leaves."""
        table = self.booster.trees_to_dataframe() if self.booster.num_trees() else ()
        return len(table)

    def save(self, path: Path) -> None:
        """Write the trees."""
        write_text(path, self.booster.model_to_string())

    @classmethod
    def load(cls, path: Path, options: GbtOptions) -> "GbtDecider":
        """Read the trees."""
        lightgbm = _lightgbm()
        try:
            return cls(lightgbm.Booster(model_str=path.read_text()), options)
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged: {error}; run train again") from error

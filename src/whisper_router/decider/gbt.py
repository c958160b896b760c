"""Gradient-boosted trees on the pooled features: LightGBM, stored in its text format."""

import math
import re
from collections.abc import Mapping, Sequence
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
MOST_DEPTH = 500  # LightGBM and its readers walk trees by recursion

# LightGBM's text trusts itself: a wrong count or index ends the process. So all of it is read here first.
_HEADER = [
    *("version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx", "objective"),
    *("feature_names", "feature_infos", "tree_sizes"),
]
_NODE_INTEGERS = ("split_feature", "decision_type", "left_child", "right_child", "internal_count")
_NODE_NUMBERS = ("split_gain", "threshold", "internal_value", "internal_weight")
_TREE = {
    *("num_leaves", "num_cat", "is_linear", "shrinkage", "leaf_value", "leaf_weight", "leaf_count"),
    *_NODE_INTEGERS,
    *_NODE_NUMBERS,
}
_INTEGER = re.compile(r"-?\d{1,10}")
_NUMBER = re.compile(r"-?\d{1,25}(\.\d{1,25})?([eE][+-]?\d{1,3})?")
_RANGE = re.compile(rf"none|\[{_NUMBER.pattern}:{_NUMBER.pattern}\]")
_DECISIONS = (0, 2, 4, 6, 8, 10)  # of numbers: where missing values go, and which values are missing
_END = "end of trees\n"


class _TextError(ValueError):
    """A text that is not LightGBM's."""


def _fields(block: str) -> dict[str, str]:
    """The lines ``key=value`` of a part."""
    found: dict[str, str] = {}
    for line in block.split("\n"):
        key, equals, value = line.partition("=")
        if not equals or key in found:
            raise _TextError(f"line {line[:60]!r} is not one key=value")
        found[key] = value
    return found


def _integers(fields: dict[str, str], key: str, low: int, high: int) -> list[int]:
    """A row of integers from ``low`` to ``high``."""
    words = fields[key].split(" ") if fields[key] else []
    if not all(_INTEGER.fullmatch(word) for word in words):
        raise _TextError(f"{key} does not hold integers")
    values = [int(word) for word in words]
    wrong = next((value for value in values if not low <= value <= high), None)
    if wrong is not None:
        raise _TextError(f"{key} holds {wrong}, which is not within {low} and {high}")
    return values


def _integer(fields: dict[str, str], key: str, low: int, high: int) -> int:
    """One integer."""
    values = _integers(fields, key, low, high)
    if len(values) != 1:
        raise _TextError(f"{key} holds {len(values)} values, not one")
    return values[0]


def _numbers(fields: dict[str, str], key: str) -> list[float]:
    """A row of finite numbers."""
    words = fields[key].split(" ") if fields[key] else []
    if not all(_NUMBER.fullmatch(word) and math.isfinite(float(word)) for word in words):
        raise _TextError(f"{key} does not hold finite numbers")
    return [float(word) for word in words]


def _check_counts(rows: Mapping[str, Sequence[float]], expected: int, optional: Sequence[str] = ()) -> None:
    for key, row in rows.items():
        if len(row) != expected and not (key in optional and not row):
            raise _TextError(f"{key} holds {len(row)} values, by num_leaves it should be {expected}")


def _check_shape(left: Sequence[int], right: Sequence[int]) -> None:
    """Every node and leaf hangs below the root, in one place."""
    seen, level, depth = {0}, [0], 0
    while level:
        below = [child for node in level for child in (left[node], right[node])]
        if len(set(below)) < len(below) or seen & set(below):
            raise _TextError("left_child and right_child reach a node twice")
        seen.update(below)
        level, depth = [child for child in below if child >= 0], depth + 1
        if depth > MOST_DEPTH:
            raise _TextError(f"it is deeper than {MOST_DEPTH} nodes")
    if len(seen) != 2 * len(left) + 1:
        raise _TextError("left_child and right_child do not reach every node")


def _check_tree(block: str, number: int, width: int, leaves: int) -> None:
    title, _, body = block.partition("\n")
    if title != f"Tree={number}" or not body.endswith("\n\n\n"):
        raise _TextError(f"a tree of {len(block)} bytes does not begin and end where tree_sizes says")
    fields = _fields(body.removesuffix("\n\n\n"))
    if set(fields) != _TREE:
        raise _TextError(f"its keys differ in {', '.join(sorted(set(fields) ^ _TREE))[:200]}")
    count = _integer(fields, "num_leaves", 1, leaves)
    for key in ("num_cat", "is_linear"):
        _integer(fields, key, 0, 0)
    if len(_numbers(fields, "shrinkage")) != 1:
        raise _TextError("shrinkage is not one number")
    many, nodes = 2**31 - 1, count - 1
    of_leaves = {key: _numbers(fields, key) for key in ("leaf_value", "leaf_weight")}
    of_leaves["leaf_count"] = [*map(float, _integers(fields, "leaf_count", 0, many))]
    _check_counts(of_leaves, count, ("leaf_weight", "leaf_count") if count == 1 else ())
    limits = {"split_feature": (0, width - 1), "decision_type": (0, max(_DECISIONS))}
    limits |= {"left_child": (-count, nodes - 1), "right_child": (-count, nodes - 1)}
    of_nodes = {key: _integers(fields, key, *limits.get(key, (0, many))) for key in _NODE_INTEGERS}
    _check_counts({**of_nodes, **{key: _numbers(fields, key) for key in _NODE_NUMBERS}}, nodes)
    if not set(of_nodes["decision_type"]) <= set(_DECISIONS):
        raise _TextError(f"decision_type is none of {', '.join(map(str, _DECISIONS))}")
    if nodes:
        _check_shape(of_nodes["left_child"], of_nodes["right_child"])


def _checked(content: bytes, options: GbtOptions) -> str:
    """The trees in LightGBM's text, without what it writes after them and scoring does not read.

    Raises
    ------
    ValueError
        LightGBM has not written this for such options.
    """
    text = content.decode("ascii")
    if not text.startswith("tree\n") or re.search(r"[^\n -~]", text):
        raise _TextError("it is not LightGBM's text")
    header, blank, rest = text.removeprefix("tree\n").partition("\n\n")
    fields = _fields(header)
    if not blank or list(fields) != _HEADER:
        raise _TextError(f"its header is not {', '.join(_HEADER)}")
    width = _integer(fields, "max_feature_idx", 0, len(header)) + 1
    fixed = {"version": "v4", "num_class": "1", "num_tree_per_iteration": "1", "label_index": "0"}
    fixed["objective"] = "regression" if options.objective == "regression" else "binary sigmoid:1"
    fixed["feature_names"] = " ".join(f"Column_{i}" for i in range(width))
    for key, value in fixed.items():
        if fields[key] != value:
            raise _TextError(f"{key} is {fields[key][:60]!r}, not {value[:60]!r}")
    infos = fields["feature_infos"].split(" ")
    if len(infos) != width or not all(_RANGE.fullmatch(info) for info in infos):
        raise _TextError(f"feature_infos does not hold the ranges of {width} features")
    sizes, start = _integers(fields, "tree_sizes", 1, len(rest)), 0
    if len(sizes) > options.trees:
        raise _TextError(f"it holds {len(sizes)} trees, more than the {options.trees} of its options")
    for number, size in enumerate(sizes):
        try:
            _check_tree(rest[start : start + size], number, width, options.leaves)
        except _TextError as error:
            raise _TextError(f"tree {number}: {error}") from error
        start += size
    if not rest.startswith(_END, start):
        raise _TextError("'end of trees' is not where tree_sizes says")
    return text[: len(text) - len(rest) + start + len(_END)]


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
        x = vectors(features, self.options)
        if x.shape[1] != self._width:
            raise UserError(
                f"the decider reads {self._width} features and is given {x.shape[1]}; package it again"
            )
        outputs = self.booster.predict(x, raw_score=True, num_threads=1)
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
    def load(cls, path: Path, content: bytes, options: GbtOptions) -> "GbtDecider":
        """The trees of a file by its content; LightGBM sees them only once they are known to be sound.

        Raises
        ------
        UserError
            It is not what LightGBM writes for such options.
        """
        try:
            text = _checked(content, options)
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}; run train and package again") from error
        lightgbm = _lightgbm()
        try:
            return cls(lightgbm.Booster(model_str=text), options)
        except lightgbm.basic.LightGBMError as error:
            raise UserError(f"{path} is damaged: {error}; run train and package again") from error

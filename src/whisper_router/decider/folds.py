"""A decider of a small corpus: scores of every utterance by deciders that have not seen its speaker."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from whisper_router.decider.calibration import fit_calibration
from whisper_router.decider.options import DeciderOptions
from whisper_router.decider.registry import CalibratedDecider, Decider, fit_decider
from whisper_router.decider.scores import score_all
from whisper_router.decider.training import Examples, best_point
from whisper_router.errors import UserError

Array = np.ndarray


@dataclass(frozen=True)
class Fold:
    """Rows of a table, by number."""

    train: Array
    dev: Array
    test: Array


def speaker_folds(
    table: pd.DataFrame, folds: int, seed: int, remedy: str = "lower --folds or add data"
) -> list[Fold]:
    """Folds by speaker with like shares of the label; the next fold's rows are the dev rows.

    A row whose normalised text also stands in the test or the dev rows is left out of train, and of dev if in
    the test rows.

    Parameters
    ----------
    table : DataFrame
        ``label``, ``speaker`` and ``text`` of each row.
    remedy : str
        What the message tells the user to do where there are too few.

    Raises
    ------
    UserError
        Too few speakers, or too few utterances of a class.
    """
    speakers, positives = table["speaker"].nunique(), int(table["label"].sum())
    if speakers < folds or min(positives, len(table) - positives) < folds:
        raise UserError(
            f"{folds} folds take as many speakers, positives and negatives: there are {speakers} speakers, "
            f"{positives} of {len(table)} utterances need the strong arm; {remedy}"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = [test for _, test in splitter.split(table, table["label"], table["speaker"])]
    text = table["text"].to_numpy()
    result = []
    for i, test in enumerate(parts):
        dev = parts[(i + 1) % folds]
        dev = dev[~np.isin(text[dev], text[test])]
        rest = np.concatenate([part for j, part in enumerate(parts) if j not in (i, (i + 1) % folds)])
        train = np.sort(rest[~np.isin(text[rest], text[np.concatenate([test, dev])])])
        result.append(Fold(train, dev, test))
    return result


@dataclass(frozen=True)
class CrossFitted:
    """A decider trained on all utterances, and what deciders of the other folds say of each."""

    decider: Decider
    options: DeciderOptions  # as the final training had them
    curve: list[dict[str, float]]  # mean over the folds
    raw: Array  # out-of-fold scores as trained, (utterances,)
    scores: Array  # the same made probabilities, without the labels of the utterance's own fold
    folds: Array  # number of each utterance's fold


def mean_curve(curves: Sequence[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Training curves of several folds as one, as long as the shortest."""
    return [
        {name: round(float(np.mean([point[name] for point in points])), 6) for name in points[0]}
        for points in zip(*curves, strict=False)
    ]


def settled(options: DeciderOptions, point: dict[str, float]) -> DeciderOptions:
    """Options of a training that ends at a point of a curve: that many epochs or trees, or that ``c``."""
    if options.kind == "logistic":
        return options.model_copy(update={"c": (point["c"],)})
    if options.kind == "gbt":
        return options.model_copy(update={"trees": int(point["trees"])})
    return options.model_copy(update={"epochs": int(point["epoch"]), "patience": None})


def cross_fit(options: DeciderOptions, examples: Examples, folds: Sequence[Fold], title: str) -> CrossFitted:
    """Train a decider for each fold, then one on all utterances.

    The last one has no dev rows left to stop by: it trains for the number of epochs or trees, or with the
    ``c``, whose dev loss is the lowest on average over the folds. Its scores are made probabilities by a
    calibration that was fitted on all out-of-fold scores, as scikit-learn's ``CalibratedClassifierCV`` with
    ``ensemble=False`` does.

    Raises
    ------
    UserError
        A fold's train rows hold one class only, or the loss is not finite.
    """
    raw, number = np.zeros(len(examples.ids)), np.zeros(len(examples.ids), dtype=int)
    curves = []
    for i, fold in enumerate(folds):
        train, dev = _rows(examples, fold.train), _rows(examples, fold.dev)
        trained, curve = fit_decider(options, train, dev, f"{title}, fold {i + 1} of {len(folds)}")
        raw[fold.test] = score_all(trained, examples.reader, _rows(examples, fold.test).ids).scores
        number[fold.test] = i
        curves.append(curve)
    scores = raw.copy()
    for fold in folds:
        others = np.setdiff1d(np.arange(len(raw)), fold.test)
        calibration = fit_calibration(options.calibration, raw[others], examples.labels[others])
        if calibration is not None:
            scores[fold.test] = calibration.apply(raw[fold.test])
    curve = mean_curve(curves)
    final = settled(options, curve[best_point(curve, options.monitor)])
    whole, _ = fit_decider(final, examples, examples, f"{title}, all")
    calibration = fit_calibration(options.calibration, raw, examples.labels)
    decider: Decider = whole if calibration is None else CalibratedDecider(whole, calibration)
    return CrossFitted(decider, final, curve, raw, scores, number)


def _rows(examples: Examples, rows: Array) -> Examples:
    gains = None if examples.gains is None else examples.gains[rows]
    ids = [examples.ids[row] for row in rows]
    return replace(examples, ids=ids, labels=examples.labels[rows], gains=gains)

"""train: features and labels -> data/decider/<name>/."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stage import main
from whisper_router.corpus.options import FOLDS
from whisper_router.corpus.splits import people, text_keys
from whisper_router.decider.calibration import expected_calibration_error, reliability
from whisper_router.decider.curve import draw_curve, draw_reliability
from whisper_router.decider.folds import Fold, cross_fit, speaker_folds
from whisper_router.decider.registry import calibrated, fit_decider, save_decider
from whisper_router.decider.scores import OUT_OF_FOLD
from whisper_router.decider.training import Examples, best_point
from whisper_router.features.live import Reader
from whisper_router.features.open import open_features
from whisper_router.files import replacing_folder, write_json, write_parquet
from whisper_router.params import Params, load_params
from whisper_router.paths import DECIDER, LABELS, MANIFEST
from whisper_router.progress import say
from whisper_router.reference import measured

FOLD_SEED = 0


def write_reliability(
    folder: Path, name: str, where: str, scores: Mapping[str, np.ndarray], labels: np.ndarray
) -> None:
    """How far scores are probabilities, on utterances that neither training nor calibration has seen."""
    lines = {kind: reliability(made, labels) for kind, made in scores.items()}
    figures = {
        kind: {"ece": expected_calibration_error(made, labels), "bins": lines[kind]}
        for kind, made in scores.items()
    }
    write_json(folder / "reliability.json", figures)
    draw_reliability(folder / "reliability.png", f"Decider {name}, {where}", lines)


def examples_of(reader: Reader, part: pd.DataFrame) -> Examples:
    """Labelled utterances as deciders learn from them."""
    gains = (part["errors_weak"] - part["errors_strong"]).to_numpy()
    return Examples(reader, part["id"].tolist(), part["label"].to_numpy(), gains)


@task(name="train-decider", task_run_name="train-{name}", cache_policy=NO_CACHE)
def train_one(name: str, params: Params, labels: pd.DataFrame) -> None:
    """Train one decider; keep its best by the dev split, and its curve."""
    options = params.deciders[name]
    reader = open_features(options.extractor, params.extractors[options.extractor])
    parts = {split: labels[labels["split"] == split] for split in ("train", "dev", "calibration")}
    parts["calibration"] = measured(parts["calibration"])
    examples = {split: examples_of(reader, part) for split, part in parts.items()}
    trained, curve = fit_decider(options, examples["train"], examples["dev"], f"train: {name}")
    decider = calibrated(trained, options, examples["calibration"])
    dev = examples["dev"]
    features = dev.reader.batch(dev.ids)
    scores = {"as trained": trained.score(features), "calibrated": decider.score(features)}
    with replacing_folder(DECIDER / name) as folder:
        save_decider(folder, decider, options, reader.extractor)
        write_json(folder / "curve.json", curve)
        draw_curve(folder / "curve.png", f"Decider {name} ({options.kind})", curve, options.monitor)
        write_reliability(folder, name, "dev split", scores, dev.labels)
    best = best_point(curve, options.monitor)
    say(
        f"train: {name}: {decider.parameters:,} parameters, point {best + 1} of {len(curve)}, "
        f"dev {options.monitor} {curve[best][f'dev_{options.monitor}']:.3f}"
    )


@task(name="cross-validate-decider", task_run_name="cross-validate-{name}", cache_policy=NO_CACHE)
def cross_validate_one(name: str, params: Params, labels: pd.DataFrame, folds: Sequence[Fold]) -> None:
    """Score every utterance by a decider that has not heard its speaker; train the router's on all."""
    options = params.deciders[name]
    reader = open_features(options.extractor, params.extractors[options.extractor])
    examples = examples_of(reader, labels)
    made = cross_fit(options, examples, folds, f"train: {name}")
    best = best_point(made.curve, options.monitor)
    with replacing_folder(DECIDER / name) as folder:
        save_decider(folder, made.decider, made.options, reader.extractor)
        write_json(folder / "curve.json", made.curve)
        title = f"Decider {name} ({options.kind}), mean of {len(folds)} folds"
        draw_curve(folder / "curve.png", title, made.curve, options.monitor)
        scores = {"as trained": made.raw, "calibrated": made.scores}
        write_reliability(folder, name, "out of fold", scores, examples.labels)
        table = pd.DataFrame({"id": examples.ids, "fold": made.folds, "score": made.scores})
        write_parquet(folder / OUT_OF_FOLD, table)
    say(
        f"train: {name}: {len(folds)} folds, point {best + 1} of {len(made.curve)}, mean dev "
        f"{options.monitor} {made.curve[best][f'dev_{options.monitor}']:.3f}; "
        f"the router's, of {made.decider.parameters:,} parameters, learnt so from all {len(labels)}"
    )


@flow(name="train", validate_parameters=False)
def train() -> None:
    """Train every decider in params.yaml."""
    params = load_params()
    torch.set_num_threads(1)
    labels = pd.read_parquet(LABELS)
    with replacing_folder(DECIDER):
        pass
    small = labels[labels["split"] == FOLDS].reset_index(drop=True)
    if small.empty:
        for name in params.deciders:
            train_one(name, params, labels)
        return
    texts = text_keys(pd.read_parquet(MANIFEST).set_index("id", drop=False))
    table = small.assign(speaker=people(small), text=texts.loc[small["id"]].to_numpy())
    remedy = (
        "lower cross_validation.folds, add utterances of more speakers, or take harder audio or another pair"
    )
    folds = speaker_folds(table, params.cross_validation.folds, FOLD_SEED, remedy)
    for name in params.deciders:
        cross_validate_one(name, params, small, folds)


if __name__ == "__main__":
    main(train)

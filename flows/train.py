"""train: features and labels -> data/decider/<name>/."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stage import main
from whisper_router.decider.calibration import expected_calibration_error, reliability
from whisper_router.decider.curve import draw_curve, draw_reliability
from whisper_router.decider.registry import Decider, calibrated, fit_decider, save_decider
from whisper_router.decider.training import Examples, best_point
from whisper_router.features.open import open_features
from whisper_router.files import replacing_folder, write_json
from whisper_router.params import Params, load_params
from whisper_router.paths import DECIDER, LABELS


def write_reliability(
    folder: Path, name: str, deciders: Mapping[str, Decider], examples: Mapping[str, Examples]
) -> None:
    """How far scores are probabilities, on the dev split, which calibration has not seen."""
    dev = examples["dev"]
    features = dev.reader.batch(dev.ids)
    scores = {kind: decider.score(features) for kind, decider in deciders.items()}
    lines = {kind: reliability(made, dev.labels) for kind, made in scores.items()}
    figures = {
        kind: {"ece": expected_calibration_error(made, dev.labels), "bins": lines[kind]}
        for kind, made in scores.items()
    }
    write_json(folder / "reliability.json", figures)
    draw_reliability(folder / "reliability.png", f"Decider {name}, dev split", lines)


@task(name="train-decider", task_run_name="train-{name}", cache_policy=NO_CACHE)
def train_one(name: str, params: Params, labels: pd.DataFrame) -> None:
    """Train one decider; keep its best by the dev split, and its curve."""
    options = params.deciders[name]
    reader = open_features(options.extractor, params.extractors[options.extractor])
    parts = {split: labels[labels["split"] == split] for split in ("train", "dev", "calibration")}
    examples = {
        split: Examples(
            reader,
            part["id"].tolist(),
            part["label"].to_numpy(),
            (part["errors_weak"] - part["errors_strong"]).to_numpy(),
        )
        for split, part in parts.items()
    }
    trained, curve = fit_decider(options, examples["train"], examples["dev"], f"train: {name}")
    decider = calibrated(trained, options, examples["calibration"])
    with replacing_folder(DECIDER / name) as folder:
        save_decider(folder, decider, options, reader.extractor)
        write_json(folder / "curve.json", curve)
        draw_curve(folder / "curve.png", f"Decider {name} ({options.kind})", curve, options.monitor)
        write_reliability(folder, name, {"as trained": trained, "calibrated": decider}, examples)
    best = best_point(curve, options.monitor)
    print(
        f"train: {name}: {decider.parameters:,} parameters, point {best + 1} of {len(curve)}, "
        f"dev {options.monitor} {curve[best][f'dev_{options.monitor}']:.3f}"
    )


@flow(name="train", validate_parameters=False)
def train() -> None:
    """Train every decider in params.yaml."""
    params = load_params()
    torch.set_num_threads(1)
    labels = pd.read_parquet(LABELS)
    with replacing_folder(DECIDER):
        pass
    for name in params.deciders:
        train_one(name, params, labels)


if __name__ == "__main__":
    main(train)

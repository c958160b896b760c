"""train: features and labels -> data/decider/<name>/."""

import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stage import main
from whisper_router.decider.curve import draw_curve
from whisper_router.decider.options import DeciderOptions
from whisper_router.decider.registry import KINDS, save_decider
from whisper_router.features.store import FeatureReader
from whisper_router.files import replacing_folder, write_json
from whisper_router.params import load_params
from whisper_router.paths import DECIDER, FEATURES, LABELS


@task(name="train-decider", task_run_name="train-{name}", cache_policy=NO_CACHE)
def train_one(name: str, options: DeciderOptions, labels: pd.DataFrame) -> None:
    """Train one decider; keep the one with the lowest dev loss, and its curve."""
    reader = FeatureReader(FEATURES / options.extractor)
    parts = {}
    for split in ("train", "dev"):
        part = labels[labels["split"] == split]
        parts[split] = ([reader[id_] for id_ in part["id"]], part["label"].to_numpy())
    decider, curve = KINDS[options.kind].fit(options, parts["train"], parts["dev"])  # type: ignore[arg-type]
    with replacing_folder(DECIDER / name) as folder:
        save_decider(folder, decider, options, reader.extractor)
        write_json(folder / "curve.json", curve)
        draw_curve(folder / "curve.png", f"Decider {name} ({options.kind})", curve)
    best = min(curve, key=lambda point: point["dev_loss"])
    print(f"train: {name}: {decider.parameters} parameters, best of {len(curve)} by dev loss: {best}")


@flow(name="train", validate_parameters=False)
def train() -> None:
    """Train every decider in params.yaml."""
    params = load_params()
    torch.set_num_threads(1)
    labels = pd.read_parquet(LABELS)
    with replacing_folder(DECIDER):
        pass
    for name, options in params.deciders.items():
        train_one(name, options, labels)


if __name__ == "__main__":
    main(train)

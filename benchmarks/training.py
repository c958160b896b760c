"""Seconds a batch of decider training: reading ahead or not, float32 or bfloat16, interleaved in one run.

    python benchmarks/training.py [--repeats 5]

The features are random numbers of base's sizes (7 layers of width 512): speed does not depend on them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from whisper_router.decider.mlp import PooledMlp
from whisper_router.decider.options import MlpOptions, ResnetOptions
from whisper_router.decider.resnet import LayerResnet
from whisper_router.decider.training import Examples, batches
from whisper_router.features.store import FeatureReader, write_features

LAYERS, WIDTH = 7, 512
CASES = {  # name -> frames of a feature, utterances, batch size, network
    "paper": (1500, 64, 16, LayerResnet(ResnetOptions(kind="resnet", extractor="x"), LAYERS, WIDTH)),
    "paper-compact": (66, 512, 64, LayerResnet(ResnetOptions(kind="resnet", extractor="x"), LAYERS, WIDTH)),
    "mlp": (66, 512, 32, PooledMlp(MlpOptions(kind="mlp", extractor="x"), LAYERS, WIDTH)),
}


def epoch(network: torch.nn.Module, loaded: Iterator, precision: str) -> float:
    """Seconds of an epoch."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-5)
    started = time.perf_counter()
    for states, lengths, target in loaded:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(states, lengths)
        loss = F.binary_cross_entropy_with_logits(logits.float(), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return time.perf_counter() - started


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    for name, (frames, count, size, network) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = (
                (
                    f"u{i}",
                    random.standard_normal((frames, LAYERS, WIDTH), dtype=np.float32).astype(np.float16),
                )
                for i in range(count)
            )
            write_features(Path(folder) / "features", rows, {})
            examples = Examples(
                FeatureReader(Path(folder) / "features"),
                [f"u{i}" for i in range(count)],
                np.arange(count) % 2,
            )
            plan = [list(range(i, i + size)) for i in range(0, count, size)]
            seconds: dict[str, list[float]] = {"read ahead": [], "read, then train": [], "bfloat16": []}
            for _ in range(repeats):
                seconds["read ahead"].append(epoch(network, batches(examples, plan), "float32"))
                seconds["read, then train"].append(epoch(network, map(examples.load, plan), "float32"))
                seconds["bfloat16"].append(epoch(network, batches(examples, plan), "bfloat16"))
        base = statistics.median(seconds["read ahead"])
        for way, values in seconds.items():
            middle = statistics.median(values)
            print(f"{name}: {way}: {middle / len(plan):.3f} s a batch of {size} (x {middle / base:.2f})")


if __name__ == "__main__":
    main()

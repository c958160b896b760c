"""Seconds a batch of decider training, each way beside the others in one run, on one torch thread.

    python benchmarks/training.py [--rounds 3]

Ways: as the project trains (the next batch is read while one is computed, blocks of memory are kept); reading
first, then training; blocks given back after each batch; bfloat16. Each round starts a process a way in turn.
The features are random numbers of base's sizes (7 layers of width 512) and, for the decider of the demo, of
tiny's (5 of 384): speed does not depend on them. An epoch is 1,000 utterances of the second epoch;
its loading alone is timed beside.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from whisper_router.decider.mlp import PooledMlp
from whisper_router.decider.options import MlpOptions, ResnetOptions
from whisper_router.decider.resnet import LayerResnet
from whisper_router.decider.training import Examples, batches
from whisper_router.environment import KEEP_BLOCKS
from whisper_router.features.store import FeatureReader, write_features

BASE, TINY = (7, 512), (5, 384)  # layers, width
CASES = {  # frames of a feature, its layers and width, utterances, batch size
    "paper": (1500, BASE, 96, 16),
    "paper-compact": (66, BASE, 512, 64),
    "mlp": (66, BASE, 512, 32),
    "mlp, weak encoder": (66, TINY, 1000, 32),
}
WAYS = {
    "as the project trains": {"ahead": True, "keep": True, "precision": "float32"},
    "read, then train": {"ahead": False, "keep": True, "precision": "float32"},
    "blocks given back": {"ahead": True, "keep": False, "precision": "float32"},
    "bfloat16": {"ahead": True, "keep": True, "precision": "bfloat16"},
}


def write(folder: Path) -> None:
    """Features of every case."""
    random = np.random.default_rng(0)
    for name, (frames, sizes, count, _) in CASES.items():
        shape = (frames, *sizes)
        rows = (
            (f"u{i}", random.standard_normal(shape, dtype=np.float32).astype(np.float16))
            for i in range(count)
        )
        write_features(folder / name, rows, {})


def epochs(folder: Path, ahead: bool, precision: str) -> dict[str, float]:
    """Seconds a batch in each case, over the second of two epochs."""
    torch.set_num_threads(1)
    result = {}
    for name, (_, sizes, count, size) in CASES.items():
        if name.startswith("mlp"):
            network: torch.nn.Module = PooledMlp(MlpOptions(kind="mlp", extractor="x"), *sizes)
        else:
            network = LayerResnet(ResnetOptions(kind="resnet", extractor="x"), *sizes)
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-5)
        examples = Examples(
            FeatureReader(folder / name), [f"u{i}" for i in range(count)], np.arange(count) % 2
        )
        plan = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
        for _ in range(2):
            started = time.perf_counter()
            made = batches(examples, plan) if ahead else map(examples.load, plan)
            for rows, (states, lengths) in zip(plan, made, strict=True):
                target = torch.tensor(examples.labels[rows], dtype=torch.float32)
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    logits = network(states, lengths)
                loss = F.binary_cross_entropy_with_logits(logits.float(), target)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            result[name] = (time.perf_counter() - started) / len(plan)
        started = time.perf_counter()
        for rows in plan:
            examples.load(rows)
        result[f"{name}, loading alone"] = (time.perf_counter() - started) / len(plan)
    return result


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--features", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        way = WAYS[arguments.way]
        print(json.dumps(epochs(arguments.features, way["ahead"], way["precision"])))
        return
    named = [name for case in CASES for name in (case, f"{case}, loading alone")]
    seconds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in named}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for way in tqdm([*WAYS] * arguments.rounds, unit="process"):
            variables = {key: value for key, value in os.environ.items() if key not in KEEP_BLOCKS}
            if WAYS[way]["keep"]:
                variables |= KEEP_BLOCKS
            command = [sys.executable, __file__, "--way", way, "--features", folder]
            made = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
            for name, value in json.loads(made.stdout).items():
                seconds[name][way].append(value)
    print("| case | way | s a batch (median) | s an epoch of 1,000 | ratio |\n|---|---|---|---|---|")
    for name, ways in seconds.items():
        base = statistics.median(ways["as the project trains"])
        for way, values in ways.items():
            middle = statistics.median(values)
            size = CASES[name.removesuffix(", loading alone")][-1]
            epoch = middle * 1000 / size
            print(f"| {name}, batch {size} | {way} | {middle:.3f} | {epoch:.2f} | {middle / base:.2f} |")


if __name__ == "__main__":
    main()

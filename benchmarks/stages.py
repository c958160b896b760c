"""Seconds and bytes of ingest, label and featurize on real speech, and what follows for 1,000 hours.

    python benchmarks/stages.py TABLE [--utterances 200] [--hours 1000] [--output docs/benchmark-stages.json]

TABLE holds audio, text and speaker, as README's "Your own corpus" says. Each round starts with an empty
content store; the figures are medians over the rounds. Labelling runs as the stage does, a batch a core;
"one core" is the same work on one thread. Encodings are those of the weak encoder that params.yaml stores.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from whisper_router.asr.arm import Arm
from whisper_router.asr.load import load_arm
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import WINDOW_S
from whisper_router.corpus.ingest import read_corpora
from whisper_router.corpus.options import Corpus, IngestOptions
from whisper_router.features.options import EncoderExtractor
from whisper_router.labelling import WORKERS, Work, compute, plan_work, utterances
from whisper_router.params import load_params
from whisper_router.store import ContentStore

Figures = dict[str, float]


def measure(
    options: IngestOptions, arms: dict[str, Arm], extractor: EncoderExtractor, batch_size: int
) -> Figures:
    """One round in an empty store: audio seconds a second, and bytes an audio hour."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["WHISPER_ROUTER_CACHE"] = name
        folder, found = Path(name), {}
        start = time.perf_counter()
        manifest, _ = read_corpora(options, folder / "made")
        audio_s = float(manifest["duration_s"].sum())
        found["audio_s"], found["utterances"] = audio_s, float(len(manifest))
        found["ingest, all cores"] = audio_s / (time.perf_counter() - start)
        rows = utterances(manifest)
        for role, arm in arms.items():
            for cores in (WORKERS, 1):
                store = ContentStore(folder / f"{role}-{cores}")
                work = Work(arm.sha256, arm.options, True, ())
                start = time.perf_counter()
                compute(arm, plan_work(rows, work, store, batch_size), work, store, f"{role}, {cores}", cores)
                where = "all cores" if cores == WORKERS else "one core"
                found[f"label {role}, {where}"] = audio_s / (time.perf_counter() - start)
        hours = audio_s / 3600
        decodes = sum(entry.size for entry in ContentStore(folder / f"weak-{WORKERS}").entries())
        store = ContentStore(folder / "encodings")
        work = Work(arms["weak"].sha256, arms["weak"].options, False, (extractor,))
        start = time.perf_counter()
        compute(arms["weak"], plan_work(rows, work, store, batch_size), work, store, "featurize")
        found["featurize, all cores"] = audio_s / (time.perf_counter() - start)
        found["bytes of decodes an hour and arm"] = decodes / hours
        found["bytes of encodings an hour"] = sum(entry.size for entry in store.entries()) / hours
        found["bytes of probes an hour"] = sum(entry.size for entry in ContentStore().entries()) / hours
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hours", type=float, default=1000)
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params()
    corpus = Corpus(name="measured", kind="table", path=arguments.table.name, utterances=arguments.utterances)
    options = IngestOptions(root=str(arguments.table.parent), corpora=(corpus,), max_duration_s=WINDOW_S)
    arms = {
        role: load_arm(find_checkpoint(arm.model), arm.decode)
        for role, arm in (("weak", params.arms.weak), ("strong", params.arms.strong))
    }
    extractor = next(e for e in params.stored_extractors.values() if e.arm == "weak")
    rounds = [measure(options, arms, extractor, params.runtime.batch_size) for _ in range(arguments.rounds)]
    found: dict[str, Any] = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    table = Table(
        title=f"{found['utterances']:.0f} utterances, {found['audio_s'] / 60:.1f} min, {WORKERS} cores"
    )
    for column in ("what", "rate", f"{arguments.hours:g} hours"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, value in found.items():
        if name.startswith("bytes"):
            table.add_row(name, f"{value / 1e6:.1f} MB", f"{value * arguments.hours / 1e9:.1f} GB")
        elif "core" in name:
            table.add_row(name, f"{value:.1f} audio s/s", f"{arguments.hours / value:.1f} h")
    Console().print(table)
    if arguments.output:
        machine = {"cores": WORKERS, "arms": {role: arm.options.model_dump() for role, arm in arms.items()}}
        arguments.output.write_text(json.dumps({**found, **machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Seconds and memory of ingest, split and check by the number of rows: none may grow faster than the corpus.

    python benchmarks/manifest.py [--rows 1000 10000 100000] [--output docs/benchmark-manifest.json]

Each row is a WAV file of half a second with a text of its own; 20 rows a speaker. "ingest, first" decodes
every file. "ingest, again" finds them in the content store: all of ingest but the decoding, with the bytes of
the files hashed. Each step is a process of its own; its peak memory is that of the whole process, libraries
included. The corpus takes 16 kB a row in --folder, and is removed at the end.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

STEPS = ("ingest, first", "ingest, again", "split", "check")
ROWS_PER_SPEAKER, RATE = 20, 16_000
WORDS = 4000
CORPUS, MANIFEST = "corpus.jsonl", "manifest.parquet"


def make_corpus(folder: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(-3000, 3000, 2 * RATE, dtype=np.int16)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(random.choice(letters, size)) for size in random.integers(2, 9, WORDS)]
    with (folder / CORPUS).open("w") as table:
        for i in tqdm(range(rows), f"{rows} rows: write", unit="file"):
            path = folder / f"{i // 1000:04d}" / f"{i:07d}.wav"
            path.parent.mkdir(exist_ok=True)
            samples = np.roll(noise, i % RATE)[: RATE // 2]
            samples[:2] = divmod(i, 30_000)
            soundfile.write(path, samples, RATE)
            text = " ".join(words[k] for k in random.integers(WORDS, size=random.integers(1, 4)))
            row = {"id": f"u{i:07d}", "audio": str(path.relative_to(folder)), "text": f"{text}, {i}"}
            table.write(json.dumps({**row, "speaker": f"s{i // ROWS_PER_SPEAKER}"}) + "\n")


def ingest(folder: Path) -> Callable[[], object]:
    from whisper_router.corpus.ingest import ingest as build
    from whisper_router.corpus.options import Corpus, IngestOptions
    from whisper_router.files import write_parquet

    options = IngestOptions(root=str(folder), corpora=(Corpus(name="made", kind="table", path=CORPUS),))

    def step() -> None:
        manifest, rejected = build(options, folder / "made")
        if rejected:
            raise SystemExit(f"{len(rejected)} rows were rejected: {rejected[0]}")
        write_parquet(folder / MANIFEST, manifest)

    return step


def split(folder: Path) -> Callable[[], object]:
    from whisper_router.corpus.options import Splits
    from whisper_router.corpus.splits import assign_splits, drop_shared
    from whisper_router.scoring import normalise

    manifest = pd.read_parquet(folder / MANIFEST).assign(split=None)

    def step() -> None:
        made, _ = assign_splits(manifest, Splits())
        drop_shared(made, manifest["text"].map(normalise))

    return step


def check(folder: Path) -> Callable[[], object]:
    from whisper_router import environment

    environment.prepare()
    from whisper_router.checks.options import Severities
    from whisper_router.checks.run import run_checks
    from whisper_router.checks.suites import MANIFEST as EXPECTED
    from whisper_router.checks.suites import manifest_frame

    def step() -> None:
        frame = manifest_frame(pd.read_parquet(folder / MANIFEST))
        run_checks("manifest", frame, EXPECTED, Severities(), folder / "verdicts.json", folder / "docs")

    return step


def run_step(name: str, folder: Path) -> None:
    """One step in this process; its figures as JSON on the last line."""
    step = {"split": split, "check": check}.get(name, ingest)(folder)
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_bytes": peak}))


def measure(rows: int, parent: Path | None) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        make_corpus(folder, rows)
        variables = {**os.environ, "WHISPER_ROUTER_CACHE": str(folder / "store")}
        found = {}
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--folder", name]
            done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
            found[step] = json.loads(done.stdout.splitlines()[-1])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument(
        "--folder", type=Path, help="where the corpora are made; else the system's own for such"
    )
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step, arguments.folder)
        return
    found = {rows: measure(rows, arguments.folder) for rows in arguments.rows}
    table = Table(title="seconds (peak memory)")
    table.add_column("step")
    for rows in found:
        table.add_column(f"{rows:,} rows", justify="right")
    for step in STEPS:
        figures = [found[rows][step] for rows in found]
        table.add_row(step, *(f"{f['seconds']:.1f} ({f['peak_bytes'] / 2**30:.2f} GiB)" for f in figures))
    Console().print(table)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

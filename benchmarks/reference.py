"""How many texts of each engine are those of openai-whisper's own `decode`: greedy, at full context.

    python benchmarks/reference.py --table speech/manifest.jsonl [--utterances 200] [--models tiny.en base]

Fallback is off on both sides. What is done is not done again while the code and the sample are the same.
Writes docs/engines-reference.json.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import whisper
from contexts import BATCH_SIZE, ENGINES, Cell
from sample import Clip, draw
from whisper import DecodingOptions

from whisper_router.asr.arm import arm_key, log_mel
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import ENCODER_FRAMES, DecodeOptions
from whisper_router.asr.weights import find_checkpoint, load_whisper
from whisper_router.audio import audio_sha256
from whisper_router.files import read_json, write_json
from whisper_router.hashing import digest
from whisper_router.labelling import WORKERS
from whisper_router.machine import describe_machine

RESULTS, EXPECTED = Path("docs/engines-reference.json"), Path(".cache/engines-reference")
PLAIN = {
    "floor_frames": ENCODER_FRAMES,
    "max_tokens_per_s": 1e6,  # as many tokens as openai-whisper allows
    "temperatures": (0.0,),
    "compression_ratio_threshold": 1e6,
    "logprob_threshold": -1e6,
}


def expected_texts(model: str, clips: Sequence[Clip]) -> list[str]:
    """What openai-whisper's `decode` says."""
    loaded = load_whisper(find_checkpoint(model))
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False)

    def run(start: int) -> list[str]:
        audios = [clip.audio for clip in clips[start : start + BATCH_SIZE]]
        mel = log_mel(audios, ENCODER_FRAMES, loaded.dims.n_mels)
        return [result.text for result in whisper.decode(loaded, mel, options)]

    return [text for start in range(0, len(clips), BATCH_SIZE) for text in run(start)]


def texts(model: str, engine: Cell, clips: Sequence[Clip]) -> list[str]:
    """What an engine says."""
    arm = load_arm(find_checkpoint(model), DecodeOptions(**engine, **PLAIN))

    def run(start: int) -> list[str]:
        audios = [clip.audio for clip in clips[start : start + BATCH_SIZE]]
        return [hypothesis.text for hypothesis in arm.decode(arm.encode_audio(audios), audios)]

    with ThreadPoolExecutor(WORKERS) as pool:
        parts = pool.map(run, range(0, len(clips), BATCH_SIZE))
        return [text for part in parts for text in part]


def main() -> None:
    """Compare, model by model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"])
    arguments = parser.parse_args()
    clips = draw(arguments.table, arguments.utterances, seed=0)
    sample = [audio_sha256(clip.audio) for clip in clips]
    document = read_json(RESULTS) if RESULTS.is_file() else {}
    done: dict[str, Cell] = document.get("rows", {})
    kept = {}
    for model in arguments.models:
        sha256 = find_checkpoint(model).sha256
        expected_path = EXPECTED / f"{digest([sha256, sample])}.json"
        torch.set_num_threads(WORKERS)
        if not expected_path.is_file():
            write_json(expected_path, expected_texts(model, clips))
        expected = json.loads(expected_path.read_text())
        torch.set_num_threads(1)
        for engine in sorted(ENGINES, key=lambda engine: engine["dtype"] != "float32"):
            key = digest([arm_key(sha256, DecodeOptions(**engine, **PLAIN)), sample])
            if key not in done:
                pairs = zip(expected, texts(model, engine, clips), strict=True)
                same = sum(one == other for one, other in pairs)
                done[key] = {"model": model, "engine": engine, "same": same, "utterances": len(clips)}
                write_json(RESULTS, {"machine": describe_machine(), "rows": done})
            kept[key] = done[key]
            print(kept[key], flush=True)
    write_json(RESULTS, {"machine": describe_machine(), "rows": kept})


if __name__ == "__main__":
    main()

"""Words in sound that nobody speaks in, and words lost in speech: no rule, Whisper's, the default.

    python benchmarks/silence.py --table speech/manifest.jsonl [--utterances 200] [--models tiny.en base]

Noise is made from nothing (of cars, streets, keyboards, telephones, ...) and from the pauses of the
recordings of the table; each at several lengths and levels. Writes docs/silence.md.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from sample import draw
from tqdm import tqdm

from whisper_router.asr.arm import Arm
from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import SAMPLE_RATE, Audio
from whisper_router.files import write_text
from whisper_router.labelling import WORKERS
from whisper_router.machine import cpu_model
from whisper_router.scoring import word_errors

DOCUMENT = Path("docs/silence.md")
RULES = {
    "no rule": {"no_speech_threshold": None, "voice_threshold": None},
    "Whisper's rule": {"voice_threshold": None},
    "Whisper's rule and voice (the default)": {},
}
SECONDS, LEVELS_DB = (2, 5, 12, 28), (-20, -40, -60)
BATCH_SIZE = 16
GRAIN = 400  # samples of a pause: 25 ms


def _coloured(size: int, slope: float, random: np.random.Generator) -> Audio:
    """Noise whose power falls with frequency to the power of ``slope``."""
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    frequency[0] = frequency[1]
    spectrum = random.normal(size=frequency.size) + 1j * random.normal(size=frequency.size)
    made: Audio = np.fft.irfft(spectrum * frequency ** (-slope / 2), size)
    return made / made.std()


def _bursts(size: int, random: np.random.Generator, rate: float, length: int) -> Audio:
    made = 0.02 * random.normal(size=size)
    for at in random.integers(0, size - length, round(rate * size / SAMPLE_RATE)):
        decay = np.exp(-np.arange(length) / (length / 6))
        made[at : at + length] += random.uniform(0.3, 1) * decay * random.normal(size=length)
    return made


def _tones(size: int, frequencies: Sequence[float], on_s: float, every_s: float) -> Audio:
    times = np.arange(size) / SAMPLE_RATE
    made: Audio = sum(np.sin(2 * np.pi * frequency * times) for frequency in frequencies)
    return made * (times % every_s < on_s)


def _hum(size: int, base: float, parts: int) -> Audio:
    times = np.arange(size) / SAMPLE_RATE
    made: Audio = sum(np.sin(2 * np.pi * base * k * times + k) / k for k in range(1, parts))
    return made


def _melody(size: int, random: np.random.Generator) -> Audio:
    made, length = np.zeros(size), SAMPLE_RATE // 2
    times = np.arange(length) / SAMPLE_RATE
    for at in range(0, size - length, length):
        pitch = 220 * 2 ** (random.choice([0, 2, 4, 5, 7, 9, 11]) / 12)
        made[at : at + length] += sum(
            np.sin(2 * np.pi * pitch * k * times) / k for k in range(1, 7)
        ) * np.exp(-3 * times)
    return made


KINDS: Mapping[str, Callable[[int, np.random.Generator], Audio]] = {
    "white": lambda size, random: random.normal(size=size),
    "pink": lambda size, random: _coloured(size, 1, random),
    "brown": lambda size, random: _coloured(size, 2, random),
    "car": lambda size, random: _coloured(size, 2, random) + _hum(size, 28, 7),
    "street": lambda size, random: _coloured(size, 1, random) + 2 * _bursts(size, random, 1.5, 6000),
    "keyboard": lambda size, random: _bursts(size, random, 6, 400),
    "mains hum": lambda size, random: _hum(size, 50, 12) + 0.05 * random.normal(size=size),
    "tone": lambda size, random: _tones(size, [440.0], 1, 1),
    "ringing": lambda size, random: _tones(size, [440.0, 480.0], 2, 6) + 1e-4 * random.normal(size=size),
    "beeps": lambda size, random: _tones(size, [1000.0], 0.3, 2) + 1e-4 * random.normal(size=size),
    "melody": _melody,
}


def _at(sound: Audio, level_db: float) -> Audio:
    sound = sound - sound.mean()
    loud = sound / np.sqrt((sound**2).mean()) * 10 ** (level_db / 20)
    return loud.clip(-1, 1).astype(np.float32)


def made_noise() -> Iterator[Audio]:
    """Every kind at every length and level."""
    for seed, make in enumerate(KINDS.values()):
        for seconds in SECONDS:
            sound = make(seconds * SAMPLE_RATE, np.random.default_rng(seed))
            yield from (_at(sound, level) for level in LEVELS_DB)


def pauses(speech: Sequence[Audio]) -> Iterator[Audio]:
    """The quietest twentieth of recordings, its grains drawn again and again and faded into each other."""
    for seed, audio in enumerate(speech[:12]):
        random = np.random.default_rng(seed)
        grains = audio[: audio.size // GRAIN * GRAIN].reshape(-1, GRAIN)
        quiet = grains[np.argsort((grains**2).mean(axis=1))[: max(8, len(grains) // 20)]]
        for seconds in SECONDS:
            made = np.zeros(seconds * SAMPLE_RATE)
            for at in range(0, made.size - GRAIN, GRAIN // 2):
                made[at : at + GRAIN] += quiet[random.integers(len(quiet))] * np.hanning(GRAIN)
            yield from (_at(made, level) for level in (-35, -55))


def heard(arm: Arm, audios: Sequence[Audio], gated: bool, title: str) -> list[Hypothesis]:
    """What an arm makes of each; ``gated``: duration, level and voice are asked before."""

    def run(batch: Sequence[int]) -> list[Hypothesis]:
        part = [audios[i] for i in batch]
        encoding = arm.encode_audio(part)
        return arm.transcribe(encoding, part) if gated else arm.decode(encoding, part)

    plan = list(arm.batches(audios, BATCH_SIZE))
    found: dict[int, Hypothesis] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for batch, made in zip(plan, tqdm(pool.map(run, plan), title, len(plan)), strict=True):
            found |= zip(batch, made, strict=True)
    return [found[i] for i in range(len(audios))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = draw(arguments.table, arguments.utterances, 0)
    speech = [clip.audio for clip in clips]
    noise = [*made_noise(), *pauses(speech), *(np.zeros(s * SAMPLE_RATE, np.float32) for s in SECONDS)]
    rows = []
    for model in arguments.models:
        for rule, change in RULES.items():
            arm = load_arm(find_checkpoint(model), DecodeOptions(**change))
            gated = rule != "no rule"
            empty = heard(arm, noise, gated, f"{model}, {rule}: noise")
            texts = [made.text for made in heard(arm, speech, gated, f"{model}, {rule}: speech")]
            counts = word_errors([clip.text for clip in clips], texts)
            wer = sum(count.errors for count in counts) / sum(count.reference_words for count in counts)
            words = sum(bool(made.text) for made in empty)
            decodings = sum(len(made.attempts) for made in empty)
            lost = sum(not text for text in texts)
            rows.append(f"| {model} | {rule} | {words} | {decodings} | {wer:.2%} | {lost} |")
    text = (
        "# Words in silence\n\n"
        f"{len(noise)} sounds that nobody speaks in, 2 to 28 s: {len(KINDS)} kinds of noise and tones, the "
        f"pauses of 12 recordings, digital silence. {len(speech)} utterances of real speech.\n\n"
        "| model | rule | sounds with words | decodings of them | WER on speech | speech dropped |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        f"`python benchmarks/silence.py --table TABLE --utterances {arguments.utterances}` on "
        f"{cpu_model()}. Windows that are refused by duration, level or voice are not decoded.\n"
    )
    write_text(DOCUMENT, text)
    print(text)


if __name__ == "__main__":
    main()

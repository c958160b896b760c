"""Whether a window holds speech at all: its duration, its level, then a voice detector, before any decoding.

Whisper writes sentences for silence and noise. What is refused here costs no encoding; what a decoder then
finds to be no speech, by Whisper's own rule, costs one decoding (`Arm.decode`).
"""

from functools import cache
from typing import Any, Literal

import torch

from whisper_router.asr.options import DecodeOptions
from whisper_router.audio import SAMPLE_RATE, SILENCE_DB, Audio, level_db

NoSpeech = Literal["duration", "level", "voice", "decoder"]  # what says that a window holds no speech

SHORTEST_S = 0.1  # seconds of speech: less is no word
FRAME_S = 0.032  # seconds that the voice detector judges at a time


@cache
def _detector() -> Any:
    """Silero's voice detector (MIT), which comes with its package; its runs may be concurrent."""
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad  # importing it sets torch to one thread

    torch.set_num_threads(threads)
    return load_silero_vad(sequence=True)


def voice_s(audio: Audio, threshold: float) -> float:
    """Seconds in which the voice detector's probability of speech is at least ``threshold``."""
    probabilities = _detector().audio_forward(audio)  # (frames of 32 ms,)
    return float((probabilities >= threshold).sum() * FRAME_S)


def no_speech(audio: Audio, options: DecodeOptions) -> NoSpeech | None:
    """What says that a window of at most 30 s holds no speech; None where it is to be decoded."""
    if audio.size < SHORTEST_S * SAMPLE_RATE:
        return "duration"
    if level_db(audio) < SILENCE_DB:
        return "level"
    if options.voice_threshold is not None and voice_s(audio, options.voice_threshold) < SHORTEST_S:
        return "voice"
    return None

"""Mono float32 samples at 16 kHz: levels, hashes, segments, windows."""

import hashlib
import math

import numpy as np

from whisper_router.errors import UserError

SAMPLE_RATE = 16_000  # Hz, Whisper's rate
WINDOW_S = 30.0  # seconds that Whisper's encoder sees at once
MAX_BYTES = 1 << 30
MAX_SECONDS = 4 * 3600.0
CLIPPED = 0.998  # of full scale
SILENCE_DB = -70.0  # RMS relative to full scale: less is digital silence
PAUSE_S = 2.0  # so much of it, in a recording over 30 s, is a window of its own

Audio = np.ndarray[tuple[int], np.dtype[np.float32]]


class AudioError(UserError):
    """An audio file that cannot be used, with the reason."""


def cut(audio: Audio, offset_s: float, duration_s: float) -> Audio:
    """A segment of audio: ``duration_s`` seconds from ``offset_s`` on, fewer at its end."""
    start = round(offset_s * SAMPLE_RATE)
    return audio[start : start + round(duration_s * SAMPLE_RATE)]


def level_db(audio: Audio) -> float:
    """RMS relative to full scale in dB, at least -120."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return 10 * math.log10(max(power, 1e-12))


def clipped_share(audio: Audio) -> float:
    """Share of the samples at full scale, where three or more running are."""
    if audio.size < 3:
        return 0.0
    full = np.abs(audio) >= CLIPPED
    three = full[:-2] & full[1:-1] & full[2:]
    return float((np.convolve(three, np.ones(3)) > 0).mean()) if three.any() else 0.0


def audio_sha256(audio: Audio) -> str:
    """SHA-256 of the samples: the same sound in another container has the same hash."""
    return hashlib.sha256(np.ascontiguousarray(audio).tobytes()).hexdigest()


def window_end(audio: Audio, window_s: float = WINDOW_S, search_s: float = 8.0) -> int:
    """Where the first window of the rest of a long recording ends, in samples.

    A pause of digital silence is a window of its own, so that the times of what stands around it are true.
    Else the window ends with the audio or, in more than ``window_s``, at the quietest 0.2 s of its last
    ``search_s``.
    """
    size, step = round(window_s * SAMPLE_RATE), SAMPLE_RATE // 10
    seen = audio[:size]
    power = np.square(seen[: seen.size // step * step], dtype=np.float64).reshape(-1, step).mean(axis=1)
    edges = np.flatnonzero(np.diff(power < 10 ** (SILENCE_DB / 10), prepend=False, append=False))
    for begin, end in edges.reshape(-1, 2):  # runs of silent steps
        if end - begin >= round(PAUSE_S * SAMPLE_RATE / step):
            if begin:
                return int(begin) * step
            return int(end) * step if end < power.size else seen.size
    if audio.size <= size:
        return audio.size
    first = size // step - round(search_s * SAMPLE_RATE) // step
    quietest = int(np.argmin(power[first:-1] + power[first + 1 :]))
    return (first + quietest + 1) * step


def windows(audio: Audio, window_s: float = WINDOW_S) -> list[slice]:
    """A recording in windows of at most ``window_s``, one where it is no longer; see `window_end`."""
    size, start, cuts = round(window_s * SAMPLE_RATE), 0, list[slice]()
    while audio.size > size and start < audio.size:
        end = start + window_end(audio[start : start + size + 1], window_s)
        cuts.append(slice(start, end))
        start = end
    return cuts or [slice(0, audio.size)]

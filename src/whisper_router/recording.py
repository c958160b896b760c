"""Audio decoded piece by piece within limits, and cut into windows as it comes: in bounded memory."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from whisper_router.audio import (
    MAX_BYTES,
    MAX_SECONDS,
    SAMPLE_RATE,
    WINDOW_S,
    Audio,
    AudioError,
    _open,
    _refuse_short_wav,
    windows,
)

LOWEST_RATE = 1_000  # Hz: at less, few bytes are hours
WINDOW = round(WINDOW_S * SAMPLE_RATE)

Pcm = np.ndarray[tuple[int], np.dtype[np.int16]]
Source = str | Path | bytes


@dataclass(frozen=True)
class Limits:
    """What a recording may take."""

    max_bytes: int = MAX_BYTES
    max_seconds: float = MAX_SECONDS  # of sound
    decode_s: float = float("inf")  # of decoding


class TooLongError(AudioError):
    """Audio beyond a limit of size, duration or decoding time."""


def decode_pieces(source: Source, limits: Limits = Limits()) -> Iterator[Pcm]:
    """Decode a file or its bytes with PyAV to 16-bit samples, mono, 16 kHz, a piece at a time.

    Raises
    ------
    AudioError
        Missing, empty, unreadable, truncated, without audio, or (`TooLongError`) beyond a limit.
    """
    name = "audio bytes" if isinstance(source, bytes) else str(source)
    if isinstance(source, bytes):
        size = len(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise AudioError(f"{name}: {'not a file' if path.exists() else 'no such file'}")
        size = path.stat().st_size
    if size == 0:
        raise AudioError(f"{name}: empty")
    if size > limits.max_bytes:
        raise TooLongError(f"{name}: {size} bytes, more than the limit of {limits.max_bytes}")
    _refuse_short_wav(source, size, name)
    try:
        with _open(source) as container:
            yield from _pieces(container, name, limits)
    except (av.FFmpegError, EOFError, OSError, ValueError, MemoryError, OverflowError) as error:
        raise AudioError(f"{name}: not readable as audio ({error})") from error


def _stated_seconds(container: av.container.InputContainer) -> float | None:
    stream = container.streams.audio[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)  # Matroska states no duration for a stream
    return None


def _pieces(container: av.container.InputContainer, name: str, limits: Limits) -> Iterator[Pcm]:
    if not container.streams.audio:
        raise AudioError(f"{name}: holds no audio stream")
    stream = container.streams.audio[0]
    rate = getattr(stream, "rate", None) or 0  # PyAV has none where FFmpeg knows no decoder
    if rate < LOWEST_RATE:
        raise AudioError(f"{name}: states {rate} samples a second; {LOWEST_RATE} are the fewest")
    stated = _stated_seconds(container)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    samples, begun = 0, time.monotonic()
    for packet in container.demux(stream):
        if time.monotonic() - begun > limits.decode_s:
            raise TooLongError(f"{name}: takes longer than {limits.decode_s:g} s to decode")
        for frame in packet.decode():
            frame.pts = None
            for converted in resampler.resample(frame):
                piece = converted.to_ndarray()[0]
                samples += piece.size
                yield piece
            if samples > limits.max_seconds * SAMPLE_RATE:
                raise TooLongError(f"{name}: longer than the limit of {limits.max_seconds:g} s")
    for converted in resampler.resample(None):
        piece = converted.to_ndarray()[0]
        samples += piece.size
        yield piece
    if samples == 0:
        raise AudioError(f"{name}: holds no samples")
    seconds = samples / SAMPLE_RATE
    if stated is not None and seconds < stated - 0.2:
        raise AudioError(f"{name}: truncated, {seconds:.2f} s of the {stated:.2f} s that its header states")


def cut_windows(pieces: Iterable[Pcm]) -> Iterator[tuple[int, Audio]]:
    """Windows of at most 30 s, cut at silences as `audio.windows` does: (first sample, samples).

    No more than a window and a piece is held at a time.
    """
    start, held, count = 0, list[Pcm](), 0
    for piece in pieces:
        held.append(piece)
        count += piece.size
        if count > WINDOW:
            samples = np.concatenate(held) if len(held) > 1 else piece
            while samples.size > WINDOW:
                audio = _float(samples[: WINDOW + 1])
                end = windows(audio)[0].stop
                yield start, audio[:end]
                start, samples = start + end, samples[end:]
            held, count = [samples], samples.size
    yield start, _float(np.concatenate(held))


def _float(samples: Pcm) -> Audio:
    return samples.astype(np.float32) / 32768.0


def source_windows(source: Source, limits: Limits = Limits()) -> Iterator[tuple[int, Audio]]:
    """Windows of a file or its bytes; the errors of `decode_pieces`."""
    return cut_windows(decode_pieces(source, limits))

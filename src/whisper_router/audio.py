"""Audio of any container and rate -> mono float32 at 16 kHz, within limits."""

import hashlib
import io
import math
from pathlib import Path

import av
import numpy as np

from whisper_router.errors import UserError

SAMPLE_RATE = 16_000  # Hz, Whisper's rate
WINDOW_S = 30.0  # seconds that Whisper's encoder sees at once
MAX_BYTES = 1 << 30
CONTAINERS = "wav,w64,flac,mp3,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,aiff"  # FFmpeg's demuxers
MAX_SECONDS = 4 * 3600.0
CLIPPED = 0.998  # of full scale

Audio = np.ndarray[tuple[int], np.dtype[np.float32]]


class AudioError(UserError):
    """An audio file that cannot be used, with the reason."""


def load_audio(source: str | Path | bytes, max_seconds: float = MAX_SECONDS) -> Audio:
    """Decode a file or its bytes with PyAV.

    Returns
    -------
    Audio
        Samples in [-1, 1], shape (samples,), mono, 16 kHz.

    Raises
    ------
    AudioError
        Missing, empty, unreadable, truncated, without audio, or longer than ``max_seconds``.
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
    if size > MAX_BYTES:
        raise AudioError(f"{name}: {size} bytes, more than the limit of {MAX_BYTES}")
    _refuse_short_wav(source, size, name)
    try:
        with _open(source) as container:
            return _decode(container, name, max_seconds)
    except (av.FFmpegError, EOFError, OSError, ValueError) as error:
        raise AudioError(f"{name}: not readable as audio ({error})") from error


def _open(source: str | Path | bytes) -> av.container.InputContainer:
    """Open audio, but no playlist: those would have FFmpeg read other files."""
    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    return av.open(opened, mode="r", metadata_errors="ignore", options={"format_whitelist": CONTAINERS})


def source_rate(path: str | Path) -> int:
    """The sampling rate in Hz that a file is stored at."""
    with _open(path) as container:
        return int(container.streams.audio[0].rate)


def _refuse_short_wav(source: str | Path | bytes, size: int, name: str) -> None:
    """FFmpeg takes a WAV's duration from the file's size: compare it with the size that the header states."""
    if isinstance(source, bytes):
        head = source[:12]
    else:
        with Path(source).open("rb") as file:
            head = file.read(12)
    stated = int.from_bytes(head[4:8], "little") + 8
    if head[:4] == b"RIFF" and head[8:] == b"WAVE" and size < stated < 0xFFFFFFFF:
        raise AudioError(f"{name}: truncated, {size} bytes of the {stated} that its header states")


def _decode(container: av.container.InputContainer, name: str, max_seconds: float) -> Audio:
    if not container.streams.audio:
        raise AudioError(f"{name}: holds no audio stream")
    stream = container.streams.audio[0]
    stated = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    if stated is None and container.duration and len(container.streams) == 1:
        stated = container.duration / av.time_base  # Matroska states no duration for a stream
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    chunks: list[np.ndarray] = []
    samples = 0
    for frame in container.decode(stream):
        frame.pts = None
        for converted in resampler.resample(frame):
            chunks.append(converted.to_ndarray()[0])
            samples += chunks[-1].size
        if samples > max_seconds * SAMPLE_RATE:
            raise AudioError(f"{name}: longer than the limit of {max_seconds:g} s")
    chunks.extend(converted.to_ndarray()[0] for converted in resampler.resample(None))
    audio = np.concatenate(chunks).astype(np.float32) / 32768.0 if chunks else np.zeros(0, np.float32)
    if audio.size == 0:
        raise AudioError(f"{name}: holds no samples")
    seconds = audio.size / SAMPLE_RATE
    if stated is not None and seconds < stated - 0.2:
        raise AudioError(f"{name}: truncated, {seconds:.2f} s of the {stated:.2f} s that its header states")
    return audio


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


def windows(audio: Audio, window_s: float = WINDOW_S, search_s: float = 8.0) -> list[slice]:
    """Cut audio into windows of at most ``window_s``, each at the quietest 0.2 s of its last ``search_s``."""
    size, step = round(window_s * SAMPLE_RATE), SAMPLE_RATE // 10
    cuts, start = [], 0
    while audio.size - start > size:
        first = start + size - round(search_s * SAMPLE_RATE)
        tail = audio[first : start + size]
        energy = np.square(tail[: tail.size // step * step], dtype=np.float64).reshape(-1, step).sum(axis=1)
        quietest = int(np.argmin(energy[:-1] + energy[1:]))
        end = first + (quietest + 1) * step
        cuts.append(slice(start, end))
        start = end
    return [*cuts, slice(start, audio.size)]

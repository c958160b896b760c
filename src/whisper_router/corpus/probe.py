"""What the audio of a row holds: every recording decoded once for all its segments, and remembered."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import av

from whisper_router.audio import SAMPLE_RATE, AudioError, audio_sha256, clipped_share, cut, level_db
from whisper_router.decode import Limits, read_recording
from whisper_router.hashing import code_hash, digest, file_sha256
from whisper_router.store import ContentStore

Span = tuple[float, float | None]  # offset and duration in seconds; None: to the end


@dataclass(frozen=True)
class Probe:
    """A segment of a recording."""

    whole_s: float  # seconds of the recording
    duration_s: float  # of the segment: shorter than asked for where the recording ends
    sample_rate: int  # Hz, as stored
    sha256: str  # of the samples
    level_db: float
    clipped: float


def _key(file_hash: str, span: Span) -> str:
    code, values = code_hash("whisper_router.decode"), [field.name for field in fields(Probe)]
    return digest([file_hash, *span, code, values, av.__version__])


def probe_recording(
    path: Path, spans: Sequence[Span], store: ContentStore, limits: Limits = Limits()
) -> Mapping[Span, Probe]:
    """Probe segments of one recording; it is decoded only where the content store lacks one.

    Segments of a longer recording are kept in the store, so that later stages need not decode all of it.

    Raises
    ------
    AudioError
        Missing or unreadable, or beyond a limit.
    """
    wanted = dict.fromkeys(spans)
    try:
        file_hash = file_sha256(path) if path.is_file() else ""
    except OSError as error:
        raise AudioError(f"{path}: not readable ({error.strerror})") from error
    paths = {span: store.value_path("probes", _key(file_hash, span)) for span in wanted}
    found = {span: Probe(**value) for span in wanted if (value := store.read_value(paths[span])) is not None}
    lacking = [span for span in wanted if span not in found]
    if not lacking:
        return found
    recording = read_recording(path, limits)
    audio, rate = recording.audio, recording.rate
    whole_s = audio.size / SAMPLE_RATE
    for span in lacking:
        offset_s, duration_s = span
        segment = cut(audio, offset_s, whole_s if duration_s is None else duration_s)
        sha256 = audio_sha256(segment)
        if 0 < segment.size < audio.size:
            store.write_segment(sha256, segment)
        level, clipped = round(level_db(segment), 2), round(clipped_share(segment), 6)
        found[span] = Probe(whole_s, segment.size / SAMPLE_RATE, rate, sha256, level, clipped)
        store.write_value(paths[span], asdict(found[span]))
    return found

"""Sound files of any rate -> mono at 16 kHz, a piece at a time, within limits of memory and time."""

import errno
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO

import av
import numpy as np
from av.stream import Discard

from whisper_router.audio import MAX_BYTES, MAX_SECONDS, SAMPLE_RATE, WINDOW_S, Audio, AudioError, window_end
from whisper_router.containers import (
    data_chunk,
    flac_frames,
    flac_seconds,
    matroska_head,
    mp3_frames,
    open_sound,
    states_absurd_index,
)

TAKEN = "wav, flac, mp3, ogg, opus, m4a, mp4, aac, webm, mkv, aiff"
CONTAINERS = "wav,w64,flac,mp3,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,aiff"  # FFmpeg's demuxers
PCM = (
    *("pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be"),
    *("pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be"),
    *("adpcm_ms", "adpcm_ima_wav", "gsm_ms"),
)
LARGEST = {  # bytes of a packet, by FFmpeg's decoder: pictures, video and all other sound are never decoded
    **dict.fromkeys(PCM, 8 << 20),
    **dict.fromkeys(("flac", "alac", "vorbis", "opus", "libopus"), 1 << 20),
    **dict.fromkeys(("mp3float", "mp3", "mp2float", "mp2", "aac"), 16 << 10),  # may hold a frame in 5 bytes
}
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
TIMED = ("matroska,webm", "ogg", MOV)  # containers with a time for each packet
STATING = ("aiff", MOV)  # containers that always state their duration
RATES = (4_000, 384_000)  # Hz: telephones have 8,000; the fastest converters 384,000
CHANNELS = 24  # of the largest layout that FFmpeg mixes down
FRAME = 1 << 20  # samples times channels that may leave a decoder at once; FLAC's largest are half of it
FLAC_FRAMES = 8  # in a packet, which holds one; a frame of silence takes 14 bytes
MAX_BAD_SHARE = 0.1  # of packets that cannot be decoded
GAP_S = 0.1  # times are true to this; packets may come by so much too early or late without being moved
MAX_GAP_S = 3600.0  # a jump of the clock by more is an error of the clock, where no duration is stated
MP3_FRAMES = 3  # that an MP3 states and does not play: its encoder's delay and padding
SHORT_S = 0.2  # by which a file may be shorter than it states
HELD = 64 << 20  # bytes of samples that are held in memory before it is known whether a recording is taken
DEMUX_ERRORS = 10  # running, that end a file
logger = logging.getLogger(__name__)
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
    """Audio beyond a limit of size, duration, memory or decoding time."""


class OutOfMemoryError(TooLongError):
    """Audio that needs more memory than there is."""


@dataclass(frozen=True)
class Recording:
    """A decoded file."""

    audio: Audio
    rate: int  # Hz, as stored
    packets: int
    bad_packets: int  # that could not be decoded


class _File:
    """A file as FFmpeg reads it: an error when time is over, a true size where the header leaves it open."""

    def __init__(self, file: BinaryIO, check_time: Callable[[], None]) -> None:
        self._file, self._check_time = file, check_time
        self._given: tuple[int, bytes] | None = None
        self.seek, self.tell = file.seek, file.tell
        self.name = getattr(file, "name", "<none>")

    def give(self, place: int, field: bytes) -> None:
        """Have a field of the header read as it should be."""
        self._given = place, field

    def read(self, size: int, /) -> bytes:
        self._check_time()
        if self._given is None:
            return self._file.read(size)
        place, (first, field) = self._file.tell(), self._given
        data = self._file.read(size)
        begin, end = max(place, first), min(place + len(data), first + len(field))
        if begin >= end:
            return data
        return data[: begin - place] + field[begin - first : end - first] + data[end - place :]


class Decoding:
    """One pass over a file or its bytes; `packets` and `bad_packets` count as it goes.

    Everything that FFmpeg holds is freed when the pass ends, in whatever way.
    """

    def __init__(self, source: Source, limits: Limits = Limits()) -> None:
        self.source, self.limits = source, limits
        self.name = "audio bytes" if isinstance(source, bytes) else str(source)
        self.rate = self.packets = self.bad_packets = 0
        self._bad_s = 0.0  # seconds of bad packets that a good one follows
        self._trailing_bad_s = 0.0  # of the others
        self._first_s = 0.0  # the time of the first frame
        self._begun = time.monotonic()

    def pieces(self) -> Iterator[Pcm]:
        """16-bit samples, mono, 16 kHz.

        Raises
        ------
        AudioError
            Missing, empty, unreadable, truncated, without audio, or (`TooLongError`) beyond a limit.
        """
        try:
            yield from self._pieces()
        except AudioError as error:
            traceback.clear_frames(error.__traceback__)
            raise
        except (av.FFmpegError, EOFError, OSError, ValueError, OverflowError, MemoryError) as error:
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
                raise OutOfMemoryError(f"{self.name}: takes more memory to decode than it may") from error
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"{self.name}: not readable as audio ({reason}); taken are {TAKEN}") from error

    def check_time(self) -> None:
        """Refuse to go on when time is over.

        Raises
        ------
        TooLongError
            Time is over.
        """
        if time.monotonic() - self._begun > self.limits.decode_s:
            raise TooLongError(f"{self.name}: takes longer than {self.limits.decode_s:g} s to decode")

    def _size(self) -> int:
        if isinstance(self.source, bytes):
            size = len(self.source)
        else:
            path = Path(self.source)
            if not path.is_file():
                raise AudioError(f"{self.name}: {'not a file' if path.exists() else 'no such file'}")
            size = path.stat().st_size
        if size == 0:
            raise AudioError(f"{self.name}: empty")
        if size > self.limits.max_bytes:
            raise TooLongError(f"{self.name}: {size} bytes, more than the limit of {self.limits.max_bytes}")
        return size

    def _pieces(self) -> Iterator[Pcm]:
        self._begun = time.monotonic()
        size = self._size()
        with ExitStack() as opened:
            file = _File(opened.enter_context(open_sound(self.source)), self.check_time)
            self._check_head(file, size)
            file.seek(0)
            container = opened.enter_context(_open(file))
            stream = self._stream(container)
            stated = self._stated_seconds(container, stream, file)
            decoded = self._frames(container, stream)
            frames = self._timed(decoded, stated) if container.format.name in TIMED else decoded
            samples, most = 0, self.limits.max_seconds
            for piece in self._resampled(frames):
                samples += piece.size
                if samples > most * SAMPLE_RATE or (stated is not None and stated > most + SHORT_S):
                    raise TooLongError(f"{self.name}: longer than the limit of {most:g} s")
                yield piece
        self._refuse_damaged(samples, stated)

    def _check_head(self, file: _File, size: int) -> None:
        """Refuse what FFmpeg would believe, or unpack, when it opens the file."""
        chunk = data_chunk(file)
        if chunk is not None and chunk.missing(size):
            stated = size + chunk.missing(size)
            raise AudioError(f"{self.name}: truncated, {size} bytes of the {stated} that its header states")
        if chunk is not None and chunk.stated is None:
            file.give(chunk.field.start, chunk.true_field(size))
        if matroska_head(file)[1]:
            raise AudioError(f"{self.name}: holds a compressed Matroska track, which is not taken")
        if states_absurd_index(file, size):
            raise AudioError(f"{self.name}: states more packets than its {size} bytes can hold")

    def _stream(self, container: av.container.InputContainer) -> av.AudioStream:
        if not container.streams.audio:
            raise AudioError(f"{self.name}: holds no audio stream")
        stream = container.streams.audio[0]
        context = stream.codec_context
        codec = context.name if context is not None else "an unknown codec"
        if codec not in LARGEST:
            raise AudioError(f"{self.name}: holds sound in {codec}, which is not taken; taken are {TAKEN}")
        self.rate = context.sample_rate
        self._check_form(self.rate, context.layout.nb_channels)
        context.options = {"max_samples": str(FRAME)}
        context.thread_count = 1
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        return stream

    def _check_form(self, rate: int, channels: int) -> None:
        low, high = RATES
        if rate == 0:
            raise AudioError(f"{self.name}: not readable as audio (no sampling rate); taken are {TAKEN}")
        if not low <= rate <= high:
            raise AudioError(f"{self.name}: states {rate} samples a second; taken are {low} to {high}")
        if not 1 <= channels <= CHANNELS:
            raise AudioError(f"{self.name}: states {channels} channels; taken are 1 to {CHANNELS}")

    def _stated_seconds(
        self, container: av.container.InputContainer, stream: av.AudioStream, file: _File
    ) -> float | None:
        """Seconds that the container states; None where FFmpeg's figure is a guess, or that of a WAV."""
        kind, place = container.format.name, file.tell()
        try:
            if kind == "flac":
                return flac_seconds(stream.codec_context.extradata)
            if kind.startswith("matroska"):
                seconds, _ = matroska_head(file)
                return seconds if len(container.streams) == 1 else None
            if kind == "mp3":
                frames = mp3_frames(file)
                size = 1152 if self.rate >= 32_000 else 576
                return None if frames is None else max(0, frames - MP3_FRAMES) * size / self.rate
            if kind not in STATING or stream.duration is None or stream.time_base is None:
                return None
            return float(stream.duration * stream.time_base)
        finally:
            file.seek(place)

    def _packets(
        self, container: av.container.InputContainer, stream: av.AudioStream
    ) -> Iterator["av.Packet[av.AudioStream] | None"]:
        """Packets; None for what the container cannot read."""
        running = 0
        while running < DEMUX_ERRORS:
            try:
                for packet in container.demux(stream):
                    if packet.size:
                        running = 0
                    yield packet
                return
            except av.FFmpegError as error:
                if error.errno == errno.ENOMEM:
                    raise
                running += 1
                yield None

    def _frames(
        self, container: av.container.InputContainer, stream: av.AudioStream
    ) -> Iterator[av.AudioFrame]:
        """Frames of what can be decoded; what cannot is counted."""
        codec, base = stream.codec_context.name, stream.time_base or 0
        for packet in self._packets(container, stream):
            self.check_time()
            self.packets += packet is None or packet.size > 0
            try:
                frames = None if packet is None or not _is_sane(packet, codec) else packet.decode()
            except av.FFmpegError as error:
                if error.errno == errno.ENOMEM:
                    raise
                frames = None
            if frames is None:
                self.bad_packets += packet is None or packet.size > 0
                self._trailing_bad_s += float((packet.duration or 0) * base) if packet is not None else 0.0
                continue
            if frames:
                self._bad_s, self._trailing_bad_s = self._bad_s + self._trailing_bad_s, 0.0
            for frame in frames:
                if isinstance(frame, av.AudioFrame) and frame.samples:
                    self._check_form(frame.sample_rate, frame.layout.nb_channels)
                    yield frame

    def _timed(
        self, frames: Iterator[av.AudioFrame], stated: float | None
    ) -> Iterator[av.AudioFrame | float]:
        """The frames, and before those that come late by their times the seconds of silence that are lacking.

        A jump counts when the next frame has made it too. A jump back, or one beyond what the file states, is
        an error of the clock: the sound goes on without a pause.
        """
        heard, jump, held = 0.0, 0.0, None  # seconds of sound so far
        offset: float | None = None  # of the clock, from the sound so far
        for frame in frames:
            at = frame.time
            if offset is None and at is not None:
                offset = self._first_s = at
            late = 0.0 if at is None or offset is None else at - offset - heard
            if held is not None and offset is not None:
                if at is not None and abs(late - jump) <= GAP_S:
                    late -= jump
                    most = MAX_GAP_S if stated is None else stated + GAP_S - heard
                    if 0 < jump <= most:
                        yield jump
                        heard += jump
                    else:
                        offset += jump
                yield held
                held = None
            heard += frame.samples / frame.sample_rate
            if abs(late) > GAP_S:
                held, jump = frame, late
            else:
                yield frame
        if held is not None:
            if stated is not None and 0 < jump <= stated + GAP_S - heard:
                yield jump
            yield held

    def _resampled(self, frames: Iterator[av.AudioFrame | float]) -> Iterator[Pcm]:
        """Samples of the frames; a change of rate, format or channels within a stream is followed."""
        resampler: _Resampler | None = None
        for frame in frames:
            self.check_time()
            if resampler is not None and not resampler.takes(frame):
                yield from resampler.rest()
                resampler = None
            if isinstance(frame, float):
                yield from _silence(frame)
            else:
                resampler = resampler or _Resampler(frame)
                yield from resampler.of(frame)
        if resampler is not None:
            yield from resampler.rest()

    def _refuse_damaged(self, samples: int, stated: float | None) -> None:
        bad = f"{self.bad_packets} of {self.packets} packets cannot be decoded"
        seconds = samples / SAMPLE_RATE
        whole = seconds + max(0.0, self._first_s) + self._bad_s
        if stated is not None and whole < stated - SHORT_S:
            raise AudioError(
                f"{self.name}: truncated, {seconds:.2f} s of the {stated:.2f} s that its header states"
                + (f" ({bad})" if self.bad_packets else "")
            )
        if self.bad_packets > MAX_BAD_SHARE * self.packets:
            raise AudioError(f"{self.name}: damaged, {bad}; at most {MAX_BAD_SHARE:.0%} may be bad")
        if samples == 0:
            raise AudioError(f"{self.name}: holds no samples")
        if self.bad_packets:
            logger.warning("%s: %s; the rest is used", self.name, bad)


class _Resampler:
    """Frames of one form -> 16-bit samples, mono, 16 kHz: `av.AudioResampler`, but on this thread alone."""

    def __init__(self, frame: av.AudioFrame) -> None:
        self._form = _form(frame)
        form, layout, rate = self._form
        self._graph = av.filter.Graph()
        self._graph.threads = 1
        given = {"sample_rate": str(rate), "sample_fmt": form, "channel_layout": layout}
        self._source = self._graph.add("abuffer", **given)
        wanted = {"sample_rates": str(SAMPLE_RATE), "sample_fmts": "s16", "channel_layouts": "mono"}
        middle, self._sink = self._graph.add("aformat", **wanted), self._graph.add("abuffersink")
        self._graph.link_nodes(self._source, middle, self._sink).configure()

    def takes(self, frame: av.AudioFrame | float) -> bool:
        """Whether a frame is of the form that this was made for."""
        return not isinstance(frame, float) and _form(frame) == self._form

    def of(self, frame: av.AudioFrame) -> Iterator[Pcm]:
        frame.pts = None
        self._source.push(frame)
        return self._pull()

    def rest(self) -> Iterator[Pcm]:
        """What the filter still holds."""
        self._source.push(None)
        return self._pull()

    def _pull(self) -> Iterator[Pcm]:
        while True:
            try:
                frame = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if isinstance(frame, av.AudioFrame):
                yield frame.to_ndarray()[0]


def _form(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _open(file: _File) -> av.container.InputContainer:
    """Open sound. FFmpeg looks into all streams when it opens a file: only decoders of sound that is taken.

    Playlists, which would have it read other files, are no containers that are taken.
    """
    options = {
        "format_whitelist": CONTAINERS,
        "codec_whitelist": ",".join(LARGEST),
        "protocol_whitelist": "-",
    }
    return av.open(file, mode="r", metadata_errors="ignore", options=options)


def _is_sane(packet: "av.Packet[av.AudioStream]", codec: str) -> bool:
    """Whether a packet's size is one that its codec has; a decoder makes all of a packet at once."""
    if packet.size > LARGEST[codec]:
        return False
    if codec != "flac":
        return True
    return flac_frames(bytes(packet), FLAC_FRAMES + 1) <= FLAC_FRAMES


def _silence(seconds: float) -> Iterator[Pcm]:
    left = round(seconds * SAMPLE_RATE)
    while left > 0:
        yield np.zeros(min(left, FRAME), np.int16)
        left -= FRAME


def decode_pieces(source: Source, limits: Limits = Limits()) -> Iterator[Pcm]:
    """16-bit samples of a file or its bytes, a piece at a time; the errors of `Decoding.pieces`."""
    return Decoding(source, limits).pieces()


def read_recording(source: Source, limits: Limits = Limits()) -> Recording:
    """Decode a whole file or its bytes; the errors of `Decoding.pieces`."""
    decoding = Decoding(source, limits)
    with SpooledTemporaryFile(HELD) as held:  # a file that is refused after hours has not filled the memory
        for piece in decoding.pieces():
            held.write(piece.tobytes())
        held.seek(0)
        audio = _float(np.frombuffer(held.read(), np.int16))
    return Recording(audio, decoding.rate, decoding.packets, decoding.bad_packets)


def load_audio(source: Source, max_seconds: float = MAX_SECONDS) -> Audio:
    """Decode a whole file or its bytes; the errors of `Decoding.pieces`.

    Returns
    -------
    Audio
        Samples in [-1, 1], shape (samples,), mono, 16 kHz.
    """
    return read_recording(source, Limits(max_seconds=max_seconds)).audio


def cut_windows(pieces: Iterable[Pcm]) -> Iterator[tuple[int, Audio]]:
    """Windows of at most 30 s, cut as `audio.windows` does: (first sample, samples).

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
                end = window_end(audio)
                yield start, audio[:end]
                start, samples = start + end, samples[end:]
            held, count = [samples], samples.size
    rest = _float(np.concatenate(held))
    while start and rest.size:
        end = window_end(rest)
        yield start, rest[:end]
        start, rest = start + end, rest[end:]
    if not start:
        yield start, rest


def _float(samples: Pcm) -> Audio:
    return samples.astype(np.float32) / 32768.0


def source_windows(source: Source, limits: Limits = Limits()) -> Iterator[tuple[int, Audio]]:
    """Windows of a file or its bytes; the errors of `Decoding.pieces`."""
    try:
        yield from cut_windows(decode_pieces(source, limits))
    except AudioError as error:
        traceback.clear_frames(error.__traceback__)  # which would keep samples as long as the error
        raise

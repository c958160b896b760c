"""What the heads of sound files state, read without FFmpeg: it guesses where they state nothing."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

SLACK = 64  # bytes by which a WAV may state too much: writers count headers and padding differently
HEAD = 1 << 20  # bytes in which the head of a Matroska file is looked for
BOXES = 1 << 20  # elements or boxes that are looked at
DEPTH = 12  # of boxes; FFmpeg takes no more
# Writers to a pipe do not know the size, and leave 0, about 2^31 or about 2^32.
PLACEHOLDERS_32 = ((0, 1), (0x7FFF_F000, 0x8000_1000), (0xFFFF_F000, 0x1_0000_0000))
PLACEHOLDER_64 = 1 << 62

EBML = b"\x1a\x45\xdf\xa3"
SEGMENT, INFO, TRACKS, CLUSTER = 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675
TIMESTAMP_SCALE, DURATION = 0x2AD7B1, 0x4489
ENTRY, ENCODINGS, ENCODING, COMPRESSION, ALGORITHM = 0xAE, 0x6D80, 0x6240, 0x5034, 0x4254
HEADER_STRIPPING = 3
NESTED = frozenset(
    (
        b"moov",
        b"trak",
        b"mdia",
        b"minf",
        b"stbl",
        b"edts",
        b"moof",
        b"traf",
        b"mvex",
        b"dinf",
        b"udta",
        b"tref",
    )
)
INDEX = 1 << 16  # packets that any MP4 may state


class Readable(Protocol):
    """A file that can be read at any place."""

    def read(self, size: int, /) -> bytes:
        """Bytes from here on."""

    def seek(self, place: int, /) -> int:
        """Go to a place."""


def open_sound(source: str | Path | bytes) -> BinaryIO:
    """A file or its bytes as a file; a name is never a URL."""
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


@dataclass(frozen=True)
class DataChunk:
    """The samples of a WAV, RF64 or W64."""

    start: int  # first byte
    field: slice  # where the header states their bytes
    stated: int | None  # bytes; None where a writer left that open
    more: int = 0  # by which the field states more than the bytes of the samples

    def missing(self, size: int) -> int:
        """Bytes that are plainly stated and not in a file of ``size`` bytes."""
        missing = 0 if self.stated is None else self.stated - max(0, size - self.start)
        return missing if missing > SLACK else 0

    def true_field(self, size: int) -> bytes:
        """The field as it should be in a file of ``size`` bytes."""
        return (size - self.start + self.more).to_bytes(self.field.stop - self.field.start, "little")


def data_chunk(file: Readable) -> DataChunk | None:
    """Where the samples of a WAV, RF64 or W64 are; None in other files."""
    file.seek(0)
    head = file.read(40)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _riff_data(file)
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return _w64_data(file)
    return None


def _riff_data(file: Readable) -> DataChunk | None:
    place, wide = 12, None
    for _ in range(BOXES):
        file.seek(place)
        head = file.read(24)
        if len(head) < 8:
            return None
        size, start = int.from_bytes(head[4:8], "little"), place + 8
        if head[:4] == b"ds64" and len(head) == 24:
            wide = DataChunk(0, slice(start + 8, start + 16), int.from_bytes(head[16:], "little"))
        if head[:4] == b"data":
            if wide is not None and size == 0xFFFF_FFFF:
                stated = wide.stated if wide.stated and wide.stated < PLACEHOLDER_64 else None
                return DataChunk(start, wide.field, stated)
            left_open = any(first <= size < last for first, last in PLACEHOLDERS_32)
            return DataChunk(start, slice(place + 4, place + 8), None if left_open else size)
        place = start + size + size % 2
    return None


def _w64_data(file: Readable) -> DataChunk | None:
    place = 40
    for _ in range(BOXES):
        file.seek(place)
        head = file.read(24)
        size = int.from_bytes(head[16:], "little")
        if len(head) == 24 and head[:4] == b"data":
            stated = size - 24 if 24 < size < PLACEHOLDER_64 else None
            return DataChunk(place + 24, slice(place + 16, place + 24), stated, 24)
        if len(head) < 24 or size < 24:
            return None
        place += size + -size % 8
    return None


def states_absurd_index(file: Readable, size: int) -> bool:
    """Whether an MP4 states more packets than its bytes can hold, for each of which FFmpeg keeps an entry.

    So do edit lists that repeat them, and a packed index, which cannot be looked into.
    """
    file.seek(0)
    if file.read(4) in (b"RIFF", b"RF64", b"BW64", b"riff", b"fLaC", b"OggS", b"FORM", EBML):
        return False
    packets, edits, single = 0, 1, False
    for number, (kind, start, end) in enumerate(_boxes(file, 0, size, DEPTH)):
        if number == BOXES:
            return True
        file.seek(start)
        head = file.read(min(16, max(0, end - start)))
        if kind == b"cmov":
            return True
        if len(head) < 8:
            continue
        count = int.from_bytes(head[4:8])
        if kind == b"elst":
            edits = max(edits, count)
        elif kind == b"stts":
            single = count == 1 and head[12:16] == b"\0\0\0\1"  # a packet a sample: FFmpeg keeps chunks
        elif kind == b"stsz":
            packets += 0 if single else int.from_bytes(head[8:12])
        elif kind in (b"stz2", b"trun"):
            packets += int.from_bytes(head[8:12]) if kind == b"stz2" else count
    return packets * edits > max(size // 4, INDEX)


def _boxes(file: Readable, start: int, end: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Boxes of an MP4, those within others too: kind, first and last byte of the content."""
    place = start
    while place + 8 <= end:
        file.seek(place)
        head = file.read(16)
        size, kind, begin = int.from_bytes(head[:4]), head[4:8], place + 8
        if size == 1:
            size, begin = int.from_bytes(head[8:]), place + 16
        stop = end if size == 0 else min(end, place + size)
        if stop < begin:
            return
        yield kind, begin, stop
        if kind in NESTED and depth:
            yield from _boxes(file, begin, stop, depth - 1)
        place = stop


def mp3_frames(file: Readable) -> int | None:
    """Frames that the Xing, Info or VBRI header of an MP3 counts; None where there is none."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        seven = [byte & 0x7F for byte in head[6:]]
        start = 10 + (seven[0] << 21 | seven[1] << 14 | seven[2] << 7 | seven[3])
    file.seek(start)
    first = file.read(4096)
    for mark, place in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        at = first.find(mark)
        if at >= 0 and len(first) >= at + place + 4:
            counted = mark == b"VBRI" or first[at + 7] & 1
            return int.from_bytes(first[at + place : at + place + 4]) if counted else None
    return None


def flac_seconds(streaminfo: bytes | None) -> float | None:
    """Seconds that FLAC's STREAMINFO (34 bytes) states; None where it leaves that open."""
    if streaminfo is None or len(streaminfo) < 18:
        return None
    packed = int.from_bytes(streaminfo[10:18])
    rate, samples = packed >> 44, packed & (1 << 36) - 1
    return samples / rate if rate and samples else None


def flac_frames(data: bytes, most: int) -> int:
    """Headers of FLAC frames in some bytes, at most ``most``: a decoder finds no more frames than that."""
    found, at = 0, data.find(b"\xff")
    while 0 <= at < len(data) - 5 and found < most:
        found += _is_flac_header(data[at : at + 16])
        at = data.find(b"\xff", at + 1)
    return found


def _is_flac_header(head: bytes) -> bool:
    if head[1] & 0xFE != 0xF8:
        return False
    number = max(1, 8 - (head[4] ^ 0xFF).bit_length())  # bytes of the frame's number, in UTF-8's manner
    size, rate = head[2] >> 4, head[2] & 15
    end = 4 + number + {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    return len(head) > end and _crc8(head[:end]) == head[end]


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ 0x107 if crc & 0x80 else crc << 1
    return crc


def matroska_head(file: Readable) -> tuple[float | None, bool]:
    """Seconds that a Matroska file states (None: none), and whether a track of it is compressed once more."""
    file.seek(0)
    head = file.read(4)
    if head != EBML:
        return None, False
    data = head + file.read(HEAD)
    seconds, compressed = None, False
    for top, start, end in _elements(data, 0, len(data)):
        if top != SEGMENT:
            continue
        for identity, begin, stop in _elements(data, start, end):
            if identity == INFO:
                seconds = _info_seconds(data, begin, stop)
            elif identity == TRACKS:
                compressed = any(_is_compressed(data, b, s) for _, b, s in _inside(data, begin, stop, ENTRY))
            elif identity == CLUSTER:
                break
    return seconds, compressed


def _info_seconds(data: bytes, start: int, end: int) -> float | None:
    scale, duration = 1_000_000, 0.0
    for identity, begin, stop in _elements(data, start, end):
        if identity == TIMESTAMP_SCALE:
            scale = int.from_bytes(data[begin:stop])
        elif identity == DURATION and stop - begin in (4, 8):
            duration = struct.unpack(">f" if stop - begin == 4 else ">d", data[begin:stop])[0]
    seconds = duration * scale / 1e9
    return seconds if 0 < seconds < float("inf") else None


def _is_compressed(data: bytes, start: int, end: int) -> bool:
    """Whether blocks of a track are packed with zlib or the like (headers that are left out are not)."""
    for _, b1, e1 in _inside(data, start, end, ENCODINGS):
        for _, b2, e2 in _inside(data, b1, e1, ENCODING):
            for _, b3, e3 in _inside(data, b2, e2, COMPRESSION):
                algorithms = [int.from_bytes(data[b:e]) for _, b, e in _inside(data, b3, e3, ALGORITHM)]
                if (algorithms or [0])[-1] != HEADER_STRIPPING:
                    return True
    return False


def _inside(data: bytes, start: int, end: int, wanted: int) -> Iterator[tuple[int, int, int]]:
    return (element for element in _elements(data, start, end) if element[0] == wanted)


def _elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """EBML elements of a stretch: identity, first and last byte of the content."""
    place = start
    for _ in range(BOXES):
        if place >= end:
            return
        width = 9 - data[place].bit_length()
        at = place + width
        if width > 4 or at >= end:
            return
        identity = int.from_bytes(data[place:at])
        length = 9 - data[at].bit_length()
        if length > 8 or at + length > end:
            return
        size = int.from_bytes(data[at : at + length]) & (1 << 7 * length) - 1
        begin = at + length
        unknown = size == (1 << 7 * length) - 1
        stop = end if unknown else min(end, begin + size)
        yield identity, begin, stop
        place = stop

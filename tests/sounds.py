"""Sound files made byte by byte: complete, damaged, and meant to take all memory."""

import base64
import io
import struct
import zlib
from fractions import Fraction
from functools import cache

import av
import numpy as np
import soundfile

RATE = 16_000
COVER = 4_000  # pixels a side: 48 MB once decoded


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    """16-bit samples that no codec takes for silence, shape (samples,)."""
    samples = np.random.default_rng(0).standard_normal(round(seconds * rate)) * 3000
    return samples.astype(np.int16)


def sound_file(
    samples: np.ndarray, rate: int, container: str = "FLAC", subtype: str | None = "PCM_16"
) -> bytes:
    """A file as libsndfile writes it."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format=container)
    return buffer.getvalue()


def encode(
    samples: np.ndarray,
    muxer: str,
    codec: str,
    rate: int = RATE,
    layout: str = "mono",
    picture: bytes | None = None,
    metadata: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """Mono samples at ``rate`` in a container; a picture becomes a video stream of two PNG frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=muxer, options=options or {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.codec_context.open(strict=False)
        context = stream.codec_context
        if picture:
            video = container.add_stream("png", rate=1)
            video.width = video.height = COVER
            video.pix_fmt = "rgb24"
        resampler = av.AudioResampler(context.format, layout, rate, frame_size=context.frame_size or None)
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for i in range(2 if picture else 0):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.time_base = video, i, i, Fraction(1)
            container.mux(packet)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def packets(data: bytes) -> list[bytes]:
    """The packets of a file's sound."""
    with av.open(io.BytesIO(data)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def png(side: int = COVER) -> bytes:
    """A black picture: few bytes, many pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + 3 * side)), 9)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _flac_picture(picture: bytes) -> bytes:
    sizes = struct.pack(">IIII", COVER, COVER, 24, 0)
    return struct.pack(">II9sI", 3, 9, b"image/png", 0) + sizes + struct.pack(">I", len(picture)) + picture


def box(kind: bytes, content: bytes) -> bytes:
    """A box of an MP4."""
    return struct.pack(">I", 8 + len(content)) + kind + content


def covers() -> dict[str, bytes]:
    """Half a second of sound with a large picture, in every container that takes one."""
    picture, sound = png(), noise(0.5)
    made = {
        kind: encode(sound, kind, codec, picture=picture)
        for kind, codec in (("mp4", "aac"), ("mov", "pcm_s16le"))
    }
    flac = encode(sound, "flac", "flac")
    body = _flac_picture(picture)
    first = bytes([flac[4] & 0x7F]) + flac[5:42]  # STREAMINFO, with more blocks to come
    made["flac"] = flac[:4] + first + b"\x06" + len(body).to_bytes(3) + body + flac[42:]
    mp3 = encode(sound, "mp3", "libmp3lame", options={"id3v2_version": "0"})
    frame = b"\0image/png\0\x03\0" + picture
    frame = b"APIC" + struct.pack(">I", len(frame)) + b"\0\0" + frame
    made["mp3"] = b"ID3\x03\0\0" + bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0)) + frame + mp3
    tag = base64.b64encode(body).decode()
    made["ogg"] = encode(
        noise(0.5, 48_000), "ogg", "libopus", 48_000, metadata={"METADATA_BLOCK_PICTURE": tag}
    )
    m4a = encode(sound, "ipod", "aac")
    at = m4a.index(b"moov") - 4
    image = box(b"covr", box(b"data", struct.pack(">II", 14, 0) + picture))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    tags = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", image)))
    made["m4a"] = m4a[:at] + box(b"moov", m4a[at + 8 :] + tags)
    return made


def wav(
    samples: np.ndarray,
    data_size: int | None = None,
    riff_size: int | None = None,
    rate: int = RATE,
    channels: int = 1,
    after: bytes = b"",
) -> bytes:
    """A WAV whose header states what is given; 8-bit where the samples are."""
    body, width = samples.tobytes(), samples.dtype.itemsize * channels
    size = len(body) if data_size is None else data_size
    riff = 36 + len(body) if riff_size is None else riff_size
    form = (16, 1, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, 8 * samples.dtype.itemsize)
    return struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", riff, b"WAVEfmt ", *form, b"data", size) + body + after


def rf64(samples: np.ndarray, stated: int) -> bytes:
    """An RF64, whose sizes stand in a chunk of 64 bits."""
    wide = b"ds64" + struct.pack("<IQQQI", 28, stated, stated, 0, 0)
    plain = wav(samples, 0xFFFFFFFF, 0xFFFFFFFF)
    return b"RF64" + plain[4:12] + wide + plain[12:]


def element(identity: bytes, content: bytes) -> bytes:
    """An element of a Matroska file."""
    return identity + b"\x01" + len(content).to_bytes(7) + content


def _number(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8))


def matroska(
    blocks: list[tuple[int, bytes]],
    codec: bytes,
    private: bytes = b"",
    rate: int = RATE,
    seconds: float | None = None,
    zipped: bool = False,
    laced: int = 0,
) -> bytes:
    """A Matroska file of (milliseconds, packet); every packet ``laced`` times in its block."""
    sound = (
        element(b"\xb5", struct.pack(">d", rate)) + element(b"\x9f", b"\1") + element(b"\x62\x64", b"\x10")
    )
    track = element(b"\xd7", b"\1") + element(b"\x73\xc5", b"\1") + element(b"\x83", b"\2")
    track += element(b"\x86", codec) + element(b"\xe1", sound)
    if private:
        track += element(b"\x63\xa2", private)
    if zipped:
        packed = element(b"\x50\x34", element(b"\x42\x54", b"\0"))
        track += element(b"\x6d\x80", element(b"\x62\x40", packed))
    head = (
        element(b"\x2a\xd7\xb1", _number(1_000_000)) + element(b"\x4d\x80", b"x") + element(b"\x57\x41", b"x")
    )
    if seconds:
        head += element(b"\x44\x89", struct.pack(">d", 1000 * seconds))
    clusters = b""
    for at, packet in blocks:
        lace = bytes([0x84, laced - 1]) + packet * laced if laced else b"\x80" + packet
        clusters += element(
            b"\x1f\x43\xb6\x75",
            element(b"\xe7", _number(at)) + element(b"\xa3", b"\x81\0\0" + lace),
        )
    tracks = element(b"\x16\x54\xae\x6b", element(b"\xae", track))
    segment = element(b"\x18\x53\x80\x67", element(b"\x15\x49\xa9\x66", head) + tracks + clusters)
    kind = element(b"\x42\x82", b"matroska") + element(b"\x42\x87", b"\4") + element(b"\x42\x85", b"\2")
    return element(b"\x1a\x45\xdf\xa3", kind) + segment


def timed_opus(times_ms: list[int], seconds: float | None = None, keep: object = None) -> bytes:
    """Packets of 20 ms of Opus in Matroska at the times that are given."""
    sound = packets(encode(noise(0.02 * len(times_ms), 48_000), "ogg", "libopus", 48_000))
    head = b"OpusHead\x01\x01" + struct.pack("<HIhB", 0, 48_000, 0, 0)
    return matroska(list(zip(times_ms, sound, strict=False)), b"A_OPUS", head, 48_000, seconds)


def alaw(rate: int) -> bytes:
    """The head of A-law in Matroska."""
    return struct.pack("<HHIIHHH", 6, 1, rate, rate, 1, 8, 0)


def flac_of_silence() -> tuple[bytes, bytes]:
    """FLAC's head, and a frame of 14 bytes that holds 4 s of silence."""
    data = encode(np.zeros(65_535, np.int16), "flac", "flac", options={})
    with av.open(io.BytesIO(data)) as container:
        head = container.streams.audio[0].codec_context.extradata
    info = bytearray(head)
    info[0:4] = struct.pack(">HH", 65_535, 65_535)
    info[13] &= 0xF0
    info[14:18] = bytes(4)  # of unknown length
    frame = b"\xff\xf8\x70\x08\x00\xff\xfe"  # a block of 65,535 samples of STREAMINFO's rate, mono, 16 bits
    frame += bytes([_crc8(frame)]) + b"\0\0\0"  # constant: 0
    frame += struct.pack(">H", _crc16(frame))
    return b"fLaC\x80" + len(info).to_bytes(3) + bytes(info), frame


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ 0x107 if crc & 0x80 else crc << 1
    return crc


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = crc << 1 ^ 0x18005 if crc & 0x8000 else crc << 1
    return crc & 0xFFFF


@cache
def bombs() -> dict[str, bytes]:
    """Few bytes that are hours of sound or gigabytes of memory where no limit is kept."""
    packed = zlib.compress(b"\xd5" * 9_900_000, 9)
    head, silence = flac_of_silence()
    m4a = encode(noise(0.5), "ipod", "aac")

    def part(kind: bytes) -> bytes:
        at = m4a.index(kind) - 4
        return m4a[at : at + int.from_bytes(m4a[at : at + 4])]

    def index(count: int, edits: int = 1) -> bytes:
        table = part(b"stsd") + box(b"stts", struct.pack(">IIII", 0, 1, count, 1024))
        table += box(b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1))
        table += box(b"stsz", struct.pack(">III", 0, 1, count)) + box(b"stco", struct.pack(">III", 0, 1, 48))
        media = part(b"mdhd") + part(b"hdlr")
        media += box(b"minf", part(b"smhd") + part(b"dinf") + box(b"stbl", table))
        each = struct.pack(">IiI", 10_000, 0, 0x10000)
        list_ = box(b"edts", box(b"elst", struct.pack(">II", 0, edits) + each * edits))
        track = box(b"trak", part(b"tkhd") + list_ + box(b"mdia", media))
        return part(b"ftyp") + box(b"moov", part(b"mvhd") + track) + box(b"mdat", bytes(1000))

    fragmented = encode(noise(0.5), "mp4", "aac", options={"movflags": "frag_keyframe+empty_moov"})
    fragment = box(b"tfhd", struct.pack(">IIII", 0x020018, 1, 1024, 1)) + box(b"tfdt", bytes(8))
    fragment += box(b"trun", struct.pack(">III", 1, 1 << 26, 8))
    moof = box(b"moof", box(b"mfhd", bytes(7) + b"\1") + box(b"traf", fragment))
    return {
        "A-law at 1 kHz, packed": matroska([(0, packed)], b"A_MS/ACM", alaw(1000), 1000, zipped=True),
        "A-law at 8 kHz, packed": matroska([(0, packed)], b"A_MS/ACM", alaw(8000), 8000, zipped=True),
        "200 packed packets in a block": matroska(
            [(0, packed)], b"A_MS/ACM", alaw(8000), 8000, zipped=True, laced=200
        ),
        "A-law at 8 kHz, one packet": matroska([(0, b"\xd5" * 9_900_000)], b"A_MS/ACM", alaw(8000), 8000),
        "FLAC at 1 Hz": head[:18] + bytes([0, 0, 0x10 | head[20] & 15]) + head[21:] + silence,
        "hours of FLAC": head + silence * 50_000,
        "many frames in a FLAC packet": matroska([(0, silence * 70_000)], b"A_FLAC", head),
        "WAV at 1 Hz": wav(np.zeros(500_000, np.int16), rate=1),
        "WAV at 4 GHz": wav(np.zeros(50_000, np.int16), rate=0xFFFFFFF0),
        "WAV of 65,535 channels": wav(np.zeros(500_000, np.int8), channels=65_535),
        "hours of 8-bit WAV": wav(np.zeros(9_000_000, np.int8), rate=4_000),
        "an MP4 of 2^26 packets": index(1 << 26),
        "an MP4 of 2^28 packets": index(1 << 28),
        "an MP4 of 50,000 edits": index(10_000, 50_000),
        "a fragment of 2^26 packets": fragmented[: fragmented.index(b"moof") - 4]
        + moof
        + box(b"mdat", bytes(9)),
        "an MP4 of boxes in boxes": part(b"ftyp") + _nested(20_000),
        "a picture": png(),
    }


def _nested(depth: int) -> bytes:
    return b"".join(struct.pack(">I4s", 8 * (depth - i), b"moov") for i in range(depth))

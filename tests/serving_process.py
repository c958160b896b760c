"""A server in a process of its own, and what may be sent to hurt it."""

import base64
import io
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import psutil
import soundfile
from sounds import bombs, sound_file

ROOT = Path(__file__).parents[1]
TRANSCRIBE = "/v1/audio/transcriptions"
MP4 = b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42"


@dataclass
class Server:
    """A running `whisper-router serve`."""

    process: subprocess.Popen[str]
    url: str

    def memory(self) -> int:
        """Resident bytes."""
        return psutil.Process(self.process.pid).memory_info().rss

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


@contextmanager
def server(router: str, folder: Path = ROOT, **settings: object) -> Iterator[Server]:
    """Start a server at a free port (or that of ``port``) and end it."""
    environment = {f"WHISPER_ROUTER_SERVE_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-c", "from whisper_router.cli import app; app()", "serve", "--router", router]
    process = subprocess.Popen(
        [*command, *(["--port", "0"] if "port" not in settings else [])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        assert " at http" in line, f"the server did not start: {line!r}"
        yield Server(process, line.split(" at ")[1].strip())
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _silence(kind: str, hours: float, channels: int = 1) -> bytes:
    """Hours of silence in few bytes, written a minute at a time."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8_000, channels, format=kind) as file:
        minute = np.zeros((8_000 * 60, channels), np.int16)
        for _ in range(round(hours * 60)):
            file.write(minute)
    return buffer.getvalue()


def _opus_silence(hours: float) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=16_000, layout="mono")
        stream.bit_rate = 6_000
        stream.options = {"compression_level": "0", "frame_duration": "60"}
        for _ in range(round(hours * 360)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 160_000), np.int16), "s16", "mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _wav_header(rate: int = 16_000, channels: int = 1, bits: int = 16, data: int = 32_000) -> bytes:
    size = channels * bits // 8 & 0xFFFF
    riff, per_second = 36 + data & 0xFFFFFFFF, rate * size & 0xFFFFFFFF
    fields = (riff, b"WAVEfmt ", 16, 1, channels, rate, per_second, size, bits, b"data", data)
    return b"RIFF" + struct.pack("<I8sIHHIIHH4sI", *fields)


def hostile_files() -> dict[str, bytes]:
    """Files that are no recording to transcribe, or far too much of one."""
    random = np.random.default_rng(0)
    noise = (random.standard_normal(32_000) * 3000).astype(np.int16)
    wav, flac, ogg, mp3 = (sound_file(noise, 16_000, kind, None) for kind in ("WAV", "FLAC", "OGG", "MP3"))
    body = noise.tobytes()[:32_000]
    damaged = bytearray(flac)
    damaged[60:-1:7] = bytes(len(damaged[60:-1:7]))
    return {
        "empty": b"",
        "one byte": b"R",
        "text": b"Please transcribe this sentence.",
        "html": b"<html><script>alert(1)</script></html>",
        "json": json.dumps({"audio": "aGVsbG8="}).encode(),
        "zeros": bytes(100_000),
        "random bytes": random.bytes(100_000),
        "executable": b"\x7fELF" + random.bytes(5_000),
        "zip": b"PK\x03\x04" + random.bytes(5_000),
        "gzip": b"\x1f\x8b\x08" + random.bytes(5_000),
        "png": b"\x89PNG\r\n\x1a\n" + random.bytes(5_000),
        "pdf": b"%PDF-1.7\n" + random.bytes(5_000),
        "base64 of a recording": base64.b64encode(wav),
        "wrong base64": b"data:audio/wav;base64,%%%%",
        "playlist": b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        "hls of a url": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n",
        "concat script": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "path": b"/etc/passwd",
        "url": b"http://127.0.0.1/sound.wav",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 1 RTP/AVP 0\n",
        "wav header alone": wav[:44],
        "wav truncated": wav[:20_000],
        "wav without data": b"RIFF\x04\x00\x00\x00WAVE",
        "wav of 0 Hz": _wav_header(rate=0) + body,
        "wav of 1 Hz": _wav_header(rate=1) + body,
        "wav of 4 GHz": _wav_header(rate=0xFFFFFFFF) + body,
        "wav without channels": _wav_header(channels=0) + body,
        "wav of 65535 channels": _wav_header(channels=65_535) + body,
        "wav of 0 bits": _wav_header(bits=0) + body,
        "wav that states 3 GB": _wav_header(data=0xC0000000) + body,
        "flac magic alone": b"fLaC",
        "flac truncated": flac[: len(flac) // 3],
        "flac of damaged frames": bytes(damaged),
        "ogg magic alone": b"OggS",
        "ogg truncated": ogg[:200],
        "mp3 header alone": mp3[:4],
        "mp4 of nothing": MP4 + random.bytes(2_000),
        "mp4 of huge boxes": MP4 + b"\x7f\xff\xff\xffmoov\x7f\xff\xff\xfftrak",
        "webm header alone": b"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x1f",
        "video without sound": _video(),
        "flac of 10 hours of silence": _silence("FLAC", 10),
        "flac of an hour in 8 channels": _silence("FLAC", 1, 8),
        "opus of 2 hours of silence": _opus_silence(2),
        "larger than the limit": bytes(26 << 20),
        **{name: data for name, data in bombs().items() if name.startswith(("A-law", "an MP4 of 2^26"))},
    }


def _video() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def hostile_bodies(good: bytes) -> dict[str, tuple[str, bytes]]:
    """(content type, body) of requests that are no form with a file."""
    form, end = "multipart/form-data; boundary=x", b"--x--\r\n"

    def part(name: str, value: bytes, more: str = "") -> bytes:
        return (
            f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"
        )

    file = part("file", good, '; filename="a.wav"')
    return {
        "no body": (form, b""),
        "no boundary": ("multipart/form-data", file + end),
        "wrong boundary": ("multipart/form-data; boundary=y", file + end),
        "huge json": ("application/json", b'{"file": "' + b"A" * 20_000_000 + b'"}'),
        "nested json": ("application/json", b"[" * 1_000_000),
        "wrong base64 in json": ("application/json", b'{"file": "%%%"}'),
        "form without a file": (form, part("model", b"routed") + end),
        "file as text": (form, part("file", b"/etc/passwd") + end),
        "two files": (form, file + file + end),
        "thousand fields": (form, b"".join(part(f"f{i}", b"v") for i in range(1000)) + file + end),
        "huge field": (form, part("prompt", b"a" * 1_000_000) + end),
        "urlencoded": ("application/x-www-form-urlencoded", b"file=/etc/passwd&model=routed"),
        "raw sound": ("audio/wav", good),
    }


def hostile_names() -> list[str]:
    """Names of files that go nowhere."""
    return [
        "../../../../etc/passwd",
        "/etc/passwd",
        "..\\..\\boot.ini",
        "a" * 5000,
        "\u202egnp.wav",
        "a\x00.wav",
        "$(reboot).wav",
    ]

"""Honest clients of the HTTP service alone, then beside hostile ones, as a Markdown table.

    python benchmarks/hostile.py --router data/router [--bombs DIR] [--descriptors 1024] [--out FILE.md]

Starts `whisper-router serve` on the loopback interface and attacks that server alone. Silent connections send
nothing, half-open ones the beginning of a request; dripping bodies send 32 bytes a second; every file of
``--bombs`` is posted again and again. At the end SIGTERM is sent while bodies and heads drip.
"""

import argparse
import io
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import soundfile

from whisper_router.audio import SAMPLE_RATE
from whisper_router.environment import cores
from whisper_router.files import write_text

TRANSCRIBE = "/v1/audio/transcriptions"
HONEST = 4
DRIP = 32  # bytes a second of a dripping body
HEAD = f"POST {TRANSCRIBE} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
TYPE = "Content-Type: multipart/form-data; boundary=x\r\n"
PART = '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
GONE_S = 60.0  # a server that has not ended by then is killed


@dataclass
class Served:
    """A running server and its log."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def state(self) -> dict[str, int]:
        """Resident MiB with children, open descriptors, bytes of the log."""
        parent = psutil.Process(self.process.pid)
        family = [parent, *parent.children(recursive=True)]
        memory = sum(one.memory_info().rss for one in family) >> 20
        return {"rss_mib": memory, "descriptors": parent.num_fds(), "log_bytes": self.log.stat().st_size}

    def end(self) -> str:
        """Seconds from SIGTERM to the exit."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(GONE_S)
        except subprocess.TimeoutExpired:
            return f"not within {GONE_S:.0f} s"
        return f"{time.monotonic() - begun:.1f} s, exit code {code}"


@contextmanager
def served(router: str, descriptors: int | None) -> Iterator[Served]:
    """Start a server at a free port."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"

        def limit() -> None:
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        command = [sys.executable, "-c", "from whisper_router.cli import app; app()", "serve", "--port", "0"]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [*command, "--router", router], stdout=subprocess.PIPE, stderr=errors, preexec_fn=limit
            )
            line = process.stdout.readline().decode() if process.stdout else ""
            if " at http" not in line:
                raise SystemExit(f"the server did not start: {line}{log.read_text()[-2000:]}")
            try:
                yield Served(process, int(line.rsplit(":", 1)[1]), log)
            finally:
                process.kill()
                process.wait()


@dataclass
class Outcome:
    """What honest clients got."""

    seconds: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # status or error of what was not answered
    probes: list[float] = field(default_factory=list)  # seconds of /health and /ready
    unready: int = 0


def honest(url: str, sounds: list[bytes], seconds: float) -> Outcome:
    """Clients that send the next recording on a new connection when they have their answer, and a probe."""
    made, until = Outcome(), time.monotonic() + seconds

    def client(number: int) -> None:
        for i in itertools.count(number):
            if time.monotonic() > until:
                return
            begun = time.monotonic()
            try:
                file = {"file": ("a.wav", sounds[i % len(sounds)])}
                answer = httpx.post(url + TRANSCRIBE, files=file, timeout=60)
                if answer.status_code == 200:
                    made.seconds.append(time.monotonic() - begun)
                    continue
                made.refused.append(str(answer.status_code))
            except httpx.TransportError as error:
                made.refused.append(type(error).__name__)
            time.sleep(0.2)

    def probe() -> None:
        while time.monotonic() < until:
            for path in ("/health", "/ready"):
                begun = time.monotonic()
                try:
                    answer = httpx.get(url + path, timeout=5)
                    made.unready += answer.status_code != 200
                    made.probes.append(time.monotonic() - begun)
                except httpx.TransportError:
                    made.unready += 1
            time.sleep(0.5)

    with ThreadPoolExecutor(HONEST + 1) as pool:
        for one in [*(pool.submit(client, i) for i in range(HONEST)), pool.submit(probe)]:
            one.result()
    return made


class Attack:
    """Connections that are held and opened again when the server closes them, by one thread."""

    def __init__(self, port: int, count: int, first: bytes, drip: bytes) -> None:
        self._address, self._count = ("127.0.0.1", port), count
        self._first, self._drip = first, drip
        self._held: list[socket.socket] = []
        self.opened = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def _open(self) -> None:
        while len(self._held) < self._count and not self._ended.is_set():
            try:
                made = socket.create_connection(self._address, timeout=1)
                made.sendall(self._first)
            except OSError:
                return
            made.setblocking(False)
            self._held.append(made)
            self.opened += 1

    def _lives(self, one: socket.socket) -> bool:
        try:
            if self._drip:
                one.send(self._drip)
            return one.recv(4096) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _go_on(self) -> None:
        while not self._ended.is_set():
            self._open()
            self._ended.wait(1)
            gone = [one for one in self._held if not self._lives(one)]
            for one in gone:
                self._held.remove(one)
                one.close()

    def held(self) -> int:
        """Connections that are open now."""
        return len(self._held)

    def end(self) -> None:
        """Close all."""
        self._ended.set()
        self._thread.join()
        for one in self._held:
            one.close()


def silent(port: int, count: int) -> list[Attack]:
    """Two thirds say nothing, one third sends half a head."""
    return [Attack(port, 2 * count // 3, b"", b""), Attack(port, count // 3, HEAD.encode(), b"")]


def dripping(port: int, count: int) -> list[Attack]:
    """Bodies of 32 bytes a second."""
    first = f"{HEAD}{TYPE}Content-Length: 1000000\r\n\r\n{PART}".encode()
    return [Attack(port, count, first, b"0" * DRIP)]


def mixed(port: int, count: int) -> list[Attack]:
    """Bodies, heads and silence."""
    head = Attack(port, count // 4, HEAD.encode(), b"x")
    return [*dripping(port, count), head, Attack(port, count // 4, b"", b"")]


class Bombs:
    """Files that are posted round and round by a few clients."""

    def __init__(self, url: str, folder: Path, clients: int = 2) -> None:
        self._url, self._ended = url, threading.Event()
        self._files = [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]
        self.opened = 0
        self._threads = [threading.Thread(target=self._post, args=(i,), daemon=True) for i in range(clients)]
        for thread in self._threads:
            thread.start()

    def _post(self, first: int) -> None:
        for i in itertools.count(first):
            if self._ended.is_set():
                return
            self.opened += 1
            try:
                file = {"file": ("a", self._files[i % len(self._files)])}
                httpx.post(self._url + TRANSCRIBE, files=file, timeout=60)
            except httpx.TransportError:
                time.sleep(0.2)

    def held(self) -> int:
        """Bombs on their way."""
        return len(self._threads)

    def end(self) -> None:
        """Post no more."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)


def watched(
    server: Served, name: str, start: Callable[[], list[Any]], sounds: list[bytes], seconds: float
) -> str:
    """A row of the table: honest clients beside these, and the server before, at its worst and after."""
    before = server.state()
    attackers = start()
    worst, done = dict(before), threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for key, value in server.state().items():
                worst[key] = max(worst[key], value)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    time.sleep(3 if attackers else 0)  # all are there
    made = honest(server.url, sounds, seconds)
    held = sum(one.held() for one in attackers)
    opened = sum(one.opened for one in attackers)
    for one in attackers:
        one.end()
    done.set()
    watcher.join()
    time.sleep(1)
    after = server.state() if server.process.poll() is None else dict.fromkeys(before, -1)
    p50, p95 = np.quantile(made.seconds, [0.5, 0.95]) if made.seconds else (np.nan, np.nan)
    refused = f"{len(made.refused)} ({', '.join(sorted(set(made.refused)))})" if made.refused else "0"
    late = f"{np.max(made.probes):.2f}" if made.probes else "-"
    cells = [
        name,
        f"{held} / {opened}",
        len(made.seconds),
        refused,
        f"{p50:.2f}",
        f"{p95:.2f}",
        f"{made.unready} ({late})",
        *(f"{before[key]} / {worst[key]} / {after[key]}" for key in ("rss_mib", "descriptors")),
        after["log_bytes"] - before["log_bytes"],
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def sounds() -> list[bytes]:
    """Two seconds of noise each, as WAV."""
    made = []
    for seed in range(6):
        buffer = io.BytesIO()
        noise = np.random.default_rng(seed).normal(0, 0.1, 2 * SAMPLE_RATE)
        soundfile.write(buffer, noise, SAMPLE_RATE, format="WAV")
        made.append(buffer.getvalue())
    return made


def main() -> None:
    """Attack and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--router", default="data/router")
    parser.add_argument("--bombs", type=Path, help="folder of audio files that take memory or time")
    parser.add_argument("--silent", type=int, default=900, help="silent and half-open connections")
    parser.add_argument("--drips", type=int, default=48, help="bodies that drip")
    parser.add_argument("--seconds", type=float, default=20, help="of each row")
    parser.add_argument("--descriptors", type=int, help="that the server may open [as this process]")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    needed = chosen.silent + 2 * chosen.drips + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    audio = sounds()
    with served(chosen.router, chosen.descriptors) as server:
        port = server.port
        honest(server.url, audio, 3)
        attacks: dict[str, Callable[[], list[Any]]] = {
            "alone": list,
            f"{chosen.silent} silent and half-open": lambda: silent(port, chosen.silent),
            f"{chosen.drips} dripping bodies": lambda: dripping(port, chosen.drips),
            f"{4 * chosen.drips} dripping bodies": lambda: dripping(port, 4 * chosen.drips),
        }
        if chosen.bombs:
            attacks["bombs"] = lambda: [Bombs(server.url, chosen.bombs)]
        attacks["alone again"] = list
        rows = []
        for name, start in attacks.items():
            rows.append(watched(server, name, start, audio, chosen.seconds))
            print(rows[-1], file=sys.stderr, flush=True)
        last = mixed(port, chosen.drips)
        time.sleep(3)
        ended = server.end()
        for one in last:
            one.end()
    limit = chosen.descriptors or soft
    heads = (
        "beside them",
        "held at the end / opened",
        "answers",
        "refused",
        "p50 s",
        "p95 s",
        "/health, /ready failed (slowest s)",
        "RSS MiB before / most / after",
        "descriptors before / most / after",
        "log bytes",
    )
    table = "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *rows])
    text = (
        f"{HONEST} honest clients, {chosen.seconds:g} s a row; {cores()} cores, which the clients use too; "
        f"the server may open {limit} descriptors.\n\n{table}\n\nSIGTERM while {chosen.drips} bodies and "
        f"{chosen.drips // 4} heads drip: {ended}.\n"
    )
    print(text)
    if chosen.out:
        write_text(chosen.out, text)


if __name__ == "__main__":
    os.environ["NO_PROXY"] = "127.0.0.1"
    main()

"""Requests' bytes decoded in processes of their own, with limits on memory and time that the system keeps.

The executors of concurrent.futures and loky will not do: a worker that is killed breaks all requests at once,
and results come as a whole.
"""

import json
import logging
import math
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile

import numpy as np

from whisper_router.audio import SAMPLE_RATE, Audio, AudioError
from whisper_router.decode import FRAME, HELD, Limits, Pcm, TooLongError, cut_windows
from whisper_router.serving.decode_worker import (
    DONE,
    FAILED,
    MESSAGE,
    OUT_OF_MEMORY,
    PIECE,
    READY,
    REFUSED,
    TOO_LONG,
)

WORKERS = 4  # files that are decoded at a time: two that take all their time leave two for the others
LATE_S = 1.0  # by which a worker may be late; it looks at the clock between packets
START_S = 60.0  # for a worker to start
STOP_S = 5.0  # for a worker to end that is told to
LARGEST = 64 << 20  # bytes of a message; a piece of samples takes a tenth
KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP")  # of the environment: no keys
logger = logging.getLogger(__name__)


class _WorkerDiedError(Exception):
    """A worker ended before its answer did."""


class Worker:
    """A process that decodes one file after another."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._ready, self.timed_out = limits, False, False
        self.ends = False  # of itself, after this file
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "whisper_router.serving.decode_worker", str(limits.max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def pieces(self, data: bytes) -> Iterator[Pcm]:
        """Samples of a file, piece by piece; the errors of `decode_pieces`."""
        if not self._ready:
            with self._at_most(START_S):
                self._start()
        with self._at_most(self._limits.decode_s + LATE_S):
            self._send(data)
            yield from self._receive()

    @contextmanager
    def _at_most(self, seconds: float) -> Iterator[None]:
        """Kill the process if it takes longer."""
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._time_out)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _time_out(self) -> None:
        self.timed_out = True
        self.process.kill()

    def _start(self) -> None:
        """Wait for the process to have started, which is no part of a file's time."""
        try:
            self._ready = self._message() == (READY, b"")
        except _WorkerDiedError as error:
            code = self.end(STOP_S)
            raise RuntimeError(f"a decoder does not start (exit code {code})") from error

    def _send(self, data: bytes) -> None:
        decode_s = self._limits.decode_s if math.isfinite(self._limits.decode_s) else None
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps([len(data), self._limits.max_seconds, decode_s]).encode())
            self.process.stdin.write(b"\n")
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except OSError as error:
            raise _WorkerDiedError from error

    def _receive(self) -> Iterator[Pcm]:
        left = self._limits.max_seconds * SAMPLE_RATE + FRAME
        while True:
            kind, content = self._message()
            if kind != PIECE:
                break
            piece = np.frombuffer(content, np.int16)
            left -= piece.size
            if left < 0:
                raise _WorkerDiedError
            yield piece
        text = content.decode()
        if kind in (TOO_LONG, OUT_OF_MEMORY):
            self.ends = kind == OUT_OF_MEMORY
            raise TooLongError(text)
        if kind == REFUSED:
            raise AudioError(text)
        if kind == FAILED:
            raise RuntimeError(f"decoding failed:\n{text}")
        if kind != DONE:
            raise _WorkerDiedError

    def _message(self) -> tuple[int, bytes]:
        assert self.process.stdout
        head = self.process.stdout.read(MESSAGE.size)
        kind, size = MESSAGE.unpack(head) if len(head) == MESSAGE.size else (-1, LARGEST + 1)
        content = self.process.stdout.read(size) if size <= LARGEST else b""
        if len(content) < size:
            raise _WorkerDiedError
        return kind, content

    def end(self, patience_s: float = 0.0) -> int:
        """End the process, by force after ``patience_s``; its exit code."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            try:
                pipe.close()
            except OSError:  # bytes that it never took
                continue
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class DecoderPool:
    """Workers that are kept; one that is killed or crashes is replaced."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock, self._stopped = limits, threading.Lock(), False
        self._idle = [Worker(limits)]
        self.replaced = 0

    def windows(self, data: bytes) -> list[tuple[int, Audio]]:
        """Windows of a file: (first sample, samples). May be called by several threads at a time.

        Raises
        ------
        AudioError
            Unreadable, or (`TooLongError`) beyond a limit.
        """
        worker = self._borrow()
        try:
            made = list(cut_windows([_whole(worker.pieces(data))]))
        except AudioError as error:
            traceback.clear_frames(error.__traceback__)  # which would keep samples as long as the error
            if worker.ends:
                worker.end(STOP_S)
                self._replace()
            else:
                self._give_back(worker)
            raise
        except _WorkerDiedError:
            code = worker.end(STOP_S)
            self._replace()
            if worker.timed_out:
                limit = f"{self._limits.decode_s:g} s"
                raise TooLongError(f"audio bytes: takes longer than {limit} to decode") from None
            logger.warning("a decoder died (exit code %d) of a file of %d bytes", code, len(data))
            raise AudioError("audio bytes: not readable as audio (the decoder died of it)") from None
        except BaseException:
            worker.end()
            self._replace()
            raise
        self._give_back(worker)
        return made

    def _borrow(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.end()
        return Worker(self._limits)

    def _give_back(self, worker: Worker) -> None:
        with self._lock:
            if not self._stopped:
                self._idle.append(worker)
                return
        worker.end(STOP_S)

    def _replace(self) -> None:
        self.replaced += 1
        self._give_back(Worker(self._limits))

    def stop(self) -> None:
        """End the workers; those that decode end when they are done."""
        with self._lock:
            self._stopped, idle = True, self._idle
            self._idle = []
        for worker in idle:
            worker.end(STOP_S)


def _whole(pieces: Iterator[Pcm]) -> Pcm:
    """All samples; those of a file that is refused in the end are given back to the system at once."""
    with SpooledTemporaryFile(HELD) as held:
        for piece in pieces:
            held.write(piece.tobytes())
        held.seek(0)
        return np.frombuffer(held.read(), np.int16)

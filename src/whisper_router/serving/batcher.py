"""Dynamic batching: windows of concurrent requests run together where they have the same encoder context.

A worker is a thread that runs the arms on one torch thread, as the DAG's stages do, one a core.
Whatever waits when a worker is free becomes its batch: nothing waits for company.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from whisper_router.audio import SAMPLE_RATE, Audio
from whisper_router.decision import Route, Segment, Transcript
from whisper_router.router import Router, join

BATCH_S = 120.0  # about as much sound is in a batch at most: long windows take memory and gain little
MAX_IDLE = 32  # pieces of work that wait for a worker with nothing else to do
LATER_S = 1.0  # each further window of a recording queues as if it had come so much later
logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """Too much sound waits; try again after ``retry_s``."""

    def __init__(self, retry_s: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_s:.0f} s")
        self.retry_s = retry_s


@dataclass(eq=False)
class Job:
    """A request: its windows, their route, and what became of them."""

    router: Router
    windows: list[tuple[int, Audio]]
    route: Route
    transcribe: bool
    arrived: float = field(default_factory=time.monotonic)
    begun: float | None = None
    segments: dict[int, Segment] = field(default_factory=dict)
    future: Future[Transcript] = field(default_factory=Future)

    @property
    def seconds(self) -> float:
        """Of sound."""
        return sum(audio.size for _, audio in self.windows) / SAMPLE_RATE


@dataclass(frozen=True)
class _Window:
    job: Job
    index: int
    due: float
    context: int

    @property
    def seconds(self) -> float:
        return self.job.windows[self.index][1].size / SAMPLE_RATE

    def joins(self, other: "_Window") -> bool:
        return (
            self.context == other.context
            and self.job.router is other.job.router
            and self.job.transcribe == other.job.transcribe
        )


class Batcher:
    """A bounded queue of windows and the workers that empty it.

    Parameters
    ----------
    workers : int
        Threads, each on one core.
    max_queue_s : float
        Seconds of sound that may wait.
    on_batch : callable
        Told the number of windows of every batch.
    """

    def __init__(
        self, workers: int, max_queue_s: float, on_batch: Callable[[int], None] = lambda size: None
    ) -> None:
        self._max_queue_s, self._on_batch = max_queue_s, on_batch
        self._waiting: list[_Window] = []
        self._idle: deque[Callable[[], None]] = deque()
        self._idling = False
        self._changed = threading.Condition()
        self._stopping = False
        self._speed = 10.0 * workers  # seconds of sound a second, all workers; then as measured
        self._threads = [
            threading.Thread(target=self._work, name=f"arms-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether work is taken on."""
        return not self._stopping and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Windows that wait."""
        return len(self._waiting)

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that wait."""
        with self._changed:
            return sum(window.seconds for window in self._waiting)

    def retry_s(self) -> float:
        """When it makes sense to try again, by what waits and the speed so far."""
        return min(max(1.0, self.waiting_s / self._speed), 60.0)

    def submit(self, job: Job) -> Future[Transcript]:
        """Queue a job.

        Raises
        ------
        QueueFullError
            Too much sound waits; a lone job is always taken.
        """
        arm = getattr(job.router.description, job.route.arm or job.router.description.extractor.arm)
        windows = [
            _Window(job, i, job.arrived + i * LATER_S, arm.decode.context(audio.size))
            for i, (_, audio) in enumerate(job.windows)
        ]
        waiting = self.waiting_s
        if waiting and waiting + job.seconds > self._max_queue_s:
            raise QueueFullError(self.retry_s())
        with self._changed:
            if self._stopping:
                raise QueueFullError(1.0)
            self._waiting.extend(windows)
            self._changed.notify(len(windows))
        return job.future

    def when_idle(self, work: Callable[[], None]) -> bool:
        """Take on work for when no window waits; False where as much of it waits as may.

        One worker at most is at it, so that the others stay free for answers.
        """
        with self._changed:
            if self._stopping or len(self._idle) >= MAX_IDLE:
                return False
            self._idle.append(work)
            self._changed.notify()
        return True

    def stop(self, seconds: float | None = None) -> bool:
        """Finish the windows that wait, then end the workers; work for idle times is left.

        Parameters
        ----------
        seconds : float, optional
            Do not wait for longer; False says that a worker is still in the middle of a batch.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _take(self) -> list[_Window] | Callable[[], None]:
        """The window that is due first and others that can run with it, without those of ended jobs.

        Where none waits: work for idle times. Empty at the end.
        """
        with self._changed:
            while True:
                self._waiting = [window for window in self._waiting if not window.job.future.done()]
                if self._waiting:
                    break
                if self._stopping:
                    return []
                if self._idle and not self._idling:
                    self._idling = True
                    return self._idle.popleft()
                self._changed.wait()
            ordered = sorted(self._waiting, key=lambda window: window.due)
            first = ordered[0]
            most = min(first.job.router.description.batch_size, max(1, int(BATCH_S / first.seconds)))
            taken = [window for window in ordered if window.joins(first)][:most]
            gone = set(map(id, taken))
            self._waiting = [window for window in self._waiting if id(window) not in gone]
            return taken

    def _work(self) -> None:
        torch.set_num_threads(1)
        while taken := self._take():
            if callable(taken):
                self._work_idly(taken)
                continue
            begun = time.monotonic()
            self._on_batch(len(taken))
            for window in taken:
                window.job.begun = window.job.begun or begun
            try:
                self._run(taken)
            except Exception:
                logger.exception("a batch of %d failed; each window runs alone", len(taken))
                for window in taken:
                    self._run_alone(window)
            speed = len(self._threads) * sum(window.seconds for window in taken) / (time.monotonic() - begun)
            self._speed += 0.1 * (speed - self._speed)

    def _work_idly(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            logger.exception("work of an idle time failed")
        with self._changed:
            self._idling = False

    def _run(self, taken: list[_Window]) -> None:
        first = taken[0].job
        windows = [window.job.windows[window.index] for window in taken]
        routes = [window.job.route for window in taken]
        heard = first.router.hear(windows, routes, first.transcribe)
        for window, segment in zip(taken, heard, strict=True):
            self._finish(window, segment)

    def _run_alone(self, window: _Window) -> None:
        try:
            self._run([window])
        except Exception as error:
            logger.exception("a window failed")
            with suppress(InvalidStateError):
                window.job.future.set_exception(error)

    def _finish(self, window: _Window, segment: Segment) -> None:
        job = window.job
        with self._changed:
            job.segments[window.index] = segment
            if len(job.segments) == len(job.windows):
                ordered = [job.segments[i] for i in range(len(job.windows))]
                with suppress(InvalidStateError):  # given up meanwhile
                    job.future.set_result(join(ordered, job.route, job.transcribe))

"""What the HTTP service does with a request, apart from HTTP's own forms."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.requests import Request

from whisper_router.audio import Audio, AudioError
from whisper_router.decision import Transcript
from whisper_router.decode import Limits, TooLongError
from whisper_router.serving.batcher import Batcher, Job, QueueFullError
from whisper_router.serving.champion import Champion, Served
from whisper_router.serving.decoding import WORKERS, DecoderPool
from whisper_router.serving.form import Asked, check_route, read_form
from whisper_router.serving.metrics import Metrics
from whisper_router.serving.prediction_log import PredictionLog, row_of
from whisper_router.serving.problem import Problem
from whisper_router.serving.settings import Settings
from whisper_router.serving.shadow import Shadow
from whisper_router.serving.uploads import Uploads, stopping

BATCH_END_S = 3.0  # that a batch which nobody waits for may still take at the end
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What was made of a request."""

    asked: Asked
    served: Served
    made: Transcript
    request: str
    queue_s: float
    latency_s: float


class Service:
    """The champion, the batcher, the log and the metrics.

    Raises
    ------
    UserError
        The router cannot be loaded, or the log's folder cannot be written.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.champion = Champion(settings.router, settings.reload_s, self._on_reload)
        self._show_version()
        self.batcher = Batcher(settings.workers, settings.max_queue_s, self.metrics.batch.observe)
        self.log = (
            PredictionLog(settings.log, settings.log_rows, settings.log_s, settings.log_text)
            if settings.log
            else None
        )
        self.shadow = Shadow(settings, self.batcher, self.metrics) if settings.shadow else None
        self.decoders = DecoderPool(Limits(settings.max_bytes, settings.max_seconds, settings.decode_s))
        self.uploads = Uploads(settings)
        self._open = 0
        self._given_up = asyncio.Event()
        self._decoding: anyio.CapacityLimiter | None = None

    def give_up(self) -> None:
        """Answer all requests that are not done with 503."""
        self._given_up.set()

    def stop(self) -> bool:
        """End the workers, then write the log; False where a worker was in the middle of a batch."""
        self.decoders.stop()
        ended = self.batcher.stop(BATCH_END_S)
        if self.log:
            self.log.stop()
        if self.shadow:
            self.shadow.stop()
        self.champion.stop()
        return ended

    def _on_reload(self, result: str) -> None:
        self.metrics.reloads.labels(result).inc()
        self._show_version()

    def _show_version(self) -> None:
        served = self.champion.current
        self.metrics.served.clear()
        self.metrics.served.labels(served.version, served.router.policy.name).set(1)

    def scrape(self) -> bytes:
        """The metrics as they stand."""
        self.metrics.waiting.set(self.batcher.waiting)
        self.metrics.waiting_s.set(self.batcher.waiting_s)
        self.metrics.open.set(self._open + len(self.uploads))
        self.metrics.uploads.set(len(self.uploads))
        return self.metrics.text()

    def _refuse_when_full(self) -> None:
        if self._open >= self.settings.max_requests:
            raise _busy(f"too many open requests ({self._open})", self.batcher.retry_s())

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        self._refuse_when_full()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def answer(self, request: Request, transcribe: bool) -> Answer:
        """Read, decode, route.

        Raises
        ------
        Problem
            Anything that keeps the request from an answer.
        """
        self._refuse_when_full()  # before the body is read, and again when it has arrived
        with contextlib.ExitStack() as slot:
            async with self.uploads.form(request) as form:
                slot.enter_context(self._admitted())
                asked = await read_form(form, self.settings)
            served = self.champion.current
            check_route(asked, served.router)
            begun = time.monotonic()
            windows = await self._decoded(asked.audio)
            route = served.router.route(asked.policy, asked.threshold)
            job = Job(served.router, windows, route, transcribe, begun)
            try:
                self.batcher.submit(job)
            except QueueFullError as error:
                raise _busy("the queue is full", error.retry_s) from error
            made = await self._finished(request, job)
        latency_s = time.monotonic() - begun
        queue_s = (job.begun or begun) - begun
        answer = Answer(asked, served, made, uuid.uuid4().hex, queue_s, latency_s)
        self.metrics.answered(made, latency_s)
        if self.log:
            self.log.add(row_of(made, answer.request, served.version, queue_s, latency_s))
        if self.shadow and transcribe:
            self.shadow.offer(served, windows, made, answer.request)
        return answer

    async def _decoded(self, audio: bytes) -> list[tuple[int, Audio]]:
        self._decoding = self._decoding or anyio.CapacityLimiter(WORKERS)
        try:
            return await anyio.to_thread.run_sync(self.decoders.windows, audio, limiter=self._decoding)
        except TooLongError as error:
            raise Problem(413, "audio_too_long", str(error)[:500], "file") from error
        except AudioError as error:
            raise Problem(400, "invalid_audio", str(error)[:500], "file") from error

    async def _finished(self, request: Request, job: Job) -> Transcript:
        """The job's result; given up when the client is gone, time is over or the server ends."""
        result = asyncio.wrap_future(job.future)
        gone = asyncio.ensure_future(_disconnected(request))
        given_up = asyncio.ensure_future(self._given_up.wait())
        left = self.settings.request_s - (time.monotonic() - job.arrived)
        try:
            all_three: set[asyncio.Future[Any]] = {result, gone, given_up}
            await asyncio.wait(all_three, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if gone.done():
                raise Problem(499, "disconnected", "the client is gone")
            if given_up.done():
                raise stopping()
            retry = {"Retry-After": f"{self.batcher.retry_s():.0f}"}
            message = f"not done within {self.settings.request_s:g} s; try again later"
            raise Problem(503, "timeout", message, None, retry)
        finally:
            gone.cancel()
            given_up.cancel()
            result.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _busy(message: str, retry_s: float) -> Problem:
    headers = {"Retry-After": f"{max(1, round(retry_s))}"}
    return Problem(429, "queue_full", f"{message}; try again in {headers['Retry-After']} s", None, headers)

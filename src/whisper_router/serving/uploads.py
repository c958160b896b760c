"""Bodies in arrival: bounded in number, in size, in time, and in how slowly they may come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from whisper_router.serving.problem import Problem
from whisper_router.serving.settings import Settings

KIND_BYTES = 1 << 10  # of the Content-Type header, whose reading takes time that grows with its square
FORM_BYTES = 64 << 10  # most that the fields beside the file take
WINDOW_S = 5.0  # over which the slowest rate is measured
LATE_S = 1.0  # a look that comes so late, because the process was busy, cuts nothing
GRACE = 64 << 10  # bytes that every body is thought ahead, so that one which has just begun is not slow
FAST = 1 << 20  # bytes a second; a body this fast makes no room for another
CLOSE = {"Connection": "close"}


@dataclass(eq=False)
class _Arrival:
    """A body that is being read."""

    timer: asyncio.Timeout
    begun: float
    received: int = 0
    problem: Problem | None = None

    def speed(self, now: float) -> float:
        """Bytes a second since it began, the grace among them."""
        return (self.received + GRACE) / max(now - self.begun, 1e-3)

    def cut(self, problem: Problem) -> None:
        """End the reading with this answer."""
        if self.problem is None:
            self.problem = problem
            self.timer.reschedule(0)


class _Form(MultiPartParser):
    """Refuses what says that it is in another encoding than UTF-8."""

    def on_headers_finished(self) -> None:
        for name, value in self._current_part.item_headers:
            if name == b"content-type":
                _check_charset(value)
        super().on_headers_finished()


def _check_charset(content_type: str | bytes) -> None:
    """Raise for another charset than UTF-8; it is not looked up, for some codecs take minutes.

    Raises
    ------
    MultiPartException
        It is another.
    """
    _, options = parse_options_header(content_type)
    charset = options.get(b"charset", b"utf-8")
    if charset.lower() not in (b"utf-8", b"utf8"):
        raise MultiPartException(f"charset {charset[:40].decode('latin-1')!r}: send the form in UTF-8")


class Uploads:
    """Reads forms.

    Where too many arrive, the slowest one is cut for the new one, unless all are fast.

    Parameters
    ----------
    settings : Settings
        ``max_uploads``, ``max_bytes``, ``upload_s``, ``min_rate``.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._arriving: set[_Arrival] = set()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._arriving)

    def stop(self) -> None:
        """Cut what arrives, and refuse what comes."""
        self._stopping = True
        for arrival in self._arriving:
            arrival.cut(stopping())

    @asynccontextmanager
    async def form(self, request: Request) -> AsyncIterator[FormData]:
        """The form of a request, once all of it has arrived.

        Raises
        ------
        Problem
            Too large, too slow, too many, not a form, another charset than UTF-8.
        """
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != "multipart/form-data":
            message = "send multipart/form-data with the audio as field file"
            raise Problem(415, "unsupported_media_type", message, None)
        if len(kind) > KIND_BYTES:
            raise Problem(400, "invalid_form", f"Content-Type is longer than {KIND_BYTES} bytes", None)
        try:
            _check_charset(kind)
            form = await self._arrived(request)
        except MultiPartException as error:
            raise Problem(400, "invalid_form", f"not a multipart form: {error.message}") from error
        except ClientDisconnect as error:
            raise Problem(400, "disconnected", "the body ended early") from error
        try:
            yield form
        finally:
            await form.close()

    async def _arrived(self, request: Request) -> FormData:
        limit = self._settings.max_bytes + FORM_BYTES
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > limit:
            raise _too_large(limit)
        if self._stopping:
            raise stopping()
        self._make_room()
        timer = asyncio.timeout(None)
        arrival = _Arrival(timer, asyncio.get_running_loop().time())

        async def receive() -> Message:
            event = await request.receive()
            arrival.received += len(event.get("body", b""))
            if arrival.received > limit:
                raise _too_large(limit)
            return event

        limited = Request(request.scope, receive)
        parser = _Form(
            request.headers, limited.stream(), max_files=1, max_fields=20, max_part_size=FORM_BYTES
        )
        try:
            async with timer:
                self._arriving.add(arrival)
                self._look_later(arrival)
                try:
                    return await parser.parse()
                finally:
                    self._arriving.discard(arrival)
        except TimeoutError:
            raise arrival.problem or stopping() from None

    def _look_later(self, arrival: _Arrival) -> None:
        loop = asyncio.get_running_loop()
        left = arrival.begun + self._settings.upload_s - loop.time()
        seconds = min(WINDOW_S, left)
        due = loop.time() + seconds
        loop.call_later(seconds, self._look, arrival, arrival.received, due, left <= WINDOW_S)

    def _look(self, arrival: _Arrival, before: int, due: float, last: bool) -> None:
        if arrival not in self._arriving:
            return
        rate = (arrival.received - before) / WINDOW_S
        late = asyncio.get_running_loop().time() - due
        if last:
            message = f"the body did not arrive within {self._settings.upload_s:g} s"
            arrival.cut(Problem(408, "upload_timeout", message, "file", CLOSE))
        elif rate < self._settings.min_rate and late < LATE_S:
            message = (
                f"the body arrives at {rate:.0f} bytes a second, and at least "
                f"{self._settings.min_rate:g} are asked for"
            )
            arrival.cut(Problem(408, "upload_timeout", message, "file", CLOSE))
        else:
            self._look_later(arrival)

    def _make_room(self) -> None:
        if len(self._arriving) < self._settings.max_uploads:
            return
        now = asyncio.get_running_loop().time()
        slowest = min(self._arriving, key=lambda arrival: arrival.speed(now))
        message = f"too many bodies are arriving ({len(self._arriving)})"
        headers = CLOSE | {"Retry-After": "1"}
        if slowest.speed(now) >= FAST:
            raise Problem(429, "too_many_uploads", f"{message}; try again in 1 s", None, headers)
        self._arriving.discard(slowest)
        more = "; this one was the slowest: try again in 1 s"
        slowest.cut(Problem(429, "too_many_uploads", message + more, None, headers))


def stopping() -> Problem:
    """The answer to what a server that ends does not finish."""
    return Problem(503, "stopping", "the server is stopping; try again", None, CLOSE | {"Retry-After": "1"})


def _too_large(limit: int) -> Problem:
    message = f"the body is larger than {limit} bytes, this server's limit"
    return Problem(413, "file_too_large", message, "file", CLOSE)

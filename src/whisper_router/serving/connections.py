"""The connections of the HTTP service: bounded in number, and each in the time that its client may take.

uvicorn alone waits without end for the head of a request, for the rest of a body that nobody reads, and for a
client that does not read its answer; and asyncio logs every failed ``accept``.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from whisper_router.serving.metrics import Metrics
from whisper_router.serving.settings import Settings

ACCEPTED = 32  # connections that are accepted at a time
ROUNDS = 4  # of them that have descriptors before the first one can be closed again
QUEUED = 2048  # connections that the kernel holds until they are accepted
OWN = 128  # descriptors for all but connections and bodies: libraries, weights, pipes, the log
LOOK_S = 0.5  # between two looks at all connections
SELDOM_S = 60.0  # between two lines of the log about the same trouble
logger = logging.getLogger(__name__)

try:
    import resource
except ImportError:  # a system without such limits
    resource = None  # type: ignore[assignment]


def affordable(settings: Settings) -> int:
    """Connections that the limit of open descriptors allows; the soft limit is raised as far as is needed."""
    if resource is None:
        return settings.max_connections
    beside = OWN + ROUNDS * ACCEPTED + settings.max_uploads + settings.max_requests
    needed = settings.max_connections + beside
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        with contextlib.suppress(ValueError, OSError):  # a system may have a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings.max_connections
    most = max(16, soft - beside)
    logger.warning(
        "at most %d connections, not %d: the process may open %d descriptors; `ulimit -n %d` allows all",
        most,
        settings.max_connections,
        soft,
        needed,
    )
    return most


class Seldom:
    """Whether something may be said again."""

    def __init__(self, seconds: float = SELDOM_S) -> None:
        self._seconds, self._next = seconds, 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class Watched(H11Protocol):
    """A connection that knows what it waits for."""

    known: "Connections"  # set by Connections.protocol
    since = 0.0
    _seen: tuple[str, Any] = ("", None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.known.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.known.drop(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None:
            self.known.asked(self)

    def shutdown(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def phase(self) -> str:
        """What holds the connection open."""
        if self.transport.is_closing():
            return "closing"
        if self.transport.get_write_buffer_size():
            return "unread"  # its client does not read the answer
        if self.conn.their_state is h11.IDLE:
            return "head" if self.conn.trailing_data[0] else "idle"
        answered = self.cycle is None or self.cycle.response_complete
        return "leftover" if answered else "work"  # leftover: a body still arrives that nobody reads

    def waited(self, now: float) -> tuple[str, float]:
        """The phase, and the seconds since it was first seen."""
        seen = self.phase(), self.cycle
        if seen != self._seen:
            self._seen, self.since = seen, now
        return seen[0], now - self.since


class Connections:
    """All connections of the process: none stays in a phase for longer than it may.

    Where there are too many, the one that has been silent for longest is closed for the new one, then one
    that waits between two requests. One whose request is read or answered is never closed for another.

    Parameters
    ----------
    settings : Settings
        ``header_s`` bounds silence, an incomplete head, an unread rest and the end of a connection;
        ``upload_s`` how long an answer may wait to be read.
    metrics : Metrics
        Told the number of connections, and why one was closed.
    most : int
        Connections at a time.
    """

    def __init__(self, settings: Settings, metrics: Metrics, most: int) -> None:
        self._most, self._metrics = most, metrics
        phases = ("idle", "head", "leftover", "closing")
        self._seconds = dict.fromkeys(phases, settings.header_s) | {"unread": settings.upload_s}
        self._silent: dict[Watched, None] = {}  # without a request so far, the oldest first
        self._used: dict[Watched, None] = {}
        self._stopping = False
        self._full, self._no_descriptor = Seldom(), Seldom()

    def __len__(self) -> int:
        return len(self._silent) + len(self._used)

    def protocol(self) -> type[H11Protocol]:
        """The class of uvicorn's connections, bound to this."""
        return type("Bound", (Watched,), {"known": self})

    def add(self, new: Watched) -> None:
        """Take on a connection, or close it or another."""
        new.since = time.monotonic()
        self._silent[new] = None
        if self._stopping:
            self._close(new, "stopping")
        elif len(self) > self._most:
            if self._full():
                logger.warning("%d connections are open, the most: idle ones are closed", self._most)
            self._close(self._victim(new), "too_many")
        self._metrics.connections.set(len(self))

    def asked(self, connection: Watched) -> None:
        """A first request has begun."""
        if connection in self._silent:
            del self._silent[connection]
            self._used[connection] = None

    def drop(self, connection: Watched) -> None:
        """A connection is no more."""
        self._silent.pop(connection, None)
        self._used.pop(connection, None)
        self._metrics.connections.set(len(self))

    def stop(self) -> None:
        """Take on no more."""
        self._stopping = True

    def _victim(self, new: Watched) -> Watched:
        oldest = next(iter(self._silent))
        if oldest is not new:
            return oldest
        return next((one for one in self._used if one.phase() != "work"), new)

    def _close(self, connection: Watched, reason: str) -> None:
        self._metrics.closed.labels(reason).inc()
        self.drop(connection)
        connection.transport.abort()

    async def watch(self) -> None:
        """Close what has stayed in a phase for too long, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for connection in (*self._silent, *self._used):
                phase, seconds = connection.waited(now)
                if seconds > self._seconds.get(phase, seconds):
                    self._close(connection, phase)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The event loop's errors, those of ``accept`` once a minute."""
        if context.get("message") != "socket.accept() out of system resource":
            loop.default_exception_handler(context)
        elif self._no_descriptor():
            logger.error("a connection cannot be accepted: %s", context.get("exception"))

"""Connections: silent, half-open, unread, too many; what accept() cannot take; the limit of descriptors."""

import asyncio
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass

import pytest
import uvicorn
from waiting import wait_until

from whisper_router.serving import connections
from whisper_router.serving.connections import Connections, Seldom, affordable
from whisper_router.serving.metrics import Metrics
from whisper_router.serving.settings import Settings

LARGE = 16 << 20  # bytes of an answer that no socket's buffer holds
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


async def application(scope, receive, send) -> None:
    """Answers at once, a large body at /large, after a while at /slow."""
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    body = b"0" * LARGE if scope["path"] == "/large" else b"hello"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Running:
    """A server in a thread."""

    port: int
    known: Connections
    metrics: Metrics

    def connect(self, first: bytes = b"") -> socket.socket:
        """A connection that has sent something."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        made.sendall(first)
        return made

    def closed(self, reason: str) -> float:
        """Connections that were closed for it."""
        return self.metrics.closed.labels(reason)._value.get()


Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture
def running(monkeypatch) -> Start:
    monkeypatch.setattr(connections, "LOOK_S", 0.05)

    @contextmanager
    def start(most: int = 100, **settings: float) -> Iterator[Running]:
        metrics = Metrics()
        known = Connections(Settings(**({"header_s": 0.5, "upload_s": 0.5} | settings)), metrics, most)

        class Server(uvicorn.Server):
            async def startup(self, sockets=None) -> None:
                await super().startup(sockets)
                self.watching = asyncio.create_task(known.watch())

        config = uvicorn.Config(
            application, port=0, http=known.protocol(), lifespan="off", log_level="error", ws="none"
        )
        server = Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Running(server.servers[0].sockets[0].getsockname()[1], known, metrics)
        finally:
            server.should_exit = True
            thread.join()

    return start


def is_closed(one: socket.socket) -> bool:
    """Whether the other side has closed; waits for it."""
    try:
        return one.recv(1000) == b""
    except ConnectionResetError:
        return True


def answer(one: socket.socket) -> bytes:
    """An answer of the small kind."""
    got = b""
    while not got.endswith(b"hello"):
        part = one.recv(1000)
        assert part, got
        got += part
    return got


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"", "idle"),
        (b"G", "head"),
        (b"POST / HTTP/1.1\r\nHost: a\r\n", "head"),
        (GET + b"GET /", "head"),
        (POST, "leftover"),
    ],
)
def test_what_does_not_come_in_time_is_closed(running, first, reason):
    with running() as server, server.connect(first) as one:
        if b"\r\n\r\n" in first:
            answer(one)
        assert is_closed(one)
        wait_until(lambda: server.closed(reason) == 1, 5)
        wait_until(lambda: len(server.known) == 0, 5)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nX: ", POST])
def test_a_drip_does_not_prolong_it(running, first):
    with running() as server, server.connect(first) as one:
        begun = time.monotonic()
        with suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() - begun < 10:
                one.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - begun < 5


def test_a_request_in_work_is_waited_for(running):
    with running() as server, server.connect(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n") as one:
        assert b"200 OK" in answer(one)  # after three times header_s


def test_an_answer_that_is_not_read_is_given_up(running):
    with running() as server, server.connect(GET.replace(b"/ ", b"/large ")):
        wait_until(lambda: server.closed("unread") == 1, 10)
        wait_until(lambda: len(server.known) == 0, 5)


def test_an_answer_that_is_read_slowly_but_read_is_whole(running):
    with running(upload_s=20) as server, server.connect(GET.replace(b"/ ", b"/large ")) as one:
        total = 0
        while total < LARGE:
            total += len(one.recv(1 << 20))
            time.sleep(0.005)


def test_silent_connections_make_room_and_those_in_work_do_not(running, caplog):
    with running(most=3, header_s=30) as server, ExitStack() as held:
        work = held.enter_context(server.connect(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"))
        silent = held.enter_context(server.connect())
        with caplog.at_level(logging.WARNING, "whisper_router"):
            for _ in range(20):
                with server.connect(GET) as one:
                    assert b"200 OK" in answer(one)
                held.enter_context(server.connect())
        assert is_closed(silent)
        assert b"200 OK" in answer(work)
        assert len(server.known) <= 3
        assert server.closed("too_many") >= 18
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_where_none_may_be_closed_the_new_one_is(running):
    with running(most=2, header_s=30) as server, ExitStack() as held:
        slow = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
        work = [held.enter_context(server.connect(slow)) for _ in range(2)]
        wait_until(lambda: len(server.known) == 2)
        time.sleep(0.1)
        with server.connect() as one:
            assert is_closed(one)
        assert all(b"200 OK" in answer(one) for one in work)


def test_nobody_is_taken_on_at_the_end(running):
    with running() as server:
        server.known.stop()
        with server.connect() as one:
            assert is_closed(one)


def test_accept_s_errors_are_logged_once(caplog, monkeypatch):
    known = Connections(Settings(), Metrics(), 10)
    loop = asyncio.new_event_loop()
    others: list[dict] = []
    monkeypatch.setattr(loop, "default_exception_handler", others.append)
    trouble = OSError(24, "Too many open files")
    for _ in range(1000):
        context = {"message": "socket.accept() out of system resource", "exception": trouble}
        known.on_loop_error(loop, context)
    assert [record.getMessage() for record in caplog.records] == [
        "a connection cannot be accepted: [Errno 24] Too many open files"
    ]
    known.on_loop_error(loop, {"message": "something else"})
    assert others == [{"message": "something else"}]
    loop.close()


def test_seldom_is_every_so_often():
    may = Seldom(0.05)
    assert (may(), may()) == (True, False)
    wait_until(may, 5)


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised"),
    [
        (256, 100_000, 1024, True),
        (256, resource.RLIM_INFINITY, 1024, True),
        (100_000, 100_000, 1024, False),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1024, False),
        (256, 1024, 672, True),
        (100, 100, 16, False),
    ],
)
def test_the_limit_of_descriptors_is_raised_and_kept_to(monkeypatch, caplog, soft, hard, allowed, raised):
    limits = [(soft, hard)]
    monkeypatch.setattr(connections.resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(connections.resource, "setrlimit", lambda kind, both: limits.append(both))
    assert affordable(Settings()) == allowed
    assert (limits[-1] != (soft, hard)) == raised
    assert ("at most" in caplog.text) == (allowed < 1024)

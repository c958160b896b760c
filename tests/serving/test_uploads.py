"""Bodies in arrival: slow ones, too many, other charsets, the end of the service."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from starlette.requests import Request

from whisper_router.serving import uploads
from whisper_router.serving.problem import Problem
from whisper_router.serving.settings import Settings
from whisper_router.serving.uploads import Uploads

BODY = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nsound\r\n--x--\r\n'
FORM = "multipart/form-data; boundary=x"


@pytest.fixture(autouse=True)
def short_window(monkeypatch):
    monkeypatch.setattr(uploads, "WINDOW_S", 0.2)


def request(chunks: AsyncIterator[bytes], kind: str = FORM) -> Request:
    async def receive() -> dict:
        body = await anext(chunks, b"")
        return {"type": "http.request", "body": body, "more_body": bool(body)}

    return Request({"type": "http", "headers": [(b"content-type", kind.encode())]}, receive)


async def at_once(body: bytes = BODY) -> AsyncIterator[bytes]:
    yield body


async def dripping(every_s: float = 0.02) -> AsyncIterator[bytes]:
    yield BODY[:-20]
    while True:
        await asyncio.sleep(every_s)
        yield b"0"


async def read(made: Uploads, asked: Request) -> bytes:
    async with made.form(asked) as form:
        return await form["file"].read()


def problem_of(outcome: object) -> tuple[int, str]:
    assert isinstance(outcome, Problem), outcome
    return outcome.status, outcome.code


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_a_body_that_arrives_is_read_and_no_longer_counted():
    async def test() -> None:
        made = Uploads(Settings())
        assert await read(made, request(at_once())) == b"sound"
        assert len(made) == 0

    run(test)


def test_a_slow_body_is_cut_and_told_the_rate():
    async def test() -> None:
        made = Uploads(Settings(min_rate=1000))
        with pytest.raises(Problem, match="at least 1000 are asked for") as caught:
            await read(made, request(dripping()))
        assert (caught.value.status, caught.value.headers["Connection"]) == (408, "close")
        assert len(made) == 0

    run(test)


def test_a_body_above_the_rate_is_cut_when_its_time_is_over():
    async def test() -> None:
        made = Uploads(Settings(min_rate=10, upload_s=0.9))
        begun = time.monotonic()
        with pytest.raises(Problem, match=r"within 0\.9 s"):
            await read(made, request(dripping()))
        assert time.monotonic() - begun >= 0.9

    run(test)


def test_a_process_that_was_busy_cuts_nobody(monkeypatch):
    monkeypatch.setattr(uploads, "LATE_S", 0.1)

    async def slow() -> AsyncIterator[bytes]:
        yield BODY[:50]
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)
        await asyncio.sleep(0.3)
        yield BODY[50:]

    async def test() -> None:
        assert await read(Uploads(Settings()), request(slow())) == b"sound"

    run(test)


def test_where_too_many_arrive_the_slowest_makes_room(monkeypatch):
    monkeypatch.setattr(uploads, "WINDOW_S", 60.0)

    async def test() -> None:
        made = Uploads(Settings(max_uploads=3))
        slow = [asyncio.create_task(read(made, request(dripping()))) for _ in range(3)]
        await asyncio.sleep(0.2)
        for _ in range(10):
            assert await read(made, request(at_once())) == b"sound"
        await asyncio.sleep(0.1)
        assert sum(one.done() for one in slow) == 1  # the others kept two places, and one sufficed
        (cut,) = [one for one in slow if one.done()]
        assert problem_of(cut.exception()) == (429, "too_many_uploads")
        made.stop()
        for outcome in await asyncio.gather(*(one for one in slow if one is not cut), return_exceptions=True):
            assert problem_of(outcome) == (503, "stopping")
        with pytest.raises(Problem, match="stopping"):
            await read(made, request(at_once()))

    run(test)


def test_where_all_are_fast_the_new_one_is_refused(monkeypatch):
    monkeypatch.setattr(uploads, "FAST", 0)

    async def test() -> None:
        made = Uploads(Settings(max_uploads=1))
        first = asyncio.create_task(read(made, request(dripping())))
        await asyncio.sleep(0.05)
        with pytest.raises(Problem, match="too many bodies") as caught:
            await read(made, request(at_once()))
        assert problem_of(caught.value) == (429, "too_many_uploads")
        first.cancel()

    run(test)


LONG = 65_000
CHARSETS = ["utf-7", "idna", "punycode", "utf-16", "latin-1", "no-such-charset", "rot13", "a" * 900, ""]


@pytest.mark.parametrize("charset", CHARSETS)
def test_another_charset_is_refused_at_once(charset):
    async def test() -> None:
        begun = time.monotonic()
        long = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"a" * LONG + b"\r\n--x--\r\n"
        for kind in (
            f"{FORM}; charset={charset}",
            f'{FORM}; charset="{charset}"',
            f"{FORM}; CHARSET={charset}",
        ):
            with pytest.raises(Problem, match="UTF-8"):
                await read(Uploads(Settings()), request(at_once(long), kind))
        part = f"\r\nContent-Type: text/plain; charset={charset}\r\n\r\n".encode()
        body = b'--x\r\nContent-Disposition: form-data; name="model"' + part + b"\xff\r\n--x--\r\n"
        with pytest.raises(Problem, match="UTF-8"):
            await read(Uploads(Settings()), request(at_once(body)))
        assert time.monotonic() - begun < 1

    run(test)


@pytest.mark.parametrize(
    "kind", [f"{FORM}; charset=utf-8", f"{FORM}; charset=UTF8", f'{FORM}; charset="UTF-8"']
)
def test_utf_8_may_be_said(kind):
    async def test() -> None:
        assert await read(Uploads(Settings()), request(at_once(), kind)) == b"sound"

    run(test)


HOSTILE_PARTS = [
    "name=\"file\"; filename*=punycode''" + "a" * 3000,
    "name=\"file\"; filename*0*=idna''" + "%61" * 1000,
    'name="file"; filename="=?idna?b?' + "YWFh" * 900 + '?="',
    'name="file"' + ";" * 4000,
    'name="file"; filename="' + '\\"' * 1900 + '"',
    "; ".join(f'filename*{i}="a"' for i in range(150)) + '; name="file"; filename="a"',
]


@pytest.mark.parametrize("disposition", HOSTILE_PARTS)
def test_headers_of_a_part_take_no_time_whatever_they_say(disposition):
    async def test() -> None:
        body = f"--x\r\nContent-Disposition: form-data; {disposition}\r\n\r\nsound\r\n--x--\r\n".encode()
        begun = time.monotonic()
        for _ in range(10):
            async with Uploads(Settings()).form(request(at_once(body))) as form:
                assert list(form) == ["file"]
        assert time.monotonic() - begun < 1

    run(test)


def test_a_long_content_type_takes_no_time():
    async def test() -> None:
        begun = time.monotonic()
        for more in (";" * LONG, '; a="' + '\\"' * (LONG // 2), "; a=b" * (LONG // 5)):
            with pytest.raises(Problem):
                await read(Uploads(Settings()), request(at_once(b""), f"multipart/form-data{more}"))
        assert time.monotonic() - begun < 1

    run(test)

"""Lines of a text file, each bounded before it is read: one that cannot be read stops no other."""

import codecs
import csv
import gzip
import io
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from whisper_router.errors import UserError

LINE_CHARACTERS = 2**20  # a row has a few hundred; a cut with all words of an hour less than this
FILE_CHARACTERS = 2**31  # of a compressed file: the cuts of 1,000 hours have 2**29
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Line(NamedTuple):
    """A line without its end, by its number from 1; or why it cannot be read."""

    number: int
    text: str
    fault: str | None = None


def _fault(text: str) -> str | None:
    """Why a line's text is not taken. What is not of the encoding was read as a lone surrogate."""
    if "\0" in text:
        return "holds a NUL character; is it text?"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        what = f"the byte 0x{code - 0xDC00:x}" if 0xDC80 <= code <= 0xDCFF else "half a character"
        return f"not UTF-8, nor UTF-16 with its byte order mark ({what}, character {error.start + 1})"
    return None


def _long(file: io.TextIOWrapper, text: str) -> Iterator[str]:
    """The rest of a line that is too long, a piece at a time."""
    while len(text) == LINE_CHARACTERS and not text.endswith(("\n", "\r")):
        text = file.readline(LINE_CHARACTERS)
        yield text


def bounded_lines(path: Path) -> Iterator[Line]:
    """Lines of a text file in UTF-8, or UTF-16 with its byte order mark, also compressed as .gz.

    Raises
    ------
    UserError
        A compressed file of over ``FILE_CHARACTERS``, or damaged.
    """
    packed = path.suffix == ".gz"
    with gzip.open(path) if packed else path.open("rb") as raw:
        number = characters = 0
        try:
            start = raw.peek(4)[:4]
            encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8")
            errors = "surrogatepass" if encoding == "utf-16" else "surrogateescape"
            file = io.TextIOWrapper(raw, encoding, errors, newline="")
            while text := file.readline(LINE_CHARACTERS):
                number += 1
                characters += len(text)
                long = False
                for rest in _long(file, text):
                    long = long or bool(rest)
                    characters += len(rest)
                    _check_size(path, characters if packed else 0)
                _check_size(path, characters if packed else 0)
                if long:
                    yield Line(number, "", f"over {LINE_CHARACTERS} characters; is its end missing?")
                else:
                    yield Line(number, text, _fault(text))
        except UnicodeDecodeError as error:
            yield Line(number + 1, "", f"not UTF-16 ({error.reason})")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: damaged from line {number + 1} on ({error}); fetch it again") from error


def _check_size(path: Path, characters: int) -> None:
    if characters > FILE_CHARACTERS:
        raise UserError(f"{path}: over {FILE_CHARACTERS} characters when unpacked; divide it")


class Record(NamedTuple):
    """The fields of a row of a CSV, by the number of its first line; or why it cannot be read."""

    number: int
    fields: list[str]
    fault: str | None = None


def records(lines: Iterator[Line], delimiter: str, quoting: int) -> Iterator[Record]:
    """Rows of a CSV. A quote that is never closed costs its own line, not those below it."""
    waiting: deque[Line] = deque()

    def following() -> Line | None:
        return waiting.popleft() if waiting else next(lines, None)

    while (first := following()) is not None:
        if first.fault:
            yield Record(first.number, [], first.fault)
            continue
        taken = [first]

        def feed(taken: list[Line] = taken) -> Iterator[str]:
            yield taken[0].text
            length = len(taken[0].text)
            while (line := following()) is not None:
                taken.append(line)
                length += len(line.text)
                if line.fault or length > LINE_CHARACTERS:
                    return
                yield line.text

        try:
            fields = next(csv.reader(feed(), delimiter=delimiter, quoting=quoting, strict=True), [])  # type: ignore[arg-type]
        except csv.Error as error:
            waiting.extendleft(reversed(taken[1:]))
            reason = "an open quote" if "unexpected end" in str(error) else str(error)
            yield Record(first.number, [], f"not readable ({reason})")
        else:
            if fields:
                yield Record(first.number, fields)

"""A process that decodes files for the service, which come by standard input; samples go to standard output.

A request is a line of JSON, ``[bytes, max_seconds, decode_s]``, and the bytes. The answer is messages of a
kind, a length and a content: pieces of samples, then one that ends it. The process ends with standard input.
"""

import json
import os
import signal
import struct
import sys
import traceback
from pathlib import Path
from typing import BinaryIO

from whisper_router.audio import AudioError
from whisper_router.decode import Limits, OutOfMemoryError, TooLongError, decode_pieces

MESSAGE = struct.Struct(">BI")  # kind, bytes that follow
READY, PIECE, DONE, REFUSED, TOO_LONG, OUT_OF_MEMORY, FAILED = range(7)
MEMORY = 192 << 20  # bytes beyond the file itself; Python with NumPy and PyAV are not counted


def limit_memory(more: int) -> None:
    """Bound this process's address space to what it has now and ``more`` bytes, where the system can."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # macOS and Windows have no limit that is kept
        return
    import resource

    now = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(data: bytes, limits: Limits, to: BinaryIO) -> int:
    """Decode a file and send what it holds; the kind of the last message."""
    kind, text = DONE, ""
    try:
        for piece in decode_pieces(data, limits):
            content = piece.tobytes()
            to.write(MESSAGE.pack(PIECE, len(content)) + content)
    except OutOfMemoryError as error:
        kind, text = OUT_OF_MEMORY, str(error)
    except TooLongError as error:
        kind, text = TOO_LONG, str(error)
    except AudioError as error:
        kind, text = REFUSED, str(error)
    except MemoryError:
        kind, text = OUT_OF_MEMORY, "audio bytes: takes more memory to decode than it may"
    except OSError:
        raise  # the service is gone
    except Exception:
        kind, text = FAILED, traceback.format_exc()
    content = text.encode(errors="replace")[:10_000]
    to.write(MESSAGE.pack(kind, len(content)) + content)
    to.flush()
    return kind


def main() -> None:
    """Answer until standard input ends."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # the service finishes what it took on, then closes the pipe
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)  # what a library prints is no answer
    limit_memory(MEMORY + int(sys.argv[1]))
    answers.write(MESSAGE.pack(READY, 0))
    answers.flush()
    while line := requests.readline():
        size, max_seconds, decode_s = json.loads(line)
        data = requests.read(size)
        if len(data) < size:
            return
        limits = Limits(size, max_seconds, decode_s if decode_s is not None else float("inf"))
        if answer(data, limits, answers) == OUT_OF_MEMORY:
            return


if __name__ == "__main__":
    main()

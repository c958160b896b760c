"""Archives from outside: bounded before anything is written, and unpacked whole or not at all."""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from whisper_router.errors import UserError
from whisper_router.files import replacing_folder

UNPACKED_BYTES = 2**36  # 64 GiB: the largest archive of LibriSpeech, train-other-500, has 30 GB
MEMBERS = 500_000  # all parts of LibriSpeech together have 300,000
HEADER_BYTES = 8192  # of one member: a name and its attributes; tarfile holds them in memory
CHUNK_BYTES = 2**20
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


class _Headers:
    """A stream for ``TarFile`` that bounds what is read for one member's header."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = HEADER_BYTES
        self.last = b""  # what was read last

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"a header of over {HEADER_BYTES} bytes at byte {self.tell()}")
        self.last = self._file.read(size)
        return self.last

    def seek(self, place: int) -> int:
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()


def _fault(member: tarfile.TarInfo) -> str | None:
    """Why a member is not written."""
    name = PurePosixPath(member.name)
    if not (member.isdir() or (member.type in PLAIN and not member.issparse())):
        return "is neither a file nor a folder but a link, a device or a file with holes"
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        return "names a place outside the archive's own folder"
    if member.size < 0 or (member.isfile() and not name.parts):
        return "has no name or no size"
    return None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield raw


def _members(path: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The members in their order, each refused before the next is looked for."""
    headers: Any = _Headers(file)
    archive = tarfile.TarFile(fileobj=headers)
    members = size = 0
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # else it keeps all of them
        headers.left = HEADER_BYTES
        fault = _fault(member)
        if fault:
            raise UserError(
                f"{path}: its member {member.name[:200]!r} {fault}; nothing was unpacked: fetch the archive "
                "again from its source, or unpack it yourself and name the folder"
            )
        members, size = members + 1, size + member.size
        if members > MEMBERS or size > UNPACKED_BYTES:
            raise UserError(
                f"{path}: over {MEMBERS} members or {UNPACKED_BYTES / 2**30:g} GiB when unpacked, at member "
                f"{member.name[:200]!r}; nothing was unpacked: unpack it yourself and name the folder"
            )
        yield member
    if headers.last.strip(b"\0"):  # tarfile takes a damaged header for the end
        raise tarfile.ReadError(f"a damaged header at byte {archive.offset}")


def _copy(file: IO[bytes], member: tarfile.TarInfo, target: Path) -> None:
    """Write one member: as many bytes as its header says, to a file that is new."""
    file.seek(member.offset_data)
    left = member.size
    with target.open("xb") as made:
        while left:
            data = file.read(min(left, CHUNK_BYTES))
            if not data:
                raise tarfile.ReadError(f"the member {member.name[:200]!r} ends {left} bytes early")
            made.write(data)
            left -= len(data)


def unpack(path: Path, into: Path) -> None:
    """Unpack a .tar or .tar.gz of files and folders into the place of a folder, whole or not at all.

    Raises
    ------
    UserError
        Another kind of file, damaged, with a link or a name that leads elsewhere, over ``MEMBERS`` or
        ``UNPACKED_BYTES``, or larger than the disk's room; ``into`` stays as it was.
    """
    try:
        with _opened(path) as file:
            size = sum(member.size for member in _members(path, file))
        into.parent.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(into.parent).free
        if size > room:
            raise UserError(
                f"{path}: {size / 2**30:.1f} GiB when unpacked, and {into.parent} has room for "
                f"{room / 2**30:.1f} GiB; make room, or unpack it elsewhere and name the folder"
            )
        with _opened(path) as file, replacing_folder(into) as made:
            for member in _members(path, file):
                target = made / member.name
                (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
                if member.isfile():
                    _copy(file, member, target)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as .tar or .tar.gz ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be unpacked into {into}: {error}") from error

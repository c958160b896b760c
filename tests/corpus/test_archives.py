"""Archives are unpacked whole or not at all, and nothing outside their folder is touched."""

import gzip
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from whisper_router.corpus import archives
from whisper_router.corpus.archives import unpack
from whisper_router.errors import UserError

FILES = {"LibriSpeech/dev-clean/1/1/1-1.trans.txt": b"1-1-0000 WORDS\n", "LibriSpeech/README": b"x" * 3000}


def file(name: str, data: bytes = b"data", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = len(data) if kind == tarfile.REGTYPE else 0
    return member, data


def archive(path: Path, *members: tuple, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as made:
        for member, data in members:
            made.addfile(member, io.BytesIO(data))
    return path


def good(path: Path, mode: str = "w:gz") -> Path:
    return archive(path, *(file(name, data) for name, data in FILES.items()), mode=mode)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder that holds an archive's target, and a file that nothing may change."""
    (tmp_path / "victim.txt").write_text("as it was")
    return tmp_path


def refused(path: Path, folder: Path, said: str) -> None:
    """The archive is refused with the reason, and the folder is as it was."""
    before = contents(folder)
    with pytest.raises(UserError, match=said) as caught:
        unpack(path, folder / "made")
    assert str(caught.value).startswith(f"{path}: ")
    assert contents(folder) == before
    assert not [name for name in folder.iterdir() if name.name.startswith(".made")]


@pytest.mark.parametrize(("name", "mode"), [("a.tar.gz", "w:gz"), ("a.tar", "w:")])
def test_an_archive_replaces_what_was_unpacked_before(name, mode, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old").touch()
    unpack(good(tmp_path / name, mode), tmp_path / "made")
    assert contents(tmp_path / "made") == FILES


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
def test_other_compressions_are_refused(mode, victim):
    refused(good(victim / "a.tar.any", mode), victim, r"not readable as \.tar or \.tar\.gz")


@pytest.mark.parametrize(
    ("name", "kind", "link", "said"),
    [
        ("a/link", tarfile.SYMTYPE, "victim.txt", "'a/link' is neither a file nor a folder but a link"),
        ("hard", tarfile.LNKTYPE, "../victim.txt", "'hard' is neither"),
        ("device", tarfile.CHRTYPE, "", "'device' is neither"),
        ("pipe", tarfile.FIFOTYPE, "", "'pipe' is neither"),
        ("sparse", tarfile.GNUTYPE_SPARSE, "", "'sparse' is neither"),
        ("../victim.txt", tarfile.REGTYPE, "", r"'\.\./victim\.txt' names a place outside"),
        ("a/../../victim.txt", tarfile.REGTYPE, "", "names a place outside"),
        ("/etc/victim.txt", tarfile.REGTYPE, "", "'/etc/victim.txt' names a place outside"),
        ("../folder", tarfile.DIRTYPE, "", "names a place outside"),
    ],
)
def test_a_member_that_leads_elsewhere_refuses_the_archive_by_its_name(name, kind, link, said, victim):
    path = archive(victim / "a.tar.gz", file("first"), file(name, b"evil", kind, link))
    refused(path, victim, f"its member .*{said}.*nothing was unpacked: fetch the archive again")


def test_a_chain_of_links_writes_nothing_outside(victim):
    """Each link alone stays inside for os.path.realpath, which gives up on a path that is too long."""
    steps, folder, members = "abcdefghijklmnop", "d" * 247, []
    place = ""
    for step in steps:
        members.append(file(f"{place}{folder}", kind=tarfile.DIRTYPE))
        members.append(file(f"{place}{step}", kind=tarfile.SYMTYPE, link=folder))
        place += f"{folder}/"
    through = "/".join(steps)
    members += [
        file(f"{through}/{'l' * 254}", kind=tarfile.SYMTYPE, link="../" * len(steps)),
        file("escape", kind=tarfile.SYMTYPE, link=f"{through}/{'l' * 254}/.."),
        file("hard", kind=tarfile.LNKTYPE, link="escape/victim.txt"),
        file("hard", b"overwritten"),
        file("escape/new.txt", b"written"),
    ]
    refused(archive(victim / "chain.tar.gz", *members), victim, "its member 'a' is neither a file")


def test_members_and_bytes_are_counted_before_anything_is_written(victim, monkeypatch):
    path = good(victim / "a.tar.gz")
    monkeypatch.setattr(archives, "_copy", None)  # nothing may be written
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MEMBERS", 1)
        refused(path, victim, "over 1 members or .*, at member 'LibriSpeech/README'")
    monkeypatch.setattr(archives, "UNPACKED_BYTES", 3000)
    refused(path, victim, "at member 'LibriSpeech/README'; nothing was unpacked: unpack it yourself")


def test_a_header_that_promises_a_petabyte_is_refused_at_once(victim):
    member, _ = file("huge")
    member.size = 2**50
    (victim / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(victim / "a.tar", victim, "over 500000 members or 64 GiB when unpacked, at member 'huge'")


def test_an_archive_larger_than_the_disk_is_refused(victim, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    refused(good(victim / "a.tar"), victim, "has room for 0.0 GiB; make room")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_gigabytes_is_not_read_into_memory(kind, victim):
    member = tarfile.TarInfo("name")
    member.type, member.size = kind, 2**33 - 512
    with gzip.open(victim / "a.tar.gz", "wb") as made:
        made.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(2**20))
    refused(victim / "a.tar.gz", victim, "a header of over 8192 bytes")


def test_a_damaged_header_is_not_the_archive_s_end(victim):
    data = bytearray(good(victim / "a.tar", "w:").read_bytes())
    data[1024 + 10] ^= 255
    (victim / "a.tar").write_bytes(data)
    refused(victim / "a.tar", victim, "a damaged header at byte 1024")


@pytest.mark.parametrize("left", [100, 700, 1500, 4000])
def test_an_archive_that_was_cut_short_leaves_nothing(left, victim):
    path = good(victim / "a.tar", "w:")
    path.write_bytes(path.read_bytes()[:left])
    refused(path, victim, "not readable as|ends .* early")


def test_a_name_that_stands_twice_or_is_too_long_leaves_nothing(victim):
    refused(archive(victim / "a.tar", file("one"), file("one"), mode="w"), victim, "cannot be unpacked into")
    refused(archive(victim / "b.tar", file("n" * 300), mode="w"), victim, "cannot be unpacked into")
    refused(archive(victim / "c.tar", file("one"), file("one/two"), mode="w"), victim, "cannot be unpacked")

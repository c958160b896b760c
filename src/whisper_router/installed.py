"""Which whisper-router a project of `whisper-router init` runs: whisper-router.version, requirements.lock.

A clone's dvc.yaml names the source files that each stage imports. A project that init made does not hold
them, so each of its stages depends on one file instead, whisper-router.version: the version and a hash of the
installed package's files. A version alone is not enough, because code that is installed from a branch changes
under an unchanged version. One file for all stages makes a new package run every stage again, but the
content store keeps what is expensive, by the code that computed it. Both files are committed, so an audit
finds the code and the environment of a version without the source.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from whisper_router.errors import UserError
from whisper_router.files import read_json, write_json, write_text
from whisper_router.hashing import digest, file_sha256

NAME = "whisper-router"
VERSION = Path("whisper-router.version")
REQUIREMENTS = Path("requirements.lock")
EXTRAS = ("fast", "hf", "track")


def package_files(package: Path) -> dict[str, str]:
    """SHA-256 of each file of a copy of this package, by its path; what Python compiled is left out."""
    files = [path for path in package.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {path.relative_to(package).as_posix(): file_sha256(path) for path in sorted(files)}


def installed() -> dict[str, str]:
    """Version and hash of the package that is running: what whisper-router.version holds."""
    return {"version": version(NAME), "sha256": digest(package_files(Path(__file__).parent))}


def requirements() -> list[str]:
    """Pins of the installed packages that this one needs, by itself or through others."""
    pins: dict[str, str] = {}
    todo = [(NAME, extra) for extra in ("", *EXTRAS)]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        pins[canonicalize_name(name)] = f"{found.metadata['Name']}=={found.version.split('+')[0]}"
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                for needed in ((requirement.name, wanted) for wanted in ("", *requirement.extras)):
                    if needed not in seen:
                        seen.add(needed)
                        todo.append(needed)
    return [pins[name] for name in sorted(pins)]


def write_installed(project: Path) -> None:
    """Write both files into a project's folder; files that are right already stay as they are."""
    found, pins = installed(), "".join(f"{pin}\n" for pin in requirements())
    if not (project / VERSION).is_file() or read_json(project / VERSION) != found:
        write_json(project / VERSION, found)
    if not (project / REQUIREMENTS).is_file() or (project / REQUIREMENTS).read_text() != pins:
        write_text(project / REQUIREMENTS, pins)


def refresh() -> None:
    """Name the installed package anew in a project that init made; a clone is left alone."""
    if not VERSION.is_file():
        return
    before = read_json(VERSION)
    write_installed(Path())
    if read_json(VERSION) != before:
        print(
            f"{VERSION}: another {NAME} is installed than the last run had (now {version(NAME)}); all stages "
            "run again, what the content store has is kept. Commit it with dvc.lock.",
            file=sys.stderr,
        )


def check_installed(project: Path = Path()) -> None:
    """Refuse to run a project that init made with another package than it names.

    Raises
    ------
    UserError
        The installed package differs; the message says what to do.
    """
    path = project / VERSION
    if path.is_file() and (named := read_json(path)) != (found := installed()):
        raise UserError(
            f"{path} names {NAME} {named.get('version')} ({named.get('sha256', '')[:12]}), installed is "
            f"{found['version']} ({found['sha256'][:12]}); install that one, or let `whisper-router run` "
            "take the installed one and commit what it writes"
        )

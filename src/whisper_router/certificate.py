"""An audit on one page that needs nothing else: HTML or Markdown, by the file's suffix."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2

from whisper_router.audited import Link
from whisper_router.errors import UserError
from whisper_router.files import write_text

SUFFIXES = (".html", ".md")
MARKDOWN = r"([\\`*_{}\[\]<>()#|&!~])"


@dataclass(frozen=True)
class Audit:
    """What an audit has found."""

    title: str
    verdict: str  # a word: holds, BROKEN, UNCOMMITTED
    said: str  # the verdict in a sentence
    date: str  # UTC, ISO 8601
    commit: str
    hashes: dict[str, str]
    signature: str
    links: Sequence[Link]  # the gravest first


def check_suffix(path: Path) -> None:
    """Refuse another kind of page before the audit takes its time.

    Raises
    ------
    UserError
        Neither .html nor .md.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"--report {path}: name a file that ends in .html or .md")


def write_certificate(path: Path, audit: Audit) -> None:
    """Write the page, whole or not at all."""
    check_suffix(path)
    html = path.suffix == ".html"
    environment = jinja2.Environment(
        autoescape=html, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["md"] = _escape
    name = "certificate.html" if html else "certificate.md"
    source = files("whisper_router.report").joinpath(name).read_text()
    write_text(path, environment.from_string(source).render(audit=audit))


def _escape(text: str) -> str:
    """Text of a cell of a Markdown table, with nothing that Markdown or HTML would act on."""
    return re.sub(MARKDOWN, r"\\\1", " ".join(text.split()))

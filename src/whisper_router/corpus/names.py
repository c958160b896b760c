"""Names of speakers, utterances and files: one name written in two ways is one name, or is warned of."""

import os
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
SHOWN = 10  # look-alikes that a warning lists
REMEDIES = {
    "speaker": "If they are one person, write them alike: else one voice may be in train and in test",
    "id": "If they are one utterance, leave one out; else give it another id",
}


def composed(name: str) -> str:
    """The name in NFC."""
    return unicodedata.normalize("NFC", name)


def speaker_name(name: str | None) -> str | None:
    """A speaker as the manifest names it: in NFC, without blanks around it; None where nothing is left."""
    return composed(name).strip() or None if name else None


def on_disk(path: Path) -> Path:
    """The file that a path means: disks and archives keep ``é`` as one character (NFC) or as two (NFD).

    Returns
    -------
    Path
        The path itself where there is such a file, or none in another form either.
    """
    if str(path).isascii() or os.path.exists(path):
        return path
    parent = on_disk(path.parent)
    names = (path.name, *(unicodedata.normalize(form, path.name) for form in FORMS))
    return next((parent / name for name in names if os.path.exists(parent / name)), path)


def audio_on_disk(audio: str) -> str:
    """The audio of a row as its file is called."""
    return audio if audio.isascii() else on_disk(Path(audio)).as_posix()


def _looks(name: str) -> str:
    """What stays of a name whose case, width, normal form, blanks and unseen characters do not count."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    return " ".join(seen.split())


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Different names that differ only in case, width or normal form, in blanks or unseen characters."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(_looks(name), set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def warn_of_look_alikes(rows: Iterable[Mapping[str, Any]]) -> None:
    """Warn of speakers of one corpus, and of ids, that differ only in how they are written."""
    rows = list(rows)
    speakers: dict[str, set[str]] = {}
    for row in rows:
        if row["speaker"] is not None:
            speakers.setdefault(row["corpus"], set()).add(row["speaker"])
    for corpus, names in sorted(speakers.items()):
        _warn("speaker", look_alikes(names), f"corpus {corpus}: ")
    _warn("id", look_alikes(row["id"] for row in rows), "")


def _warn(what: str, found: list[tuple[str, ...]], where: str) -> None:
    if not found:
        return
    listed = "; ".join(" and ".join(map(ascii, names)) for names in found[:SHOWN])
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    warnings.warn(
        f"{where}{what}s that differ only in case, width or normal form count as different: {listed}{more}. "
        f"{REMEDIES[what]}",
        stacklevel=3,
    )

"""Utterances of a table that a benchmark runs on: as many of each corpus, the same ones each time."""

from dataclasses import dataclass
from pathlib import Path

from whisper_router.audio import MAX_SECONDS, WINDOW_S, Audio, cut
from whisper_router.corpus.tables import Row, manifest_rows, read_table, renamed
from whisper_router.decode import load_audio
from whisper_router.errors import UserError
from whisper_router.hashing import unit_interval
from whisper_router.paths import MANIFEST
from whisper_router.scoring import has_words


@dataclass(frozen=True)
class Clip:
    """An utterance with its reference."""

    id: str
    corpus: str
    speaker: str
    text: str
    audio: Audio


def _load(row: Row) -> Audio:
    whole = load_audio(row["audio"])
    return whole if row["offset_s"] is None else cut(whole, row["offset_s"], row["duration_s"] or MAX_SECONDS)


def draw(table: Path, count: int, seed: int) -> list[Clip]:
    """Draw ``count`` utterances by a hash of their ids, in equal parts from each corpus.

    Utterances without words or over 30 s are passed over. Audio is named from the table's folder, in the
    project's own manifest from the project's.

    Raises
    ------
    UserError
        The table has fewer usable utterances of a corpus.
    """
    base = Path() if table.resolve() == MANIFEST.resolve() else table.parent
    rows = manifest_rows(renamed(read_table(table), base, {}), table.stem, None, 0)
    corpora = sorted({str(row["corpus"]) for row in rows})
    each = -(-count // len(corpora))
    chosen: list[Clip] = []
    for corpus in corpora:
        found: list[Clip] = []
        mine = [row for row in rows if row["corpus"] == corpus and has_words(row["text"])]
        for row in sorted(mine, key=lambda row: unit_interval(str(seed), row["id"])):
            if len(found) == min(each, count - len(chosen)):
                break
            audio = _load(row)
            if audio.size <= WINDOW_S * 16_000:
                found.append(Clip(row["id"], corpus, str(row["speaker"]), row["text"], audio))
        if len(found) < min(each, count - len(chosen)):
            raise UserError(
                f"{table}: {corpus} has {len(found)} usable utterances, not {each}; ask for fewer"
            )
        chosen += found
    return chosen

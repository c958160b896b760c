"""What a corpus holds, before anything is transcribed: columns, bad rows, hours, speakers and splits.

Rows are read, examined and divided by what ingest does. The audio of a large corpus is examined for a while
alone, in an order drawn by a hash; the rest counts at the share that was good, and ingest finds in the
content store what was examined.
"""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from whisper_router.corpus.formats import FORMATS
from whisper_router.corpus.ingest import COLUMNS as MANIFEST_COLUMNS
from whisper_router.corpus.ingest import Bad, examine, into_splits, to_manifest, usable
from whisper_router.corpus.names import on_disk, warn_of_look_alikes
from whisper_router.corpus.options import COLUMNS, FOLDS, SPLITS, Corpus, IngestOptions
from whisper_router.corpus.tables import Row, manifest_rows
from whisper_router.decode import Limits
from whisper_router.environment import cores
from whisper_router.errors import UserError
from whisper_router.findings import Finding, left_out
from whisper_router.hashing import unit_interval
from whisper_router.params import PARAMS, load_yaml
from whisper_router.paths import MANIFEST, REJECTED
from whisper_router.scoring import normalise
from whisper_router.store import ContentStore

EXAMINE_S = 6.0  # seconds that decoding the audio of a corpus may take
MOST_EXAMINED = 5_000  # rows
HEAD_ROWS = 1_000  # that say which columns a corpus has
LOCK = Path("dvc.lock")

ABSENT = {
    "id": "the audio's path is the id",
    "speaker": "each recording counts as a speaker of its own",
    "split": "divided by speaker",
    "language": "en",
}


@dataclass(frozen=True)
class SplitSize:
    """What a split will hold; of a corpus that was examined in part, about so much."""

    utterances: int
    speakers: int
    hours: float | None
    words: int


@dataclass(frozen=True)
class CorpusCheck:
    """What a corpus holds.

    Attributes
    ----------
    columns : mapping
        The columns that were found, each with what it was taken to mean; a tag is kept and not read.
    absent : mapping
        Columns that were not found, each with what stands in for it.
    rows, examined, good : int
        In all; whose text and audio were examined; that will be in the manifest.
    bad : tuple of Finding
        Rows that will be left out, by kind, with the first of them.
    utterances : DataFrame
        The rows that will be in the manifest, with ``weight``, how many rows of the corpus one stands for,
        and ``examined``.
    """

    corpus: Corpus
    columns: Mapping[str, str]
    absent: Mapping[str, str]
    rows: int
    examined: int
    good: int
    bad: tuple[Finding, ...]
    speakers: int
    hours: float | None
    splits: Mapping[str, SplitSize]
    notes: tuple[str, ...]
    utterances: pd.DataFrame = field(repr=False, compare=False)

    @property
    def tested(self) -> str:
        """Of which rows the figures will be: the split for the test, or all in folds."""
        return FOLDS if FOLDS in self.splits else "test"

    @property
    def is_partial(self) -> bool:
        """Whether the figures are estimates from some of the rows."""
        return self.examined < self.rows

    def as_json(self) -> dict[str, Any]:
        """All but the rows themselves."""
        found = {name: getattr(self, name) for name in ("rows", "examined", "good", "speakers", "hours")}
        return {
            "corpus": self.corpus.model_dump(exclude_defaults=True),
            "columns": dict(self.columns),
            "absent": dict(self.absent),
            **found,
            "bad": [asdict(finding) for finding in self.bad],
            "splits": {name: asdict(size) for name, size in self.splits.items()},
            "notes": list(self.notes),
        }


def check_corpus(
    corpus: Corpus,
    options: IngestOptions,
    store: ContentStore,
    cross_validate_below: int,
    seconds: float = EXAMINE_S,
    most: int = MOST_EXAMINED,
) -> CorpusCheck:
    """Say what a corpus holds.

    Parameters
    ----------
    cross_validate_below : int
        Fewer utterances than that are not divided into splits.
    seconds : float
        How long audio may be decoded.
    most : int
        Rows that are examined at most.

    Raises
    ------
    UserError
        The corpus cannot be read, lacks a column, or is an archive, which ingest unpacks first.
    """
    path = on_disk(Path(options.root) / corpus.path)
    if is_archive(corpus, options):
        raise UserError(f"{path}: an archive, which only ingest unpacks; unpack it, and name its folder")
    raw = FORMATS[corpus.kind](path, corpus, path)
    columns, absent = _columns(raw, corpus)
    rows = manifest_rows(raw, corpus.name, corpus.utterances, corpus.seed)
    outcomes = _examined(rows, corpus, options, store, seconds, most)
    with _noted() as notes:
        kept, rejected = usable(rows, _with_guesses(rows, outcomes))
        whole = len(outcomes) == len(rows)
        if kept and whole:
            warn_of_look_alikes(kept)
        manifest = pd.DataFrame(columns=[*MANIFEST_COLUMNS, "weight", "examined"])
        if kept:
            manifest = to_manifest(kept, options)
            texts = manifest["text"].map(normalise if whole else _plain)
            texts = texts.mask(texts == "", manifest["id"])
            below = cross_validate_below if whole else 0
            manifest, beside, said = into_splits(manifest, options, texts, below)
            notes += said
            rejected = rejected + beside
    if "speaker" in absent and kept:
        notes.append("no row names a speaker; splits and intervals go by speakers: name them if you can")
    lacking = [theirs for theirs in corpus.columns.values() if theirs not in columns]
    if lacking:
        notes.append(f"no row has {', '.join(lacking)}, which columns names")
    names = (FOLDS,) if (manifest["split"] == FOLDS).any() else SPLITS
    splits = {name: _size(manifest, name) for name in names}
    empty = [name for name, size in splits.items() if not size.utterances]
    if kept and empty:
        notes.append(f"nothing falls into {' and '.join(empty)}, and `run` needs all four: add speakers")
    whole_size = _size(manifest, None)
    return CorpusCheck(
        corpus=corpus,
        columns=columns,
        absent=absent,
        rows=len(rows),
        examined=len(outcomes),
        good=whole_size.utterances,
        bad=tuple(left_out([asdict(row) for row in rejected])),
        speakers=whole_size.speakers,
        hours=whole_size.hours,
        splits=splits,
        notes=tuple(notes),
        utterances=manifest,
    )


def _columns(rows: Sequence[Row], corpus: Corpus) -> tuple[dict[str, str], dict[str, str]]:
    """Columns that were found with their meaning, and those that were not with what stands in for them."""
    head = [row for row in rows if "fault" not in row][:HEAD_ROWS]
    names = [name for name in dict.fromkeys(key for row in head for key in row) if name != "named"]
    found = {}
    for name in sorted(names, key=lambda name: COLUMNS.index(name) if name in COLUMNS else len(COLUMNS)):
        meaning = {"duration": "duration_s", "corpus": "corpus", "tags": "tags"}.get(name, "tag")
        found[corpus.columns.get(name, name)] = name if name in COLUMNS else meaning
    return found, {name: meaning for name, meaning in ABSENT.items() if name not in names}


def _examined(
    rows: Sequence[Row],
    corpus: Corpus,
    options: IngestOptions,
    store: ContentStore,
    seconds: float,
    most: int,
) -> dict[int, Row | Bad]:
    """Outcomes by row, recording by recording in an order drawn by a hash, until time or number is over."""
    recordings: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        recordings.setdefault(row["audio"], []).append(i)
    drawn: list[list[int]] = []
    left = most
    for audio in sorted(recordings, key=lambda audio: unit_interval("check", audio)):
        if left <= 0:
            break
        drawn.append(recordings[audio][:left])
        left -= len(drawn[-1])
    end = time.monotonic() + seconds

    def look(group: list[int]) -> list[Row | Bad]:
        remaining = end - time.monotonic()
        if remaining <= 0:
            return []
        found = examine([(corpus, rows[i]) for i in group], options, store, Limits(decode_s=remaining))
        return found if time.monotonic() < end else []  # what was cut short is not bad

    outcomes: dict[int, Row | Bad] = {}
    with ThreadPoolExecutor(cores()) as pool:
        for group, found in zip(drawn, pool.map(look, drawn), strict=True):
            outcomes |= zip(group, found, strict=False)
    return outcomes


def _with_guesses(rows: Sequence[Row], outcomes: Mapping[int, Row | Bad]) -> list[Row | Bad]:
    """The outcomes in the order of the rows; rows that were not examined as those that were, on average."""
    good = [outcome for outcome in outcomes.values() if not isinstance(outcome, Bad)]
    lines = sum(isinstance(outcome, Bad) and outcome.kind == "line" for outcome in outcomes.values())
    share = len(good) / (len(outcomes) - lines) if len(outcomes) > lines else 1.0
    mean = sum(row["duration_s"] for row in good) / len(good) if good else float("nan")
    result: list[Row | Bad] = []
    for i, row in enumerate(rows):
        outcome = outcomes.get(i)
        if isinstance(outcome, Bad):
            result.append(outcome)
        elif outcome is not None:
            result.append({**outcome, "weight": 1.0, "examined": True})
        elif row.get("fault"):
            result.append(Bad("line", row["fault"]))
        else:
            stated = row["duration_s"]
            guess = {
                "duration_s": stated if isinstance(stated, float) else mean,
                "sha256": f"row {i}",
                "weight": share,
                "examined": False,
            }
            result.append({**row, **guess})
    return result


def _plain(text: str) -> str:
    """A text as it is compared in a corpus that is too large to normalise within seconds."""
    return " ".join(text.casefold().split())


def _size(manifest: pd.DataFrame, split: str | None) -> SplitSize:
    """What a split, or all of them, holds."""
    rows = manifest if split is None else manifest[manifest["split"] == split]
    if rows.empty:
        return SplitSize(0, 0, 0.0, 0)
    hours = float((rows["duration_s"] * rows["weight"]).sum(skipna=False)) / 3600
    words = rows["text"].str.split().str.len() * rows["weight"]
    return SplitSize(
        utterances=round(rows["weight"].sum()),
        speakers=rows["speaker"].nunique(),
        hours=round(hours, 3) if hours == hours else None,
        words=round(words.sum()),
    )


@contextmanager
def _noted() -> Iterator[list[str]]:
    """The texts of warnings, instead of lines of code on standard error."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning)


def is_archive(corpus: Corpus, options: IngestOptions) -> bool:
    """Whether ingest must unpack the corpus before it can be read."""
    return corpus.kind == "librispeech" and on_disk(Path(options.root) / corpus.path).is_file()


def is_ingested(options: IngestOptions) -> bool:
    """Whether the manifest is that of these corpora: of the same params, and younger than all tables."""
    if not (MANIFEST.is_file() and REJECTED.is_file() and LOCK.is_file()):
        return False
    locked: Any = load_yaml(LOCK, str(LOCK))
    for key in ("stages", "ingest", "params", str(PARAMS), "ingest"):
        locked = locked.get(key) if isinstance(locked, dict) else None
    if locked != load_yaml(PARAMS, str(PARAMS)).get("ingest"):
        return False
    made = MANIFEST.stat().st_mtime
    paths = [on_disk(Path(options.root) / corpus.path) for corpus in options.corpora]
    return all(path.exists() and path.stat().st_mtime <= made for path in paths)

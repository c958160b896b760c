"""Corpora -> manifest: every audio decoded once, every bad row named, every row given a split."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from whisper_router.audio import SAMPLE_RATE, SILENCE_DB, WINDOW_S, AudioError
from whisper_router.corpus.demo import make_demo
from whisper_router.corpus.formats import FORMATS
from whisper_router.corpus.names import composed, on_disk, warn_of_look_alikes
from whisper_router.corpus.options import Corpus, IngestOptions, Kind
from whisper_router.corpus.probe import Probe, Span, probe_recording
from whisper_router.corpus.splits import (
    PRIORITY,
    assign_splits,
    drop_in_other_corpus,
    drop_shared,
    text_keys,
)
from whisper_router.corpus.tables import Row, manifest_rows
from whisper_router.decode import Limits
from whisper_router.environment import cores
from whisper_router.errors import UserError
from whisper_router.files import write_text
from whisper_router.hashing import canonical_json
from whisper_router.progress import bar
from whisper_router.scoring import has_words, normalise
from whisper_router.store import ContentStore

COLUMNS = (
    "id",
    "audio",
    "offset_s",
    "duration_s",
    "text",
    "sample_rate",
    "sha256",
    "corpus",
    "speaker",
    "split",
    "language",
    "tags",
    "reference",
    "level_db",
    "clipped",
)

PROBED = ("duration_s", "sample_rate", "sha256", "level_db", "clipped")
LONGEST_S = 1e7  # seconds: no offset or duration is as long
DURATION_SLACK = (0.5, 0.05)  # seconds, share: how far a stated duration may be from the file's


@dataclass(frozen=True)
class Rejected:
    """A row that is not in the manifest, and why."""

    corpus: str
    id: str
    audio: str
    kind: Kind
    reason: str


class Bad(NamedTuple):
    """Why a row is left out."""

    kind: Kind
    reason: str


def _rows(corpus: Corpus, root: Path, audio_dir: Path) -> list[Row]:
    path = on_disk(root / corpus.path)
    if corpus.kind != "demo":
        rows = FORMATS[corpus.kind](path, corpus, audio_dir / corpus.name)
        return manifest_rows(rows, corpus.name, corpus.utterances, corpus.seed)
    spoken = make_demo(path, audio_dir / corpus.name, corpus.utterances or 1_000_000, corpus.seed)
    return [
        {
            **row,
            "corpus": corpus.name,
            "offset_s": None,
            "duration_s": None,
            "tags": canonical_json(row["tags"]),
        }
        for row in spoken
    ]


def _span(row: Row) -> Span | Bad:
    """Where in its recording a row lies. Without an offset it is the whole recording."""
    offset, length = row["offset_s"], row["duration_s"]
    for name, value, low in (("offset_s", offset, 0.0), ("duration_s", length, 1 / SAMPLE_RATE)):
        if value is not None and not (isinstance(value, float) and low <= value < LONGEST_S):
            return Bad("span", f"{name} {value!r} is not a number of seconds")
    return (0.0, None) if offset is None else (offset, length)


def _text_fault(row: Row, corpus: Corpus) -> Bad | None:
    if row.get("fault"):
        return Bad("line", row["fault"])
    if corpus.takes_untold and not row["text"].strip():
        return None
    words = len(normalise(row["text"]).split())
    if not has_words(row["text"]):
        return Bad("text", f"text {row['text']!r} is empty after normalisation")
    if words < corpus.fewest_words:
        return Bad("text", f"text {row['text']!r} has fewer than min_words: {corpus.fewest_words}")
    return None


def _audio_fault(row: Row, probe: Probe, corpus: Corpus, options: IngestOptions) -> Bad | None:
    offset, stated, duration = row["offset_s"], row["duration_s"], probe.duration_s
    if offset is None and stated is not None:
        slack, share = DURATION_SLACK
        if abs(stated - duration) > max(slack, share * duration):
            remedy = "correct it, or give offset_s: 0 for a segment"
            return Bad("span", f"states duration_s {stated:.2f}, the audio lasts {duration:.2f} s; {remedy}")
    elif offset is not None and (duration == 0 or (stated is not None and duration < stated - 0.1)):
        end = f"the audio's end at {probe.whole_s:.2f} s"
        return Bad("span", f"the segment from {offset:g} s goes beyond {end}")
    if not options.min_duration_s <= duration <= options.max_duration_s:
        bounds = f"{options.min_duration_s:g} to {options.max_duration_s:g} s"
        return Bad("length", f"duration {duration:.2f} s is outside ingest's bounds of {bounds}")
    longest = corpus.max_train_duration_s
    if longest and row["split"] == "train" and duration > longest:
        return Bad("length", f"duration {duration:.2f} s is over max_train_duration_s: {longest:g}")
    if probe.level_db < SILENCE_DB:
        return Bad("silent", f"silence: its level is {probe.level_db:.0f} dB of full scale")
    return None


def examine(
    rows: Sequence[tuple[Corpus, Row]],
    options: IngestOptions,
    store: ContentStore,
    limits: Limits = Limits(),
) -> list[Row | Bad]:
    """The rows of one recording with what its audio says, or the reason to reject them."""
    path = rows[0][1]["audio"]
    spans = [_text_fault(row, corpus) or _span(row) for corpus, row in rows]
    if not path:
        spans = [span if isinstance(span, Bad) else Bad("audio", "names no audio") for span in spans]
    wanted = [span for span in spans if not isinstance(span, Bad)]
    try:
        probes = probe_recording(Path(path), wanted, store, limits) if wanted else {}
    except OSError as error:
        raise UserError(
            f"content store {store.root}: {error}; make room or mend it, and run again"
        ) from error
    except AudioError as error:
        unreadable = Bad("audio", str(error))
        return [span if isinstance(span, Bad) else unreadable for span in spans]
    result: list[Row | Bad] = []
    for (corpus, row), span in zip(rows, spans, strict=True):
        if isinstance(span, Bad):
            result.append(span)
            continue
        probe = probes[span]
        fault = _audio_fault(row, probe, corpus, options)
        said = {name: getattr(probe, name) for name in PROBED}
        result.append(fault or {**row, **said, "offset_s": span[0]})
    return result


def read_corpora(options: IngestOptions, audio_dir: Path) -> tuple[pd.DataFrame, list[Rejected]]:
    """Decode every utterance of the corpora once; what the content store knows of is not decoded again.

    Parameters
    ----------
    audio_dir : Path
        Where audio that is made here (the demo's) is written.

    Returns
    -------
    DataFrame
        ``COLUMNS``, the split as far as the corpora have official ones, sorted by id.
    list of Rejected
        Rows left out: bad audio or text, a duplicate id.

    Raises
    ------
    UserError
        No row is usable.
    """
    write_text(audio_dir / "README", "Speech that ingest made; the audio of tables stays where it is.\n")
    rows = [
        (corpus, row) for corpus in options.corpora for row in _rows(corpus, Path(options.root), audio_dir)
    ]
    recordings: dict[str, list[int]] = {}
    for i, (_, row) in enumerate(rows):
        recordings.setdefault(row["audio"], []).append(i)
    examined: dict[int, Row | Bad] = {}
    store = ContentStore()
    with (
        ThreadPoolExecutor(cores()) as pool,
        bar(len(rows), "ingest: decode") as shown,
    ):
        groups = list(recordings.values())
        for group, found in zip(
            groups,
            pool.map(lambda group: examine([rows[i] for i in group], options, store), groups),
            strict=True,
        ):
            examined |= zip(group, found, strict=True)
            shown.update(len(group))
    kept, rejected = usable([row for _, row in rows], [examined[i] for i in range(len(rows))])
    if not kept:
        reasons = "; ".join(f"{row.id}: {row.reason}" for row in rejected[:3])
        raise UserError(f"no usable utterance among {len(rows)} of ingest.corpora: {reasons}")
    warn_of_look_alikes(kept)
    return to_manifest(kept, options), rejected


def usable(rows: Sequence[Row], examined: Sequence[Row | Bad]) -> tuple[list[Row], list[Rejected]]:
    """Rows that are good and whose id stands first, and the others with the reason."""
    kept: dict[str, Row] = {}
    rejected: list[Rejected] = []
    for row, outcome in zip(rows, examined, strict=True):
        if not isinstance(outcome, Bad) and row["id"] in kept:
            outcome = Bad("duplicate", "duplicate id: the first is kept")
        if isinstance(outcome, Bad):
            rejected.append(Rejected(row["corpus"], row["id"], row["audio"], *outcome))
        else:
            kept[row["id"]] = outcome
    return list(kept.values()), rejected


def to_manifest(kept: Sequence[Row], options: IngestOptions) -> pd.DataFrame:
    """Good rows, sorted by id; a row without a speaker belongs to its recording."""
    manifest = pd.DataFrame(kept).sort_values("id", ignore_index=True)
    manifest["reference"] = ["text" if text.strip() else "strong" for text in manifest["text"]]
    recording = manifest["audio"].map(
        lambda path: composed(Path(os.path.relpath(path, options.root)).as_posix())
    )
    speaker = manifest["speaker"].where(manifest["speaker"].notna(), recording)  # else a group a recording
    manifest["speaker"] = manifest["corpus"] + "/" + speaker
    return manifest


def ingest(
    options: IngestOptions, audio_dir: Path, cross_validate_below: int = 0
) -> tuple[pd.DataFrame, list[Rejected]]:
    """Build the manifest: the corpora, each speaker in one split.

    Parameters
    ----------
    cross_validate_below : int
        Fewer utterances than that are not divided into splits.

    Returns
    -------
    DataFrame
        ``COLUMNS``, sorted by id. Rows over 30 s are in the test split alone.
    list of Rejected
        Rows left out: those of ``read_corpora``; texts, audio and speakers of another corpus that stand in a
        split of higher priority (of rows without a text nobody knows yet what is said); audio over 30 s in
        another split than test, since it has no label.
    """
    manifest, rejected = read_corpora(options, audio_dir)
    texts = text_keys(manifest)
    manifest, left_out, notes = into_splits(manifest, options, texts, cross_validate_below)
    for note in notes:
        print(f"ingest: {note}")
    return manifest.loc[:, list(COLUMNS)].reset_index(drop=True), rejected + left_out


def into_splits(
    manifest: pd.DataFrame, options: IngestOptions, texts: pd.Series, cross_validate_below: int
) -> tuple[pd.DataFrame, list[Rejected], list[str]]:
    """Give every row its split; leave out what must not stand there.

    Parameters
    ----------
    texts : Series
        What two rows have in common where their texts count as the same.
    cross_validate_below : int
        Fewer utterances than that are not divided into splits.

    Returns
    -------
    DataFrame
        The rows that are left, with their ``split``.
    list of Rejected
        The others.
    list of str
        What the user should know, as sentences.
    """
    splits, notes = assign_splits(manifest, options.splits, cross_validate_below)
    manifest = manifest.assign(split=splits)
    rejected: list[Rejected] = []

    def leave_out(rows: pd.Series, kind: Kind, reason: str) -> None:
        nonlocal manifest
        rejected.extend(
            Rejected(row.corpus, row.id, row.audio, kind, reason) for row in manifest[rows].itertuples()
        )
        manifest = manifest[~rows]

    long = (manifest["duration_s"] > WINDOW_S) & (manifest["split"] != "test")
    leave_out(
        long, "long", f"over {WINDOW_S:g} s: such rows have no label, and only the test split keeps them"
    )
    higher = f"a split of higher priority ({' > '.join(PRIORITY)})"
    namesake = f"its speaker's name stands in {higher} of another corpus; rename one if they are two people"
    leave_out(drop_in_other_corpus(manifest), "shared", namesake)
    for what, key in (("text", texts), ("audio", manifest["sha256"])):
        shared = drop_shared(manifest["split"], key.loc[manifest.index])
        leave_out(shared, "shared", f"its {what} also stands in {higher}")
    return manifest, rejected, notes

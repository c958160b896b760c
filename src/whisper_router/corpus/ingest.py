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
from whisper_router.corpus.splits import PRIORITY, assign_splits, drop_shared
from whisper_router.corpus.tables import Row, manifest_rows
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


class _Bad(NamedTuple):
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


def _span(row: Row) -> Span | _Bad:
    """Where in its recording a row lies. Without an offset it is the whole recording."""
    offset, length = row["offset_s"], row["duration_s"]
    for name, value, low in (("offset_s", offset, 0.0), ("duration_s", length, 1 / SAMPLE_RATE)):
        if value is not None and not (isinstance(value, float) and low <= value < LONGEST_S):
            return _Bad("span", f"{name} {value!r} is not a number of seconds")
    return (0.0, None) if offset is None else (offset, length)


def _text_fault(row: Row, corpus: Corpus) -> _Bad | None:
    if row.get("fault"):
        return _Bad("line", row["fault"])
    words = len(normalise(row["text"]).split())
    if not has_words(row["text"]):
        return _Bad("text", f"text {row['text']!r} is empty after normalisation")
    if words < corpus.fewest_words:
        return _Bad("text", f"text {row['text']!r} has fewer than min_words: {corpus.fewest_words}")
    return None


def _audio_fault(row: Row, probe: Probe, corpus: Corpus, options: IngestOptions) -> _Bad | None:
    offset, stated, duration = row["offset_s"], row["duration_s"], probe.duration_s
    if offset is None and stated is not None:
        slack, share = DURATION_SLACK
        if abs(stated - duration) > max(slack, share * duration):
            remedy = "correct it, or give offset_s: 0 for a segment"
            return _Bad("span", f"states duration_s {stated:.2f}, the audio lasts {duration:.2f} s; {remedy}")
    elif offset is not None and (duration == 0 or (stated is not None and duration < stated - 0.1)):
        end = f"the audio's end at {probe.whole_s:.2f} s"
        return _Bad("span", f"the segment from {offset:g} s goes beyond {end}")
    if not options.min_duration_s <= duration <= options.max_duration_s:
        bounds = f"{options.min_duration_s:g} to {options.max_duration_s:g} s"
        return _Bad("length", f"duration {duration:.2f} s is outside ingest's bounds of {bounds}")
    longest = corpus.max_train_duration_s
    if longest and row["split"] == "train" and duration > longest:
        return _Bad("length", f"duration {duration:.2f} s is over max_train_duration_s: {longest:g}")
    if probe.level_db < SILENCE_DB:
        return _Bad("silent", f"silence: its level is {probe.level_db:.0f} dB of full scale")
    return None


def _examine(
    rows: Sequence[tuple[Corpus, Row]], options: IngestOptions, store: ContentStore
) -> list[Row | _Bad]:
    """The rows of one recording with what its audio says, or the reason to reject them."""
    path = rows[0][1]["audio"]
    spans = [_text_fault(row, corpus) or _span(row) for corpus, row in rows]
    if not path:
        spans = [span if isinstance(span, _Bad) else _Bad("audio", "names no audio") for span in spans]
    wanted = [span for span in spans if not isinstance(span, _Bad)]
    try:
        probes = probe_recording(Path(path), wanted, store) if wanted else {}
    except OSError as error:
        raise UserError(
            f"content store {store.root}: {error}; make room or mend it, and run again"
        ) from error
    except AudioError as error:
        unreadable = _Bad("audio", str(error))
        return [span if isinstance(span, _Bad) else unreadable for span in spans]
    result: list[Row | _Bad] = []
    for (corpus, row), span in zip(rows, spans, strict=True):
        if isinstance(span, _Bad):
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
    examined: dict[int, Row | _Bad] = {}
    store = ContentStore()
    with (
        ThreadPoolExecutor(cores()) as pool,
        bar(len(rows), "ingest: decode") as shown,
    ):
        groups = list(recordings.values())
        for group, found in zip(
            groups,
            pool.map(lambda group: _examine([rows[i] for i in group], options, store), groups),
            strict=True,
        ):
            examined |= zip(group, found, strict=True)
            shown.update(len(group))
    rejected: list[Rejected] = []
    kept: dict[str, Row] = {}
    for i, (_, row) in enumerate(rows):
        outcome = examined[i]
        if not isinstance(outcome, _Bad) and row["id"] in kept:
            outcome = _Bad("duplicate", "duplicate id: the first is kept")
        if isinstance(outcome, _Bad):
            rejected.append(Rejected(row["corpus"], row["id"], row["audio"], *outcome))
        else:
            kept[row["id"]] = outcome
    if not kept:
        reasons = "; ".join(f"{row.id}: {row.reason}" for row in rejected[:3])
        raise UserError(f"no usable utterance among {len(rows)} of ingest.corpora: {reasons}")
    warn_of_look_alikes(kept.values())
    manifest = pd.DataFrame(kept.values()).sort_values("id", ignore_index=True)
    recording = manifest["audio"].map(
        lambda path: composed(Path(os.path.relpath(path, options.root)).as_posix())
    )
    speaker = manifest["speaker"].where(manifest["speaker"].notna(), recording)  # else a group a recording
    manifest["speaker"] = manifest["corpus"] + "/" + speaker
    return manifest, rejected


def ingest(options: IngestOptions, audio_dir: Path) -> tuple[pd.DataFrame, list[Rejected]]:
    """Build the manifest: the corpora, each speaker in one split.

    Returns
    -------
    DataFrame
        ``COLUMNS``, sorted by id. Rows over 30 s are in the test split alone.
    list of Rejected
        Rows left out: those of ``read_corpora``; texts and audio that stand in a split of higher priority;
        audio over 30 s in another split than test, since it has no label.
    """
    manifest, rejected = read_corpora(options, audio_dir)
    parts = [assign_splits(part, options.splits) for _, part in manifest.groupby("corpus")]
    manifest["split"] = pd.concat(parts)

    def leave_out(rows: pd.Series, kind: Kind, reason: str) -> None:
        nonlocal manifest
        for row in manifest[rows].itertuples():
            rejected.append(Rejected(row.corpus, row.id, row.audio, kind, reason))
        manifest = manifest[~rows]

    long = (manifest["duration_s"] > WINDOW_S) & (manifest["split"] != "test")
    leave_out(
        long, "long", f"over {WINDOW_S:g} s: such rows have no label, and only the test split keeps them"
    )
    for what, key in (("text", manifest["text"].map(normalise)), ("audio", manifest["sha256"])):
        reason = f"its {what} also stands in a split of higher priority ({' > '.join(PRIORITY)})"
        leave_out(drop_shared(manifest["split"], key.loc[manifest.index]), "shared", reason)
    return manifest.loc[:, list(COLUMNS)].reset_index(drop=True), rejected

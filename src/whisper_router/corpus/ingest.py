"""Corpora -> manifest: every audio decoded once, every bad row named, every row given a split."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from whisper_router.audio import SAMPLE_RATE, AudioError, audio_sha256, load_audio, source_rate
from whisper_router.corpus.demo import make_demo
from whisper_router.corpus.formats import FORMATS
from whisper_router.corpus.options import Corpus, IngestOptions
from whisper_router.corpus.splits import assign_splits, drop_shared_texts
from whisper_router.corpus.tables import Row, manifest_rows
from whisper_router.errors import UserError
from whisper_router.files import write_text
from whisper_router.hashing import canonical_json
from whisper_router.scoring import normalise

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
)


@dataclass(frozen=True)
class Rejected:
    """A row that is not in the manifest, and why."""

    corpus: str
    id: str
    audio: str
    reason: str


def _rows(corpus: Corpus, root: Path, audio_dir: Path) -> list[Row]:
    path = root / corpus.path
    if corpus.kind != "demo":
        rows = FORMATS[corpus.kind](path, corpus, audio_dir / corpus.name)
        return manifest_rows(rows, corpus.name, corpus.utterances, corpus.seed)
    spoken = make_demo(path, audio_dir / corpus.name, corpus.utterances or 1_000_000, corpus.seed)
    return [
        {
            **row,
            "corpus": corpus.name,
            "offset_s": 0.0,
            "duration_s": None,
            "tags": canonical_json(row["tags"]),
        }
        for row in spoken
    ]


def _probe(row: Row, corpus: Corpus, options: IngestOptions) -> Row | str:
    """The row with what its audio says, or the reason to reject it."""
    words = len(normalise(row["text"]).split())
    if not words:
        return f"text {row['text']!r} is empty after normalisation"
    if words < corpus.fewest_words:
        return f"text {row['text']!r} has fewer than min_words: {corpus.fewest_words}"
    if not row["audio"]:
        return "names no audio"
    try:
        audio = load_audio(row["audio"])
    except AudioError as error:
        return str(error)
    offset, length = row["offset_s"], row["duration_s"]
    for name, value, low in (
        ("offset_s", offset, 0),
        ("duration_s", 1.0 if length is None else length, 1 / SAMPLE_RATE),
    ):
        if not isinstance(value, float) or not low <= value < math.inf:
            return f"{name} {row[name]!r} is not a number of seconds"
    start = round(offset * SAMPLE_RATE)
    wanted = audio.size - start if length is None else round(length * SAMPLE_RATE)
    segment = audio[start : start + wanted]
    if segment.size < wanted - SAMPLE_RATE // 10:
        end = audio.size / SAMPLE_RATE
        return f"the segment from {offset:g} s goes beyond the audio's end at {end:.2f} s"
    duration = segment.size / SAMPLE_RATE
    if not options.min_duration_s <= duration <= options.max_duration_s:
        bounds = f"{options.min_duration_s:g} to {options.max_duration_s:g} s"
        return f"duration {duration:.2f} s is outside ingest's bounds of {bounds}"
    longest = corpus.max_train_duration_s
    if longest and row["split"] == "train" and duration > longest:
        return f"duration {duration:.2f} s is over max_train_duration_s: {longest:g}"
    return {
        **row,
        "offset_s": offset,
        "duration_s": duration,
        "sample_rate": source_rate(row["audio"]),
        "sha256": audio_sha256(segment),
    }


def read_corpora(options: IngestOptions, audio_dir: Path) -> tuple[pd.DataFrame, list[Rejected]]:
    """Decode every utterance of the corpora once.

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
    rejected: list[Rejected] = []
    rows = [
        (corpus, row) for corpus in options.corpora for row in _rows(corpus, Path(options.root), audio_dir)
    ]
    kept: dict[str, Row] = {}
    with ThreadPoolExecutor() as pool:
        probes = pool.map(lambda pair: _probe(pair[1], pair[0], options), rows)
        for (_, row), probe in zip(
            rows, tqdm(probes, "ingest: decode", total=len(rows), unit="utt"), strict=True
        ):
            if isinstance(probe, str):
                rejected.append(Rejected(row["corpus"], row["id"], row["audio"], probe))
            elif row["id"] in kept:
                reason = "duplicate id: the first is kept"
                rejected.append(Rejected(row["corpus"], row["id"], row["audio"], reason))
            else:
                kept[row["id"]] = probe
    if not kept:
        reasons = "; ".join(f"{row.id}: {row.reason}" for row in rejected[:3])
        raise UserError(f"no usable utterance among {len(rows)} of ingest.corpora: {reasons}")
    manifest = pd.DataFrame(kept.values()).sort_values("id", ignore_index=True)
    alone = manifest["speaker"].isna()  # an unknown speaker is a group a recording
    manifest["speaker"] = manifest["corpus"] + "/" + manifest["speaker"].where(~alone, manifest["audio"])
    return manifest, rejected


def ingest(options: IngestOptions, audio_dir: Path) -> tuple[pd.DataFrame, list[Rejected]]:
    """Build the manifest: the corpora, each speaker in one split.

    Returns
    -------
    DataFrame
        ``COLUMNS``, sorted by id.
    list of Rejected
        Rows left out: those of ``read_corpora``, and texts that stand in a split of higher priority.
    """
    manifest, rejected = read_corpora(options, audio_dir)
    parts = [assign_splits(part, options.splits) for _, part in manifest.groupby("corpus")]
    manifest["split"] = pd.concat(parts)
    shared = drop_shared_texts(manifest)
    for row in manifest[shared].itertuples():
        reason = "its text also stands in a split of higher priority (test > calibration > dev > train)"
        rejected.append(Rejected(row.corpus, row.id, row.audio, reason))
    return manifest.loc[~shared, list(COLUMNS)].reset_index(drop=True), rejected

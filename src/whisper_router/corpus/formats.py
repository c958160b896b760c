"""Corpora in the layouts they come in -> rows of the manifest.

LibriSpeech, Common Voice and Kaldi are read here and not by lhotse's recipes: those leave out a row whose
audio is missing without a word, and fail as a whole where one file is damaged. Here it is rejected by name.
"""

import csv
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from whisper_router.corpus.options import Corpus
from whisper_router.corpus.tables import Row, read_lines, read_table, renamed
from whisper_router.errors import UserError

NEMO = {"audio": "audio_filepath", "offset_s": "offset", "duration_s": "duration"}
AUDIOFOLDER = {"audio": "file_name", "text": "transcription"}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
LIBRISPEECH_PART = re.compile(r"(train|dev|test)-[a-z0-9-]+")
HF_SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}
COMMON_VOICE_TAGS = ("age", "gender", "accents", "accent", "variant")


def _table(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """A table with columns of any name."""
    return renamed(read_table(path, corpus.columns), path.parent, corpus.columns)


def _nemo(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """NeMo's JSON lines: audio_filepath, duration, text, offset."""
    return renamed(read_table(path, NEMO, "jsonl"), path.parent, NEMO)


def _audiofolder(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """Hugging Face's audiofolder: a metadata table beside the audio, in the folder or in one a split."""
    found = [path / name for name in METADATA if (path / name).is_file()]
    found += [file for name in METADATA for file in sorted(path.glob(f"*/{name}"))]
    if not found:
        raise UserError(f"{path}: holds none of {', '.join(METADATA)}, nor does a folder in it")
    rows: list[Row] = []
    for file in found:
        below = file.parent.relative_to(path)
        for row in renamed(read_table(file, AUDIOFOLDER), file.parent, AUDIOFOLDER):
            named = (below / row["named"]).as_posix()
            rows.append({"split": HF_SPLITS.get(below.name), **row, "named": named})
    return rows


def _librispeech(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """LibriSpeech: its folder, one of its parts, or a .tar.gz of them."""
    if path.is_file():
        try:
            with tarfile.open(path) as archive:
                archive.extractall(made, filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not readable as .tar.gz ({error}); fetch it again") from error
        path = made
    parts = [path] if LIBRISPEECH_PART.fullmatch(path.name) else sorted(path.glob("**/*-*/"))
    parts = [part for part in parts if part.is_dir() and LIBRISPEECH_PART.fullmatch(part.name)]
    if not parts:
        raise UserError(f"{path}: holds no part of LibriSpeech, such as train-clean-100 or test-other")
    rows = []
    for part in parts:
        for transcript in sorted(part.glob("*/*/*.trans.txt")):
            for line in read_lines(transcript):
                id_, _, text = line.partition(" ")
                rows.append(
                    {
                        "id": id_,
                        "audio": str(transcript.with_name(f"{id_}.flac")),
                        "text": text,
                        "speaker": id_.split("-")[0],
                        "split": part.name.split("-")[0],
                        "part": part.name,
                    }
                )
    return rows


def _common_voice(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """A language of Common Voice: train, dev and test, else validated; clips beside them."""
    files = [path / f"{split}.tsv" for split in ("train", "dev", "test")]
    files = [file for file in files if file.is_file()] or [path / "validated.tsv"]
    rows = []
    for file in files:
        lines = csv.DictReader(read_lines(file), delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"path", "sentence", "client_id"} - set(lines.fieldnames or ())
        if missing:
            raise UserError(f"{file}: has no column {sorted(missing)[0]!r}, only {lines.fieldnames}")
        for line in lines:
            named = line["path"] or ""
            clip = named if named.endswith(".mp3") else f"{named}.mp3"
            rows.append(
                {
                    "id": Path(clip).stem,
                    "audio": str(path / "clips" / clip),
                    "text": line["sentence"],
                    "speaker": line["client_id"],
                    "split": None if file.stem == "validated" else file.stem,
                    "language": line.get("locale") or path.name,
                    **{name: line[name] for name in COMMON_VOICE_TAGS if line.get(name)},
                }
            )
    return rows


def _kaldi(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """A Kaldi data folder: wav.scp and text, with utt2spk and segments where they are."""

    def table(name: str) -> dict[str, str]:
        lines = (line.split(maxsplit=1) for line in read_lines(path / name))
        return {line[0]: line[1].strip() if len(line) > 1 else "" for line in lines}

    texts, wavs = table("text"), table("wav.scp")
    speakers = table("utt2spk") if (path / "utt2spk").is_file() else {}
    segments = table("segments") if (path / "segments").is_file() else {id_: id_ for id_ in texts}
    rows = []
    for id_, text in texts.items():
        recording, *span = segments.get(id_, "").split()[:3] or [""]
        audio = wavs.get(recording, "")
        row: Row = {
            "id": id_,
            "audio": str(path / audio) if audio and not audio.endswith("|") else audio,
            "text": text,
            "speaker": speakers.get(id_),
        }
        if (path / "segments").is_file():
            row |= _kaldi_span(span)
        rows.append(row)
    return rows


def _kaldi_span(span: list[str]) -> Row:
    """Start and end of a segment; as they are where they are no numbers: ingest rejects the row."""
    try:
        start, end = map(float, span)
    except ValueError:
        return {"offset_s": " ".join(span) or "missing"}
    return {"offset_s": start, "duration_s": end - start}


def _lhotse(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """lhotse's cuts; or supervisions, with the recordings named beside them."""
    from lhotse import CutSet, RecordingSet, SupervisionSet

    for file in (path, path.parent / (corpus.recordings or path.name)):
        if not file.is_file():
            raise UserError(f"{file}: no such manifest of corpus {corpus.name}")
    try:
        if corpus.recordings is None:
            cuts = CutSet.from_file(path)
        else:
            recordings = RecordingSet.from_file(path.parent / corpus.recordings)
            cuts = CutSet.from_manifests(recordings, SupervisionSet.from_file(path)).trim_to_supervisions(
                keep_overlapping=False
            )
        return [row for cut in cuts for row in _cut_rows(cut, path.parent)]
    except (AssertionError, LookupError, TypeError, ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a manifest that lhotse can read ({error})") from error


def _cut_rows(cut: Any, base: Path) -> Iterator[Row]:
    source = cut.recording.sources[0] if hasattr(cut, "recording") and cut.recording else None
    audio = str(base / source.source) if source is not None and source.type == "file" else ""
    changed = audio and (cut.recording.transforms or cut.recording.num_channels > 1)
    fault = (
        {"fault": "one of several channels, or a transform of lhotse's: save it as a file"} if changed else {}
    )
    for supervision in cut.supervisions:
        yield {
            **{key: str(value) for key, value in (supervision.custom or {}).items()},
            **fault,
            "id": cut.id if len(cut.supervisions) == 1 else supervision.id,
            "audio": audio,
            "offset_s": round(cut.start + supervision.start, 6) if audio else 0.0,
            "duration_s": float(supervision.duration),
            "text": supervision.text or "",
            "speaker": supervision.speaker,
            "language": supervision.language or "en",
        }


FORMATS: dict[str, Callable[[Path, Corpus, Path], list[Row]]] = {
    "table": _table,
    "nemo": _nemo,
    "audiofolder": _audiofolder,
    "librispeech": _librispeech,
    "commonvoice": _common_voice,
    "kaldi": _kaldi,
    "lhotse": _lhotse,
}

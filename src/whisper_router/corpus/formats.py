"""Corpora in the layouts they come in -> rows of the manifest.

LibriSpeech, Common Voice and Kaldi are read here and not by lhotse's recipes: those leave out a row whose
audio is missing without a word, and fail as a whole where one file is damaged. Here it is rejected by name.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from whisper_router.corpus.archives import unpack
from whisper_router.corpus.options import Corpus, split_named
from whisper_router.corpus.tables import Row, checked, faulty, parsed_object, read_lines, read_table, renamed
from whisper_router.errors import UserError

NEMO = {"audio": "audio_filepath", "offset_s": "offset", "duration_s": "duration"}
AUDIOFOLDER = {"audio": "file_name", "text": "transcription"}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
LIBRISPEECH_PART = re.compile(r"(train|dev|test)-[a-z0-9-]+")
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".webm", ".mkv", ".aiff",
)  # fmt: skip
COMMON_VOICE_TAGS = ("age", "gender", "accents", "accent", "variant")


def _table(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """A table with columns of any name."""
    rows = read_table(path, corpus.columns, texts=not corpus.takes_untold)
    return renamed(rows, path.parent, corpus.columns)


def _nemo(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """NeMo's JSON lines: audio_filepath, duration, text, offset."""
    return renamed(read_table(path, NEMO, "jsonl", texts=not corpus.takes_untold), path.parent, NEMO)


def _audiofolder(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """Hugging Face's audiofolder: a metadata table beside the audio, in the folder or in one a split."""
    found = [path / name for name in METADATA if (path / name).is_file()]
    found += [file for name in METADATA for file in sorted(path.glob(f"*/{name}"))]
    if not found:
        raise UserError(f"{path}: holds none of {', '.join(METADATA)}, nor does a folder in it")
    rows: list[Row] = []
    for file in found:
        below = file.parent.relative_to(path)
        told = read_table(file, AUDIOFOLDER, texts=not corpus.takes_untold)
        for row in renamed(told, file.parent, AUDIOFOLDER):
            named = (below / row["named"]).as_posix()
            rows.append({"split": split_named(below.name), **row, "named": named})
    return rows


def _librispeech(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """LibriSpeech: its folder, one of its parts, or a .tar or .tar.gz of them."""
    if path.is_file():
        unpack(path, made)
        path = made
    parts = [path] if LIBRISPEECH_PART.fullmatch(path.name) else sorted(path.glob("**/*-*/"))
    parts = [part for part in parts if part.is_dir() and LIBRISPEECH_PART.fullmatch(part.name)]
    if not parts:
        raise UserError(f"{path}: holds no part of LibriSpeech, such as train-clean-100 or test-other")
    rows: list[Row] = []
    for part in parts:
        for transcript in sorted(part.glob("*/*/*.trans.txt")):
            for line in read_lines(transcript):
                if line.fault:
                    rows.append(faulty(transcript, line.number, line.fault))
                    continue
                id_, _, text = line.text.partition(" ")
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
    rows: list[Row] = []
    for file in files:
        for line in read_table(file, {"audio": "path", "text": "sentence"}, "tsv", ("client_id",)):
            if "fault" in line:
                rows.append(line)
                continue
            named = line.get("path", "")
            clip = named if named.endswith(".mp3") else f"{named}.mp3"
            rows.append(
                {
                    "id": Path(clip).stem,
                    "audio": str(path / "clips" / clip),
                    "text": line["sentence"],
                    "speaker": line.get("client_id"),
                    "split": None if file.stem == "validated" else file.stem,
                    "language": line.get("locale") or path.name,
                    **{name: line[name] for name in COMMON_VOICE_TAGS if line.get(name)},
                }
            )
    return rows


def _kaldi(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """A Kaldi data folder: wav.scp and text, with utt2spk and segments where they are."""

    rows: list[Row] = []

    def table(name: str) -> list[tuple[str, str]]:
        """First words and what follows them; lines that cannot be read are rows of their own."""
        found = []
        for line in read_lines(path / name):
            if line.fault:
                rows.append(faulty(path / name, line.number, line.fault))
            else:
                first, *rest = line.text.split(maxsplit=1)
                found.append((first, rest[0].strip() if rest else ""))
        return found

    untold = corpus.takes_untold and not (path / "text").is_file()
    texts, wavs = [] if untold else table("text"), dict(table("wav.scp"))
    speakers = dict(table("utt2spk")) if (path / "utt2spk").is_file() else None
    segmented = (path / "segments").is_file()
    segments = dict(table("segments")) if segmented else {id_: id_ for id_ in wavs}
    if corpus.takes_untold:
        known = dict(texts)
        texts = [(id_, known.get(id_, "")) for id_ in (segments if segmented else wavs)]
    for id_, text in texts:
        recording, *span = segments.get(id_, "").split()[:3] or [""]
        audio = wavs.get(recording, "")
        row: Row = {
            "id": id_,
            "audio": str(path / audio) if audio and not audio.endswith("|") else audio,
            "text": text,
            "speaker": (speakers or {}).get(id_),
        }
        if speakers is not None and not row["speaker"]:
            row["fault"] = "has no speaker in utt2spk; add a line for it there, or remove that file"
        if segmented:
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
    from lhotse import Recording, SupervisionSegment
    from lhotse.cut import MonoCut
    from lhotse.serialization import deserialize_item

    beside = path.parent / (corpus.recordings or path.name)
    for file in (path, beside):
        if not file.is_file():
            raise UserError(f"{file}: no such manifest of corpus {corpus.name}")
        if not file.name.endswith((".jsonl", ".jsonl.gz")):
            raise UserError(
                f"{file}: only .jsonl and .jsonl.gz are read; `lhotse copy {file.name} NEW.jsonl.gz` "
                "makes one"
            )
    base = path.parent
    if corpus.recordings is None:
        return checked(path, _lhotse_rows(path, lambda data: _cut_rows(deserialize_item(data), base)))
    recordings: dict[str, Any] = {}

    def keep(data: dict[str, Any]) -> tuple[Row, ...]:
        recording = Recording.from_dict(data)
        recordings[recording.id] = recording
        return ()

    def placed(data: dict[str, Any]) -> Iterator[Row]:
        one = SupervisionSegment.from_dict(data)
        recording = recordings.get(one.recording_id)
        if recording is None:
            fault = f"its recording {one.recording_id!r} is not in {beside.name}"
            return iter(({"id": one.id, "audio": "", "fault": fault},))
        cut = MonoCut(one.id, 0.0, recording.duration, one.channel, [one], recording=recording)
        return _cut_rows(cut, base)

    rows = checked(beside, _lhotse_rows(beside, keep))
    return rows + checked(path, _lhotse_rows(path, placed))


def _lhotse_rows(path: Path, read: Callable[[dict[str, Any]], Iterable[Row]]) -> Iterator[Row]:
    """What is read of each line of a manifest; a line that cannot be read is a row with its fault."""
    for line in read_lines(path):
        try:
            yield from list(read(parsed_object(line)))
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            yield faulty(path, line.number, f"not a line that lhotse can read ({error})")


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


def _folder(path: Path, corpus: Corpus, made: Path) -> list[Row]:
    """Audio files without texts, in a folder and all below it; a folder's name is the speaker."""
    if not path.is_dir():
        raise UserError(f"{path}: not a folder; set ingest.root and the path of corpus {corpus.name}")
    level = corpus.speaker_level or 1
    rows: list[Row] = []
    for file in sorted(path.rglob("*")):
        below = file.relative_to(path)
        hidden = any(part.startswith(".") for part in below.parts)
        if hidden or file.suffix.lower() not in AUDIO_SUFFIXES or not file.is_file():
            continue
        folders = below.parts[:-1]
        speaker = folders[level - 1] if len(folders) >= level else None
        rows.append({"audio": str(file), "named": below.as_posix(), "speaker": speaker})
    if not rows:
        raise UserError(f"{path}: holds no audio file ({', '.join(AUDIO_SUFFIXES)}), nor does a folder in it")
    return rows


FORMATS: dict[str, Callable[[Path, Corpus, Path], list[Row]]] = {
    "table": _table,
    "nemo": _nemo,
    "audiofolder": _audiofolder,
    "librispeech": _librispeech,
    "commonvoice": _common_voice,
    "kaldi": _kaldi,
    "lhotse": _lhotse,
    "folder": _folder,
}

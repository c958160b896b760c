"""The content store: what is dear to compute, each entry under the hash of all that shaped it.

Every entry carries a checksum. One that fails it is deleted and reads as missing, so that it is made anew.
"""

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from pydantic import BaseModel, ByteSize, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from whisper_router.asr.decoding import Hypothesis
from whisper_router.audio import SAMPLE_RATE, Audio, audio_sha256
from whisper_router.errors import UserError
from whisper_router.files import replacing
from whisper_router.hashing import digest
from whisper_router.paths import DATA

FOLDER, LIMIT = "WHISPER_ROUTER_CACHE", "WHISPER_ROUTER_CACHE_LIMIT"
DEFAULT_LIMIT = "50GB"
FREE_BYTES = 1 << 30  # of the disk, never taken
CHECKSUM_BYTES = 32  # before a training's state
STALE_S = 3600.0  # a temporary file this old belongs to a run that was killed

_BYTES: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)
_HYPOTHESIS: TypeAdapter[Hypothesis] = TypeAdapter(Hypothesis)


class _Value(BaseModel):
    sha256: str
    value: Any
    batch: tuple[str, ...] = ()  # audio hashes of all that were computed together

    @classmethod
    def of(cls, value: Any, batch: tuple[str, ...]) -> "_Value":
        return cls(sha256=cls._checksum(value, batch), value=value, batch=batch)

    @property
    def is_whole(self) -> bool:
        return self._checksum(self.value, self.batch) == self.sha256

    @staticmethod
    def _checksum(value: Any, batch: tuple[str, ...]) -> str:
        return digest([value, list(batch)] if batch else value)


@dataclass(frozen=True)
class Entry:
    """A file of the store."""

    path: Path
    kind: str
    size: int  # bytes
    used: float  # seconds since the epoch


def parse_bytes(text: str, where: str) -> int:
    """A size such as ``20GB``.

    Raises
    ------
    UserError
        Not a size; ``where`` says who asked for it.
    """
    try:
        return int(_BYTES.validate_python(text))
    except ValidationError as error:
        raise UserError(f"{where}: {text!r} is not a size; write one such as 20GB or 500MB") from error


def _sha256(states: np.ndarray) -> str:
    checksum = hashlib.sha256(f"{states.shape}{states.dtype}".encode())
    checksum.update(states.data)
    return checksum.hexdigest()


def _damaged(path: Path) -> None:
    path.unlink(missing_ok=True)
    print(f"content store: {path} was damaged; it is deleted and made anew", file=sys.stderr)


def _touch(path: Path) -> None:
    """Note that an entry was used; another process may have deleted it."""
    with suppress(FileNotFoundError):
        os.utime(path)


class ContentStore:
    """A folder of values that are dear to compute; safe to delete at any time, and to share by processes.

    Parameters
    ----------
    root : Path, optional
        Default: the folder in ``WHISPER_ROUTER_CACHE``, else ``.cache``.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path(os.environ.get(FOLDER, ".cache"))

    def _path(self, kind: str, key: str, suffix: str) -> Path:
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def hypothesis_path(self, audio_sha256: str, arm_key: str) -> Path:
        """Where the hypothesis of an utterance by an arm lies."""
        return self._path("decodes", digest([audio_sha256, arm_key]), ".json")

    def encoding_path(self, audio_sha256: str, arm_key: str, extractor_key: str) -> Path:
        """Where the encoder states of an utterance lie."""
        return self._path("encodings", digest([audio_sha256, arm_key, extractor_key]), ".safetensors")

    def training_path(self, key: str) -> Path:
        """Where the state of a training lies."""
        return self._path("trainings", key, ".pt")

    def segment_path(self, audio_sha256: str) -> Path:
        """Where a segment that was cut out of a longer recording lies."""
        return self._path("segments", audio_sha256, ".flac")

    def value_path(self, kind: str, key: str) -> Path:
        """Where a JSON value of some kind lies."""
        return self._path(kind, key, ".json")

    @staticmethod
    def read_value(path: Path) -> Any | None:
        """A stored JSON value; None where there is none, or where it was damaged."""
        entry = ContentStore._read_entry(path)
        if entry is None:
            return None
        _touch(path)
        return entry.value

    @staticmethod
    def _read_entry(path: Path) -> _Value | None:
        try:
            entry = _Value.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            _damaged(path)
            return None
        if not entry.is_whole:
            _damaged(path)
            return None
        return entry

    @staticmethod
    def write_value(path: Path, value: Any, batch: tuple[str, ...] = ()) -> None:
        """Store a JSON value, with the audio hashes of the batch that it was computed in."""
        with replacing(path) as temporary:
            temporary.write_text(_Value.of(value, batch).model_dump_json())

    def read_segment(self, sha256: str) -> Audio | None:
        """The samples of a segment; None where there is none, or where it was damaged."""
        path = self.segment_path(sha256)
        if not path.is_file():
            return None
        try:
            samples, _ = soundfile.read(path, dtype="int16")
        except soundfile.LibsndfileError:
            samples = np.zeros(0, np.int16)
        audio: Audio = samples.astype(np.float32) / 32768.0
        if audio_sha256(audio) != sha256:
            _damaged(path)
            return None
        _touch(path)
        return audio

    def write_segment(self, sha256: str, audio: Audio) -> None:
        """Store a segment without loss: decoded audio has 16 bits."""
        with replacing(self.segment_path(sha256)) as temporary:
            soundfile.write(temporary, (audio * 32768).astype(np.int16), SAMPLE_RATE, format="FLAC")

    @classmethod
    def read_hypothesis(cls, path: Path) -> Hypothesis | None:
        """The stored hypothesis; None where there is none, or where it was damaged."""
        value = cls.read_value(path)
        return None if value is None else _HYPOTHESIS.validate_python(value)

    @classmethod
    def hypothesis_batch(cls, path: Path) -> tuple[str, ...]:
        """The audio hashes of the batch in which a hypothesis was made; empty where it is not known."""
        entry = cls._read_entry(path)
        return () if entry is None else entry.batch

    @classmethod
    def write_hypothesis(cls, path: Path, hypothesis: Hypothesis, batch: tuple[str, ...] = ()) -> None:
        """Store a hypothesis, with the audio hashes of the batch that it was computed in."""
        cls.write_value(path, _HYPOTHESIS.dump_python(hypothesis, mode="json"), batch)

    @staticmethod
    def read_encoding(path: Path, check: bool = True) -> np.ndarray | None:
        """The stored states, shape (frames, layers, width), float16; None where missing or damaged.

        Parameters
        ----------
        check : bool
            Whether to compare the checksum; who reads an entry again and again needs it once.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                states: np.ndarray = file.get_tensor("states")
                expected = (file.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except SafetensorError:
            _damaged(path)
            return None
        if check and _sha256(states) != expected:
            _damaged(path)
            return None
        _touch(path)
        return states

    @staticmethod
    def encoding_batch(path: Path) -> tuple[str, ...]:
        """The audio hashes of the batch in which states were made; empty where it is not known."""
        try:
            with safe_open(path, framework="numpy") as file:
                return tuple((file.metadata() or {}).get("batch", "").split())
        except FileNotFoundError:
            return ()
        except SafetensorError:
            _damaged(path)
            return ()

    @staticmethod
    def write_encoding(path: Path, states: np.ndarray, batch: tuple[str, ...] = ()) -> None:
        """Store encoder states, with the audio hashes of the batch that they were computed in."""
        states = np.ascontiguousarray(states)
        with replacing(path) as temporary:
            metadata = {"sha256": _sha256(states), "batch": " ".join(batch)}
            save_file({"states": states}, temporary, metadata=metadata)

    @staticmethod
    def read_training(path: Path) -> bytes | None:
        """The stored state of a training; None where missing or damaged."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        checksum, state = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
        if hashlib.sha256(state).digest() != checksum:
            _damaged(path)
            return None
        _touch(path)
        return state

    @staticmethod
    def write_training(path: Path, state: bytes) -> None:
        """Store the state of a training."""
        with replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(state).digest() + state)

    def entries(self) -> Iterator[Entry]:
        """All files of the store; those of a killed run under the kind ``leftover``."""
        for path in self.root.glob("*/*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process renamed it
                continue
            kind = "leftover" if path.name.startswith(".") else path.parts[-3]
            yield Entry(path, kind, status.st_size, status.st_mtime)

    def collect(self, limit: int) -> list[Entry]:
        """Delete what killed runs left, then what was not used for longest, until ``limit`` bytes remain."""
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        stale = time.time() - STALE_S
        gone = [entry for entry in entries if entry.kind == "leftover" and entry.used < stale]
        kept = [entry for entry in entries if entry.kind != "leftover"]
        size = sum(entry.size for entry in kept)
        for entry in kept:
            if size <= limit:
                break
            gone.append(entry)
            size -= entry.size
        for entry in gone:
            entry.path.unlink(missing_ok=True)
        return gone

    @staticmethod
    def limit() -> int:
        """The size in bytes that the store may have.

        Raises
        ------
        UserError
            ``WHISPER_ROUTER_CACHE_LIMIT`` is not a size.
        """
        return parse_bytes(os.environ.get(LIMIT, DEFAULT_LIMIT), LIMIT)

    def require_space(self, needed: int, beside: int, extractors: Sequence[str]) -> None:
        """Refuse to begin what the disk or the store's limit cannot hold.

        Parameters
        ----------
        needed : int
            Bytes that will be added to the store.
        beside : int
            Bytes that will be written to ``data/``.
        extractors : sequence of str
            Whose states they are.

        Raises
        ------
        UserError
            They do not fit; the message has the figures.
        """
        names = ", ".join(extractors)
        remedy = f"or give extractors ({names}) a larger pool or stored: false in params.yaml"
        limit = self.limit()
        size = sum(entry.size for entry in self.entries() if entry.kind != "leftover")
        if needed and needed > limit - size:
            rest = (limit - needed) // 10**6
            collect = f", or run `whisper-router cache gc --limit {rest}MB`" if rest > 0 else ""
            raise UserError(
                f"the states of {names} take {needed / 1e9:.2f} GB in {self.root}, which holds "
                f"{size / 1e9:.2f} of at most {limit / 1e9:.2f} GB: raise {LIMIT}{collect}; {remedy}"
            )
        writes = {folder: count for folder, count in ((self.root, needed), (DATA, beside)) if count}
        for folder in writes:
            folder.mkdir(parents=True, exist_ok=True)
        for folder in writes:
            disk = folder.stat().st_dev
            wanted = sum(count for other, count in writes.items() if other.stat().st_dev == disk)
            free = shutil.disk_usage(folder).free - FREE_BYTES
            if wanted > free:
                move = f", or set {FOLDER} to a folder on another disk" if folder == self.root else ""
                raise UserError(
                    f"the states of {names} take {wanted / 1e9:.2f} GB, and the disk of {folder} has "
                    f"{max(free, 0) / 1e9:.2f} GB to spare: make room{move}; {remedy}"
                )

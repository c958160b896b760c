"""The content store: decodes and encodings, each under the hash of all that shaped it."""

import os
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from whisper_router.asr.decoding import Hypothesis
from whisper_router.errors import UserError
from whisper_router.files import replacing
from whisper_router.hashing import digest

_HYPOTHESIS = TypeAdapter(Hypothesis)


def _damaged(path: Path) -> UserError:
    """Delete an entry that cannot be read, so that the next run computes it anew."""
    path.unlink(missing_ok=True)
    return UserError(f"{path} was damaged and is deleted; run again, only what is missing is computed")


class ContentStore:
    """A folder of values that are dear to compute; safe to delete at any time.

    Parameters
    ----------
    root : Path, optional
        Default: the folder in ``WHISPER_ROUTER_CACHE``, else ``.cache``.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path(os.environ.get("WHISPER_ROUTER_CACHE", ".cache"))

    def _path(self, kind: str, key: str, suffix: str) -> Path:
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def hypothesis_path(self, audio_sha256: str, arm_key: str) -> Path:
        """Where the hypothesis of an utterance by an arm lies."""
        return self._path("decodes", digest([audio_sha256, arm_key]), ".json")

    def encoding_path(self, audio_sha256: str, arm_key: str, extractor_key: str) -> Path:
        """Where the pooled encoder states of an utterance lie."""
        return self._path("encodings", digest([audio_sha256, arm_key, extractor_key]), ".safetensors")

    @staticmethod
    def read_hypothesis(path: Path) -> Hypothesis | None:
        """The stored hypothesis; None where there is none."""
        if not path.is_file():
            return None
        try:
            return _HYPOTHESIS.validate_json(path.read_bytes())
        except ValidationError as error:
            raise _damaged(path) from error

    @staticmethod
    def write_hypothesis(path: Path, hypothesis: Hypothesis) -> None:
        """Store a hypothesis."""
        with replacing(path) as temporary:
            temporary.write_bytes(_HYPOTHESIS.dump_json(hypothesis))

    @staticmethod
    def read_encoding(path: Path) -> np.ndarray | None:
        """The stored encoding, shape (frames, layers, width), float16; None where there is none."""
        if not path.is_file():
            return None
        try:
            return load_file(path)["states"]
        except (SafetensorError, KeyError) as error:
            raise _damaged(path) from error

    @staticmethod
    def write_encoding(path: Path, states: np.ndarray) -> None:
        """Store an encoding."""
        with replacing(path) as temporary:
            save_file({"states": np.ascontiguousarray(states)}, temporary)

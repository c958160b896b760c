"""Encoders of Hugging Face's transformers as what a decider sees (extra ``hf``): Wav2Vec2, WavLM ..."""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whisper_router.asr.engine import VERSIONS, engine_package, engine_versions
from whisper_router.asr.options import SAMPLES_PER_FRAME
from whisper_router.asr.weights import HF_FILE, find_checkpoint
from whisper_router.audio import Audio
from whisper_router.cost import Dims, encoder_macs
from whisper_router.errors import UserError
from whisper_router.features.extractors import pool_states
from whisper_router.features.kinds import HfExtractor
from whisper_router.features.options import EncoderExtractor
from whisper_router.hashing import code_hash, digest

FILES = ("config.json", "preprocessor_config.json", HF_FILE)


def hf_sha256(model: str) -> str:
    """Hash of a model's files.

    Raises
    ------
    UserError
        transformers is not installed, or files are missing; the message names them.
    """
    if find_spec("transformers") is None:
        raise UserError(
            "extractor of kind hf: transformers is not installed; pip install 'whisper-router[hf]'"
        )
    folder = Path(model)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"extractor of kind hf: {folder.absolute()} lacks {', '.join(missing)}; put the model there as "
            "save_pretrained writes it (safetensors)"
        )
    return find_checkpoint(str(folder.absolute())).sha256


class HfSource:
    """A model's hidden states, an utterance at a time, so that they depend on nothing but its audio.

    Use ``load_hf``.
    """

    def __init__(self, model: Any, normalise: bool) -> None:
        from whisper_router.asr.hf_engine import HfEncoder, frame_macs

        self._encoder = HfEncoder(model, normalise, "float32")
        self.dims = Dims(
            0, model.config.hidden_size, model.config.num_hidden_layers, 0, 0, 0, frame_macs(model)
        )

    def feature(self, audio: Audio, pool: int) -> np.ndarray:
        """All hidden states, averaged over ``pool`` frames, shape (frames, layers, width), float16."""
        padded = np.pad(audio, (0, _frames(audio.size) * SAMPLES_PER_FRAME - audio.size))
        states = self._encoder(torch.from_numpy(padded)[None]).states
        return pool_states(states, 0, audio.size, EncoderExtractor(kind="encoder", pool=pool))

    def macs(self, samples: int, attention: bool) -> int:
        """Multiply-accumulates; ``attention``: count products of queries, keys and values."""
        return encoder_macs(self.dims, _frames(samples), attention)


def _frames(samples: int) -> int:
    return max(1, -(-samples // SAMPLES_PER_FRAME))


def hf_frames(options: HfExtractor, samples: int) -> int:
    """Frames of the feature of that many samples."""
    return -(-_frames(samples) // options.pool)


@cache
def load_hf(model: str) -> HfSource:
    """Load a folder's encoder, once a process.

    Raises
    ------
    UserError
        The folder holds no such encoder with frames of 20 ms.
    """
    hf_sha256(model)
    transformers = engine_package("hf")
    folder = Path(model).absolute()
    try:
        made = transformers.AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        reader = transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"extractor of kind hf: {folder}: transformers cannot read it: {error}") from error
    strides = getattr(made.config, "conv_stride", None)
    if strides is None:
        raise UserError(
            f"extractor of kind hf: {folder}: model_type {made.config.model_type} does not read samples "
            "through convolutions; give one that does, such as wav2vec2, hubert or wavlm"
        )
    if math.prod(strides) != SAMPLES_PER_FRAME:
        raise UserError(
            f"extractor of kind hf: {folder}: frames of {math.prod(strides)} samples; "
            f"{SAMPLES_PER_FRAME} are needed"
        )
    return HfSource(made.eval(), bool(reader.do_normalize))


def hf_keys(options: HfExtractor) -> tuple[str, str]:
    """Hashes of model and extractor, under which the content store keeps the states."""
    versions = [*VERSIONS, *engine_versions("hf")]
    source = digest([hf_sha256(options.model), versions, torch.get_num_threads()])
    return source, digest([options.identity(), code_hash("whisper_router.features.hf")])

"""Any extractor's feature of one utterance, its identity, and the products that it takes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.reference import ArmReference
from whisper_router.audio import SAMPLE_RATE, Audio
from whisper_router.cost import CURRENCIES, Dims
from whisper_router.decision import FORCED
from whisper_router.features.combined import over_time, over_time_macs, side_by_side
from whisper_router.features.extractors import extract, feature_frames
from whisper_router.features.hf import hf_frames, hf_sha256, load_hf
from whisper_router.features.kinds import (
    FRAMED,
    AnyExtractor,
    BlocksExtractor,
    HfExtractor,
    LogMelExtractor,
    Single,
    parts_of,
)
from whisper_router.features.logmel import mel_frames, pool_mel
from whisper_router.features.options import ArmName

PRICED = ("combined", "hf")  # kinds that take products of their own

Arms = Mapping[ArmName, tuple[DecodeOptions, Dims]]


@dataclass(frozen=True)
class Heard:
    """What is at hand of an utterance when the router decides."""

    audio: Audio
    states: Sequence[Tensor] = ()  # hidden states of a batch, each (batch, frames, width)
    row: int = 0  # of the batch
    hypothesis: Hypothesis | None = None  # the weak arm's
    mel: Tensor | None = None  # the weak arm's log-mel, (mels, 2 * context)


def read_feature(options: AnyExtractor, heard: Heard) -> np.ndarray:
    """One utterance's feature: (frames, ...) of encoders and log-mel, (1, width) of all others."""
    if options.kind == "combined":
        return side_by_side([as_vector(part, read_feature(part, heard)) for part in options.parts])
    if options.kind == "hf":
        return load_hf(options.model).feature(heard.audio, options.pool)
    if options.kind == "logmel":
        if heard.mel is None:
            raise TypeError("the extractor logmel reads the weak arm's log-mel")
        return pool_mel(heard.mel, heard.audio.size, options)
    states = heard.states
    if options.kind == "encoder" and options.blocks is not None:
        states = states[: options.blocks + 1]
    return extract(options, heard.audio, states, heard.row, heard.hypothesis)


def as_vector(part: Single, feature: np.ndarray) -> np.ndarray:
    """A part's feature as a vector: over time where it has frames."""
    if part.kind in FRAMED:
        return over_time(feature)
    vector: np.ndarray = feature[0]
    return vector


def identity_of(options: AnyExtractor, specs: Mapping[ArmName, Mapping[str, object]]) -> dict[str, object]:
    """What shapes a feature: options, the arm that is read, the files of another model.

    Raises
    ------
    UserError
        Files of a Hugging Face model are missing.
    """
    if options.kind == "combined":
        return {"kind": options.kind, "parts": [identity_of(part, specs) for part in options.parts]}
    if options.kind == "hf":
        return {"options": {**options.identity(), "sha256": hf_sha256(options.model)}}
    return {"options": options.identity(), "arm": dict(specs[options.arm])}


def frames_of(options: AnyExtractor, samples: int, arms: Arms) -> int:
    """Frames of the feature of that many samples."""
    if options.kind == "encoder":
        decode, _ = arms[options.arm]
        return feature_frames(options, samples, decode.context(samples))
    if options.kind == "logmel":
        return mel_frames(options, samples)
    return hf_frames(options, samples) if options.kind == "hf" else 1


def _numbers(part: BlocksExtractor | LogMelExtractor | HfExtractor, arms: Arms) -> int:
    """Numbers of a frame."""
    _, dims = arms[part.arm]
    if part.kind == "logmel":
        return dims.n_mels
    if part.kind == "hf":
        dims = load_hf(part.model).dims
        return (dims.audio_layers + 1) * dims.width
    return ((part.blocks or dims.audio_layers) + 1) * dims.width


def specs_of(references: Mapping[str, ArmReference]) -> dict[ArmName, Mapping[str, object]]:
    """What each arm is known by."""
    return {name: references[name].spec() for name in FORCED}


def arms_of(arms: Mapping[str, Mapping[str, Any]]) -> Arms:
    """Decode options and sizes by arm, of data/arms.json."""
    return {
        name: (DecodeOptions.model_validate(arms[name]["decode"]), Dims(**arms[name]["dims"]))
        for name in FORCED
    }


def reading_costs(options: AnyExtractor, durations_s: Iterable[float], arms: Arms) -> dict[str, np.ndarray]:
    """``reading_macs`` of utterances by their seconds, each of shape (utterances,)."""
    made = [reading_macs(options, round(seconds * SAMPLE_RATE), arms) for seconds in durations_s]
    return {name: np.array([one[name] for one in made], dtype=np.float64) for name in CURRENCIES}


def reading_macs(options: AnyExtractor, samples: int, arms: Arms) -> dict[str, int]:
    """Products before the decider, the arms' own apart: pooling of parts, and other models' encoders."""
    cached = paper = 0
    for part in parts_of(options):
        if part.kind == "hf":
            source = load_hf(part.model)
            cached += source.macs(samples, attention=True)
            paper += source.macs(samples, attention=False)
        if options.kind == "combined" and isinstance(part, BlocksExtractor | LogMelExtractor | HfExtractor):
            cached += over_time_macs(frames_of(part, samples, arms), _numbers(part, arms))
    return {"macs": cached, "macs_paper": paper}

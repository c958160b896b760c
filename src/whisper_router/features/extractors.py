"""What a decider sees of an utterance: an arm's encoder, the weak arm's hypothesis, or the sound itself."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.options import SAMPLES_PER_FRAME
from whisper_router.audio import SAMPLE_RATE, Audio
from whisper_router.features.hypothesis import confidence
from whisper_router.features.options import EncoderExtractor, Extractor
from whisper_router.features.signal import signal_statistics
from whisper_router.hashing import code_hash, digest


def extractor_identity(options: Extractor, arm: Mapping[str, object]) -> dict[str, object]:
    """An extractor's options and the arm that it reads: what deciders and policies are bound to."""
    return {"options": options.identity(), "arm": dict(arm)}


def extractor_key(options: EncoderExtractor) -> str:
    """Hash of what shapes a feature, given the arm's encoding."""
    return digest({**options.identity(), "code": code_hash("whisper_router.features.extractors")})


def _valid_frames(options: EncoderExtractor, samples: int, context: int) -> int:
    if options.padding == "keep":
        return context
    return min(max(1, -(-samples // SAMPLES_PER_FRAME)), context)


def feature_frames(options: EncoderExtractor, samples: int, context: int) -> int:
    """Frames of the feature of that many samples, encoded at a context of ``context`` frames."""
    return -(-_valid_frames(options, samples, context) // options.pool)


def pool_states(states: list[Tensor], row: int, samples: int, options: EncoderExtractor) -> np.ndarray:
    """One utterance's encoder states, averaged over ``options.pool`` frames.

    Parameters
    ----------
    states : list of Tensor
        Each (batch, frames, width).

    Returns
    -------
    ndarray
        (pooled frames, layers, width), float16.
    """
    valid = _valid_frames(options, samples, states[0].shape[1])
    stacked = torch.stack([state[row, :valid] for state in states], dim=1)  # (frames, layers, width)
    if options.pool > 1:
        by_width = stacked.flatten(1).T  # (layers * width, frames)
        stacked = F.avg_pool1d(by_width, options.pool, ceil_mode=True).T.unflatten(1, stacked.shape[1:])  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(stacked.half().numpy())


def extract(
    options: Extractor,
    audio: Audio,
    states: Sequence[Tensor] = (),
    row: int = 0,
    hypothesis: Hypothesis | None = None,
) -> np.ndarray:
    """One utterance's feature, from whatever of its audio, encoding and weak hypothesis the extractor reads.

    Parameters
    ----------
    audio : ndarray
        Shape (samples,).
    states : sequence of Tensor
        The hidden states of a batch, each (batch, frames, width); this utterance is their ``row``.
    hypothesis : Hypothesis, optional
        The weak arm's.
    """
    if options.kind == "encoder":
        return pool_states(list(states), row, audio.size, options)
    if options.kind == "signal":
        return signal_statistics(audio)
    if hypothesis is None:
        raise TypeError("the extractor confidence reads the weak arm's hypothesis")
    return confidence(hypothesis, audio.size / SAMPLE_RATE)

"""What a decider sees of an utterance: an arm's encoder, or the weak arm's finished hypothesis."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.options import SAMPLES_PER_FRAME
from whisper_router.features.options import EncoderExtractor, Extractor
from whisper_router.hashing import code_hash, digest

CONFIDENCE_NAMES = (
    "avg_logprob",
    "min_logprob",
    "low_logprob",
    "mean_entropy",
    "max_entropy",
    "mean_margin",
    "min_margin",
    "compression_ratio",
    "no_speech_prob",
    "log_tokens",
    "tokens_per_s",
    "log_duration",
    "temperature",
    "attempts",
)


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


def confidence(hypothesis: Hypothesis, duration_s: float) -> np.ndarray:
    """The numbers of ``CONFIDENCE_NAMES`` for one utterance, shape (1, 14), float32."""
    logprob = np.array(hypothesis.token_logprob or (hypothesis.avg_logprob,))
    entropy = np.array(hypothesis.token_entropy or (0.0,))
    margin = np.array(hypothesis.token_margin or (0.0,))
    values = (
        hypothesis.avg_logprob,
        logprob.min(),
        np.quantile(logprob, 0.1),
        entropy.mean(),
        entropy.max(),
        margin.mean(),
        margin.min(),
        hypothesis.compression_ratio,
        hypothesis.no_speech_prob,
        np.log1p(hypothesis.tokens),
        hypothesis.tokens / duration_s,
        np.log(duration_s),
        hypothesis.temperature,
        len(hypothesis.attempts),
    )
    return np.array([values], dtype=np.float32)

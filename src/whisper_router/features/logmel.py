"""Whisper's log-mel of an utterance, cut to its audio."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from whisper_router.asr.arm import log_mel
from whisper_router.asr.options import DecodeOptions
from whisper_router.audio import Audio
from whisper_router.features.kinds import LogMelExtractor

SAMPLES_PER_MEL_FRAME = 160  # 10 ms


def mel_frames(options: LogMelExtractor, samples: int) -> int:
    """Frames of the feature of that many samples."""
    return -(-max(1, -(-samples // SAMPLES_PER_MEL_FRAME)) // options.pool)


def weak_mel(audio: Audio, decode: DecodeOptions, n_mels: int) -> Tensor:
    """The log-mel as an arm reads it, shape (mels, 2 * context)."""
    return log_mel([audio], decode.context(audio.size), n_mels)[0]


def pool_mel(mel: Tensor, samples: int, options: LogMelExtractor) -> np.ndarray:
    """A log-mel of shape (mels, frames), averaged over ``options.pool`` frames of the audio.

    Returns
    -------
    ndarray
        (pooled frames, 1, mels), float16.
    """
    heard = mel[:, : max(1, -(-samples // SAMPLES_PER_MEL_FRAME))]
    pooled = F.avg_pool1d(heard, options.pool, ceil_mode=True)  # (mels, pooled frames)
    made: np.ndarray = np.ascontiguousarray(pooled.T[:, None].half().numpy())
    return made

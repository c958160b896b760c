"""Multiply-accumulates of Whisper, in two accountings.

``macs``: cached keys and values, all products counted (attention and logits too), the contexts that were
really encoded, every attempt of the fallback. ``macs_paper``: what arXiv 2309.12712 counts: 30 s, beam 8, no
cache, no attention products and no logits, one attempt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from whisper_router.asr.options import ENCODER_FRAMES

CURRENCIES = {
    "macs": "multiply-accumulates, cached decoder, all products, real contexts and retries",
    "macs_paper": "multiply-accumulates as the paper counts: beam 8, no cache, no attention products, 30 s",
}
PAPER_BEAMS = 8


@dataclass(frozen=True)
class Dims:
    """The sizes that an arm's cost depends on."""

    n_mels: int
    width: int
    audio_layers: int
    text_layers: int
    vocabulary: int
    prompt: int  # tokens before the first text token
    frame_macs: int = 0  # of another family's encoder: products a frame, attention's apart


def encoder_macs(dims: Dims, frames: int, attention: bool = True) -> int:
    """Encoder of ``frames`` frames of 20 ms; ``attention``: count products of queries, keys and values."""
    d = dims.width
    frame = dims.frame_macs or dims.n_mels * d * 3 * 2 + 3 * d * d + dims.audio_layers * 12 * d * d
    products = dims.audio_layers * 2 * frames * frames * d if attention else 0
    return frames * frame + products


def cross_macs(dims: Dims, frames: int) -> int:
    """Keys and values of the encoder's output, for all decoder layers."""
    return 2 * dims.text_layers * dims.width**2 * frames


def decoder_macs(dims: Dims, frames: int, tokens: int) -> int:
    """Cached decoder over ``tokens`` tokens, cross keys and values included, logits included."""
    d = dims.width
    token = dims.text_layers * (14 * d * d + 2 * frames * d) + dims.vocabulary * d
    self_attention = dims.text_layers * tokens * (tokens + 1) * d
    return cross_macs(dims, frames) + tokens * token + self_attention


def arm_macs(dims: Dims, attempts: Sequence[tuple[int, int]]) -> int:
    """An utterance by an arm; ``attempts`` are (encoder frames, tokens). A new context is a new encoding."""
    total, encoded = 0, 0
    for frames, tokens in attempts:
        if frames != encoded:
            total += encoder_macs(dims, frames)
            encoded = frames
        total += decoder_macs(dims, frames, tokens)
    return total


def paper_encoder_macs(dims: Dims) -> int:
    """The encoder in the paper's accounting."""
    return encoder_macs(dims, ENCODER_FRAMES, attention=False)


def paper_macs(dims: Dims, tokens: int) -> int:
    """An utterance of ``tokens`` text tokens as the paper counts: each step decodes all before it again."""
    steps = tokens + 1  # the last predicts the end
    positions = sum(dims.prompt + step for step in range(steps))
    layers = 14 * dims.text_layers * dims.width**2
    decoder = steps * cross_macs(dims, ENCODER_FRAMES) + positions * layers
    return paper_encoder_macs(dims) + PAPER_BEAMS * decoder

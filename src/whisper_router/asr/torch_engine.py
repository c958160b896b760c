"""Engine torch: openai-whisper's modules; the reference."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper.model import AudioEncoder, Whisper
from whisper.tokenizer import Tokenizer

from whisper_router.asr.decoding import Hypothesis, decode
from whisper_router.asr.engine import Encoding
from whisper_router.asr.options import Dtype


class TorchEncoder:
    """openai-whisper's encoder at any context.

    Parameters
    ----------
    encoder : AudioEncoder
        Weights in float32; converted in place.
    dtype : {'float32', 'bfloat16'}
        Of the products; layer norms stay in float32.
    """

    def __init__(self, encoder: AudioEncoder, dtype: Dtype) -> None:
        self._encoder, self._dtype = encoder, getattr(torch, dtype)
        for module in encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                module.to(self._dtype)

    @torch.inference_mode()
    def __call__(self, mel: Tensor) -> Encoding:
        """Encode a batch, shape (batch, mels, 2 * frames)."""
        encoder = self._encoder
        x = F.gelu(encoder.conv1(mel.to(self._dtype)))
        x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)  # (batch, frames, width)
        x = (x + encoder.positional_embedding[: x.shape[1]]).to(x.dtype)
        earlier = []
        for block in encoder.blocks:
            earlier.append(x)
            x = block(x)
        return Encoding(mel, encoder.ln_post(x).float(), earlier)


class TorchDecoder:
    """openai-whisper's decoder in float32, batched."""

    def __init__(self, model: Whisper, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(
        self,
        encoded: Tensor,
        limits: Sequence[int],
        temperature: float = 0.0,
        generators: Sequence[torch.Generator] = (),
    ) -> list[Hypothesis]:
        """Decode a batch, shape (batch, frames, width), to at most ``limits`` tokens a row."""
        return decode(self.model, self.tokenizer, encoded, limits, temperature, generators)

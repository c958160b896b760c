"""Whisper's text decoder, step by step, over explicit caches: several batches may share one model."""

import torch
import torch.nn.functional as F
from torch import Tensor
from whisper.model import MultiHeadAttention, Whisper


class StepDecoder:
    """Decoder state of a batch: cached keys and values of the text and of the encoder's output.

    Parameters
    ----------
    encoded : Tensor
        The encoder's output, shape (batch, frames, width).
    length : int
        Most tokens that will be run, prompt included.
    """

    def __init__(self, model: Whisper, encoded: Tensor, length: int) -> None:
        self._decoder = model.decoder
        self._heads = model.dims.n_text_head
        batch, _, width = encoded.shape
        shape = (batch, self._heads, length, width // self._heads)
        self._own = [(torch.empty(shape), torch.empty(shape)) for _ in self._decoder.blocks]
        self._cross = [
            (self._split(block.cross_attn.key(encoded)), self._split(block.cross_attn.value(encoded)))
            for block in self._decoder.blocks
        ]
        self._position = 0

    def _split(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, self._heads, width // self._heads).transpose(1, 2)

    def _attend(self, attention: MultiHeadAttention, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        mixed = F.scaled_dot_product_attention(self._split(q), k, v, is_causal=causal)
        out: Tensor = attention.out(mixed.transpose(1, 2).flatten(2))
        return out

    def step(self, tokens: Tensor) -> Tensor:
        """Run tokens of shape (batch, n) after those before; return states of shape (batch, n, width).

        Several at once only at the start: the causal mask begins there.
        """
        if self._position and tokens.shape[1] > 1:
            raise ValueError("after the prompt, tokens are run one at a time")
        start, end = self._position, self._position + tokens.shape[1]
        decoder = self._decoder
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[start:end]
        for block, (own_k, own_v), (cross_k, cross_v) in zip(
            decoder.blocks, self._own, self._cross, strict=True
        ):
            h = block.attn_ln(x)
            own_k[:, :, start:end] = self._split(block.attn.key(h))
            own_v[:, :, start:end] = self._split(block.attn.value(h))
            k, v = own_k[:, :, :end], own_v[:, :, :end]
            x = x + self._attend(block.attn, block.attn.query(h), k, v, causal=end - start > 1)
            q = block.cross_attn.query(block.cross_attn_ln(x))
            x = x + self._attend(block.cross_attn, q, cross_k, cross_v, causal=False)
            x = x + block.mlp(block.mlp_ln(x))
        self._position = end
        normed: Tensor = decoder.ln(x)
        return normed

    def logits(self, states: Tensor) -> Tensor:
        """Logits of shape (batch, vocabulary) from states of shape (batch, width)."""
        logits: Tensor = states @ self._decoder.token_embedding.weight.T
        return logits

    def keep(self, rows: Tensor) -> None:
        """Drop all rows of the batch but these."""
        self._own = [(k[rows], v[rows]) for k, v in self._own]
        self._cross = [(k[rows], v[rows]) for k, v in self._cross]

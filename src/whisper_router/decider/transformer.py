"""The paper's alternative to the ResNet: a small transformer over the frames."""

import torch
from torch import Tensor, nn

from whisper_router.decider.options import TransformerOptions


class FrameTransformer(nn.Module):
    """Softmax-weighted layers -> projection -> transformer blocks -> mean over time -> logit."""

    def __init__(self, options: TransformerOptions, layers: int, width: int) -> None:
        super().__init__()
        d = options.width
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, d)
        block = nn.TransformerEncoderLayer(
            d, options.heads, 2 * d, options.dropout, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, options.blocks, enable_nested_tensor=False)
        self.output = nn.Linear(d, 1)
        self.layers, self.width, self.d, self.depth = layers, width, d, options.blocks

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Logits (batch,) from states (batch, frames, layers, width) and lengths (batch,)."""
        outside = torch.arange(states.shape[1]) >= lengths[:, None]  # (batch, frames)
        x = torch.einsum("l,btld->btd", self.layer_weights.softmax(0), states.float())
        x = self.blocks(self.project(self.norm(x)), src_key_padding_mask=outside)  # (batch, frames, d)
        mean = x.masked_fill(outside[..., None], 0).sum(1) / lengths[:, None]
        logit: Tensor = self.output(mean)[:, 0]
        return logit

    def macs(self, frames: int) -> int:
        """Multiply-accumulates for an utterance of that many feature frames, attention included."""
        products = self.depth * 2 * frames * frames * self.d
        return self.paper_macs(frames) + products + frames * self.width * (self.layers + 1)

    def paper_macs(self, frames: int) -> int:
        """Those of linear layers alone."""
        return frames * (self.width * self.d + self.depth * 8 * self.d * self.d) + self.d

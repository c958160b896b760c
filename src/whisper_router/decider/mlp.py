"""A small network on pooled encoder states."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whisper_router.decider.options import MlpOptions


class PooledMlp(nn.Module):
    """Softmax-weighted layers -> mean and deviation over time -> one hidden layer -> logit.

    With ``attention`` the frames are weighed (attentive statistics pooling, Okabe et al. 2018).
    """

    def __init__(self, options: MlpOptions, layers: int, width: int) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.attention: nn.Module | None = None
        if options.attention:
            self.attention = nn.Sequential(
                nn.Linear(width, options.attention), nn.Tanh(), nn.Linear(options.attention, 1)
            )
        self.norm = nn.LayerNorm(2 * width)
        self.hidden = nn.Linear(2 * width, options.hidden)
        self.dropout = nn.Dropout(options.dropout)
        self.output = nn.Linear(options.hidden, 1)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Logits (batch,) from states (batch, frames, layers, width) and lengths (batch,)."""
        inside = torch.arange(states.shape[1]) < lengths[:, None]  # (batch, frames)
        x = torch.einsum(
            "l,btld->btd", self.layer_weights.softmax(0), states.float()
        )  # (batch, frames, width)
        worth = x.new_zeros(x.shape[:2]) if self.attention is None else self.attention(x)[..., 0]
        weight = worth.masked_fill(~inside, -torch.inf).softmax(1)[..., None]
        mean = (x * weight).sum(1)
        deviation = (((x - mean[:, None]) ** 2 * weight).sum(1) + 1e-6).sqrt()
        pooled = self.norm(torch.cat([mean, deviation], dim=1))  # (batch, 2 * width)
        logit: Tensor = self.output(self.dropout(F.relu(self.hidden(pooled))))[:, 0]
        return logit

    def macs(self, frames: int) -> int:
        """Multiply-accumulates for an utterance of that many feature frames."""
        layers, width = self.layer_weights.numel(), self.hidden.in_features // 2
        return frames * width * (layers + 3) + self.paper_macs(frames)

    def paper_macs(self, frames: int) -> int:
        """Those of convolutions and linear layers alone, which the paper's profiler sees."""
        total = self.hidden.weight.numel() + self.output.weight.numel()
        if self.attention is not None:
            total += frames * sum(p.numel() for p in self.attention.parameters() if p.ndim == 2)
        return total

"""The paper's decider: weighted encoder layers, a 1-D ResNet, the mean over time, a logit."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whisper_router.decider.options import ResnetOptions


class _LayerSum(torch.autograd.Function):
    """Weighted sum over layers: weights (layers,), float16 states (batch, frames, layers, width)."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, states: Tensor) -> Tensor:
        ctx.save_for_backward(states)
        with torch.autocast("cpu", enabled=False):
            return torch.stack([torch.matmul(weights, row.float()) for row in states])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (states,), (grad,) = ctx.saved_tensors, grads
        rows = [
            torch.stack([(one * row[:, layer]).sum() for layer in range(row.shape[1])])
            for one, row in zip(grad.contiguous(), states, strict=True)
        ]
        return torch.stack(rows).sum(0), None


def _masked(norm: nn.BatchNorm1d, x: Tensor, mask: Tensor | None) -> Tensor:
    """Batch norm over (batch, channels, frames); frames outside the mask do not count and become 0."""
    if mask is None:
        normed: Tensor = norm(x)
        return normed
    by_frame = x.transpose(1, 2)  # (batch, frames, channels)
    result = torch.zeros_like(by_frame)
    result[mask] = norm(by_frame[mask]).to(result.dtype)
    return result.transpose(1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions of kernel 3, a 1x1 shortcut, batch norm after each."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv1d(inputs, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)
        self.shortcut = nn.Conv1d(inputs, channels, 1, stride, bias=False)
        self.shortcut_norm = nn.BatchNorm1d(channels)

    def frames(self, frames: int) -> int:
        """Frames that come out."""
        return (frames - 1) // self.stride + 1

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, inputs, frames) -> (batch, channels, frames out); the mask is that of the frames out."""
        h = F.relu(_masked(self.norm1, self.conv1(x), mask))
        h = _masked(self.norm2, self.conv2(h), mask)
        return F.relu(h + _masked(self.shortcut_norm, self.shortcut(x), mask))


class LayerResnet(nn.Module):
    """Layer weights from uniform(0, 1), by default raw, residual blocks, mean over all frames, logit.

    Features of unequal length are padded and masked, so no score depends on its batch-mates. Paper's sizes:
    1,905,422 parameters on Small's 13 states of width 768, 0.89 GMACs at 1500 frames.
    """

    def __init__(self, options: ResnetOptions, layers: int, width: int) -> None:
        super().__init__()
        self.softmax = options.layer_weights == "softmax"
        self.layer_weights = nn.Parameter(torch.zeros(layers) if self.softmax else torch.rand(layers))
        inputs = [width] + [options.channels] * (len(options.strides) - 1)
        self.blocks = nn.ModuleList(
            ResidualBlock(size, options.channels, stride)
            for size, stride in zip(inputs, options.strides, strict=True)
        )
        self.output = nn.Linear(options.channels, 1)

    @property
    def _residual(self) -> list[ResidualBlock]:
        return cast(list[ResidualBlock], list(self.blocks))

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Logits (batch,) from states (batch, frames, layers, width) and lengths (batch,)."""
        weights = self.layer_weights.softmax(0) if self.softmax else self.layer_weights
        x: Tensor = _LayerSum.apply(weights, states).transpose(1, 2).contiguous()  # type: ignore[no-untyped-call]  # (batch, width, frames)
        masked = bool((lengths < states.shape[1]).any())
        for block in self._residual:
            lengths = (lengths - 1) // block.stride + 1
            mask = torch.arange(block.frames(x.shape[2])) < lengths[:, None] if masked else None
            x = block(x, mask)
        mean = x.sum(2) / lengths[:, None]  # (batch, channels)
        logit: Tensor = self.output(mean)[:, 0]
        return logit

    def macs(self, frames: int) -> int:
        """Multiply-accumulates for an utterance of that many feature frames, layer sum and norms included."""
        total = (
            self.paper_macs(frames)
            + frames * self.layer_weights.numel() * self._residual[0].conv1.in_channels
        )
        for block in self._residual:
            frames = block.frames(frames)
            total += 3 * frames * self.output.in_features
        return total

    def paper_macs(self, frames: int) -> int:
        """Those of convolutions and linear layers alone, which the paper's profiler (thop) sees."""
        total = 0
        for block in self._residual:
            frames = block.frames(frames)
            convolutions = (block.conv1, block.conv2, block.shortcut)
            total += frames * sum(conv.weight.numel() for conv in convolutions)
        return total + self.output.weight.numel()

"""A small network on pooled encoder states."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from whisper_router.decider.options import SCORE_DECIMALS, MlpOptions
from whisper_router.errors import UserError

CURVE_X = "epoch"


class PooledMlp(nn.Module):
    """Softmax-weighted layers -> mean and deviation over time -> one hidden layer -> logit."""

    def __init__(self, layers: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.norm = nn.LayerNorm(2 * width)
        self.hidden = nn.Linear(2 * width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, 1)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Logits (batch,) from states (batch, frames, layers, width) and a mask (batch, frames)."""
        x = torch.einsum("l,btld->btd", self.layer_weights.softmax(0), states)  # (batch, frames, width)
        weight = mask[..., None] / mask.sum(1)[:, None, None]
        mean = (x * weight).sum(1)
        deviation = (((x - mean[:, None]) ** 2 * weight).sum(1) + 1e-6).sqrt()
        pooled = self.norm(torch.cat([mean, deviation], dim=1))  # (batch, 2 * width)
        logit: Tensor = self.output(self.dropout(F.relu(self.hidden(pooled))))[:, 0]
        return logit


def _pad(features: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    frames = max(len(feature) for feature in features)
    states = torch.zeros(len(features), frames, *features[0].shape[1:])
    mask = torch.zeros(len(features), frames)
    for i, feature in enumerate(features):
        states[i, : len(feature)] = torch.tensor(feature, dtype=torch.float32)
        mask[i, : len(feature)] = 1
    return states, mask


class MlpDecider:
    """Probability that the strong arm is needed, from encoder states of shape (frames, layers, width)."""

    def __init__(self, network: PooledMlp) -> None:
        self.network = network.eval()

    @classmethod
    def fit(
        cls,
        options: MlpOptions,
        train: tuple[Sequence[np.ndarray], np.ndarray],
        dev: tuple[Sequence[np.ndarray], np.ndarray],
    ) -> tuple["MlpDecider", list[dict[str, float]]]:
        """Train with AdamW on the binary cross-entropy, keep the epoch with the lowest dev loss."""
        torch.manual_seed(options.seed)
        order = torch.Generator().manual_seed(options.seed)
        features, labels = train
        _, layers, width = features[0].shape
        network = PooledMlp(layers, width, options.hidden, options.dropout)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        dev_batch, dev_labels = _pad(dev[0]), torch.tensor(dev[1], dtype=torch.float32)
        curve: list[dict[str, float]] = []
        best_loss, best = float("inf"), {key: value.clone() for key, value in network.state_dict().items()}
        for epoch in tqdm(range(1, options.epochs + 1), "train: epochs", unit="epoch"):
            network.train()
            total = 0.0
            for batch in torch.randperm(len(labels), generator=order).split(options.batch_size):  # type: ignore[no-untyped-call]
                states, mask = _pad([features[i] for i in batch.tolist()])
                target = torch.tensor(labels[batch.numpy()], dtype=torch.float32)
                loss = F.binary_cross_entropy_with_logits(network(states, mask), target)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += loss.item() * len(batch)
            network.eval()
            with torch.inference_mode():
                dev_loss = float(F.binary_cross_entropy_with_logits(network(*dev_batch), dev_labels))
            curve.append(
                {CURVE_X: epoch, "train_loss": round(total / len(labels), 6), "dev_loss": round(dev_loss, 6)}
            )
            if dev_loss < best_loss:
                best_loss = dev_loss
                best = {key: value.clone() for key, value in network.state_dict().items()}
        if best_loss == float("inf"):
            raise UserError("no epoch gave a finite dev loss: the features are not finite")
        network.load_state_dict(best)
        return cls(network), curve

    @torch.inference_mode()
    def score(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Scores in [0, 1] to 6 decimals, one an utterance, each independent of the others."""
        scores = [float(self.network(*_pad([feature])).sigmoid()) for feature in features]
        return np.round(np.array(scores), SCORE_DECIMALS)

    def macs(self, frames: int) -> int:
        """Multiply-accumulates for an utterance of that many feature frames."""
        layers, width = self.network.layer_weights.numel(), self.network.hidden.in_features // 2
        return (
            frames * width * (layers + 3)
            + self.network.hidden.weight.numel()
            + self.network.hidden.out_features
        )

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def save(self, path: Path) -> None:
        """Write the weights."""
        save_file(self.network.state_dict(), path)

    @classmethod
    def load(cls, path: Path, options: MlpOptions) -> "MlpDecider":
        """Read the weights."""
        state = load_file(path)
        width = state["hidden.weight"].shape[1] // 2
        network = PooledMlp(len(state["layer_weights"]), width, options.hidden, options.dropout)
        network.load_state_dict(state)
        return cls(network)

"""The training loop of all networks: resumable, the next batch loaded while one is computed."""

import hashlib
import io
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from whisper_router.decider.options import TrainingOptions
from whisper_router.errors import UserError
from whisper_router.features.reader import Reader
from whisper_router.files import replacing
from whisper_router.hashing import code_hash, digest

CHECKSUM_BYTES = 32  # before a training's state
CYCLE_FLOOR = 1e-8  # where the paper's code begins its cycle


@dataclass(frozen=True)
class Examples:
    """Labelled utterances whose features are read when they are needed."""

    reader: Reader
    ids: Sequence[str]
    labels: np.ndarray  # (utterances,), 0 or 1

    def load(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """States (batch, frames, layers, width) in float16, lengths (batch,), labels (batch,)."""
        states, lengths = pad(self.reader.batch([self.ids[i] for i in rows]))
        return states, lengths, torch.tensor(self.labels[list(rows)], dtype=torch.float32)


def pad(features: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Features of shape (frames, layers, width) as a batch with zeros at the end, and their lengths."""
    lengths = [len(feature) for feature in features]
    states = np.zeros((len(features), max(lengths), *features[0].shape[1:]), dtype=np.float16)
    for row, feature in zip(states, features, strict=True):
        row[: len(feature)] = feature
    return torch.from_numpy(states), torch.tensor(lengths)


def batches(examples: Examples, plan: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The planned batches; each is read while the one before is computed."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(examples.load, plan[0])
        for rows in plan[1:]:
            batch, ahead = ahead.result(), pool.submit(examples.load, rows)
            yield batch
        yield ahead.result()


def learning_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """Learning rate of a step out of ``steps``.

    ``cosine`` anneals by epoch, as torch's CosineAnnealingLR. ``cyclic`` is the rising half of torch's
    CyclicLR: the paper's code rises for 65,000 steps, which is about all of its ten epochs.
    """
    if options.schedule == "cosine":
        epoch = step * options.epochs // steps
        return options.learning_rate * (1 + math.cos(math.pi * epoch / options.epochs)) / 2
    if options.schedule == "cyclic":
        return CYCLE_FLOOR + (options.learning_rate - CYCLE_FLOOR) * step / steps
    return options.learning_rate


def class_weight(options: TrainingOptions, labels: np.ndarray) -> float:
    """How much a positive counts: 1, or negatives over positives where the classes are skewed."""
    share = float(labels.mean())
    if not 0 < share < 1 or min(share, 1 - share) >= options.balance_below:
        return 1.0
    return (1 - share) / share


def training_key(options: TrainingOptions, train: Examples, dev: Examples) -> str:
    """Hash of all that shapes a training: its half-done state lies under it in the content store."""
    parts = [
        {"ids": list(part.ids), "labels": part.labels.tolist(), "extractor": part.reader.extractor}
        for part in (train, dev)
    ]
    code = code_hash("whisper_router.decider.registry")
    threads = torch.get_num_threads()
    return digest([options.model_dump(mode="json"), parts, code, torch.__version__, threads])


@torch.inference_mode()
def _judge(network: nn.Module, dev: Examples, size: int, shift: float) -> tuple[float, float]:
    """Binary cross-entropy and share of wrong decisions at 0.5, of logits less ``shift``."""
    network.eval()
    rows = range(len(dev.ids))
    logits, labels = [], []
    for states, lengths, target in batches(dev, [rows[i : i + size] for i in rows[::size]]):
        logits.append(network(states, lengths) - shift)
        labels.append(target)
    logit, label = torch.cat(logits), torch.cat(labels)
    loss = float(F.binary_cross_entropy_with_logits(logit, label))
    return loss, float(((logit > 0) != (label == 1)).float().mean())


def read_state(path: Path) -> dict[str, Any] | None:
    """The state of a training that was begun; None where there is none, or where it is damaged."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    checksum, data = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
    if hashlib.sha256(data).digest() == checksum:
        state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
        return state
    path.unlink(missing_ok=True)
    print(f"content store: {path} was damaged; it is deleted, the training begins anew", file=sys.stderr)
    return None


def _write_state(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    with replacing(path) as temporary:
        temporary.write_bytes(hashlib.sha256(data).digest() + data)


def plan_epoch(rows: Sequence[int], size: int) -> list[list[int]]:
    """Batches of an epoch; a single utterance at the end joins the batch before, for batch norm's sake."""
    plan = [list(rows[i : i + size]) for i in range(0, len(rows), size)]
    if len(plan) > 1 and len(plan[-1]) == 1:
        plan[-2:] = [plan[-2] + plan[-1]]
    return plan


def _best(curve: Sequence[dict[str, float]], metric: str) -> int:
    """Index of the first best epoch."""
    return min(range(len(curve)), key=lambda i: curve[i][metric])


def fit_network(
    network: nn.Module, options: TrainingOptions, train: Examples, dev: Examples, state_path: Path, title: str
) -> list[dict[str, float]]:
    """Train a network in place on the binary cross-entropy and keep its best epoch.

    A run that was killed goes on after its last whole epoch, with an equal result.

    Parameters
    ----------
    network : Module
        ``(states, lengths) -> logits (batch,)``, with a linear layer ``output`` at its end.
    state_path : Path
        Where the state after each epoch is kept.

    Returns
    -------
    list of dict
        The training curve, an entry an epoch.

    Raises
    ------
    UserError
        The loss is not finite, or a split is empty.
    """
    for name, part in (("train", train), ("dev", dev)):
        if not part.ids:
            raise UserError(f"{title}: the {name} split has no utterance")
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimiser = kinds[options.optimiser](
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    order = torch.Generator().manual_seed(options.seed)
    weight = class_weight(options, train.labels)
    shift = math.log(weight)  # weighting adds it to the log-odds; taken off, scores are probabilities again
    curve: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    if state := read_state(state_path):
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        order.set_state(state["order"])
        torch.set_rng_state(state["dropout"])
        curve, best = state["curve"], state["best"]
    metric, size = f"dev_{options.keep}", options.batch_size
    per_epoch = len(plan_epoch(range(len(train.ids)), size))
    steps = options.epochs * per_epoch
    bar = tqdm(total=steps, initial=len(curve) * per_epoch, desc=title, unit="batch")
    while len(curve) < options.epochs:
        if options.patience and curve and len(curve) - 1 - _best(curve, metric) >= options.patience:
            break
        network.train()
        total, step = 0.0, len(curve) * per_epoch
        first_rate = learning_rate(options, step, steps)
        rows = torch.randperm(len(train.ids), generator=order).tolist()
        for states, lengths, target in batches(train, plan_epoch(rows, size)):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(options, step, steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                logits = network(states, lengths)
            loss = F.binary_cross_entropy_with_logits(logits.float(), target, pos_weight=torch.tensor(weight))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() * len(target)
            step += 1
            bar.update()
        dev_loss, dev_error = _judge(network, dev, size, shift)
        point = {"train_loss": total / len(rows), "dev_loss": dev_loss, "dev_error": dev_error}
        if not all(map(math.isfinite, point.values())):
            raise UserError(
                f"{title}: epoch {len(curve) + 1}: the loss is not finite; lower learning_rate "
                f"({options.learning_rate:g}), or the features are not finite"
            )
        curve.append(
            {"epoch": len(curve) + 1, "learning_rate": first_rate}
            | {name: round(value, 6) for name, value in point.items()}
        )
        if _best(curve, metric) == len(curve) - 1:
            best = {name: value.clone() for name, value in network.state_dict().items()}
        bar.set_postfix(dev_loss=f"{dev_loss:.3f}", dev_error=f"{dev_error:.3f}")
        state = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "order": order.get_state(),
            "dropout": torch.get_rng_state(),
            "curve": curve,
            "best": best,
        }
        _write_state(state_path, state)
    bar.close()
    network.load_state_dict(best)
    with torch.no_grad():
        network.output.bias -= shift  # type: ignore[operator, union-attr]
    network.eval()
    return curve

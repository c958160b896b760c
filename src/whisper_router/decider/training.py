"""The training loop of all networks: resumable, the next batch loaded while one is computed."""

import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whisper_router.asr.engine import VERSIONS
from whisper_router.decider.objectives import targets
from whisper_router.decider.options import LearningOptions, TrainingOptions
from whisper_router.errors import UserError
from whisper_router.features.live import Reader
from whisper_router.hashing import code_hash, digest
from whisper_router.progress import bar
from whisper_router.store import ContentStore

CYCLE_FLOOR = 1e-8  # where the paper's code begins its cycle


@dataclass(frozen=True)
class Examples:
    """Labelled utterances whose features are read when they are needed."""

    reader: Reader
    ids: Sequence[str]
    labels: np.ndarray  # (utterances,), 0 or 1
    gains: np.ndarray | None = None  # (utterances,), errors of the weak arm less those of the strong

    def targets(self, options: LearningOptions) -> tuple[np.ndarray, np.ndarray]:
        """Target and weight of each utterance for the options' objective."""
        return targets(options.objective, options.margin, self.labels, self.gains)

    def load(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """States (batch, frames, layers, width) in float16, lengths (batch,)."""
        return pad(self.reader.batch([self.ids[i] for i in rows]))


def pad(features: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Features of shape (frames, layers, width) as a batch with zeros at the end, and their lengths."""
    lengths = [len(feature) for feature in features]
    states = np.zeros((len(features), max(lengths), *features[0].shape[1:]), dtype=np.float16)
    for row, feature in zip(states, features, strict=True):
        row[: len(feature)] = feature
    return torch.from_numpy(states), torch.tensor(lengths)


def batches(examples: Examples, plan: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """States and lengths of the planned batches; each is read while the one before is computed."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(examples.load, plan[0])
        for rows in plan[1:]:
            batch, ahead = ahead.result(), pool.submit(examples.load, rows)
            yield batch
        yield ahead.result()


def learning_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """Learning rate of a step out of ``steps``.

    ``cosine`` anneals by epoch, as torch's CosineAnnealingLR. ``cyclic`` is the rising half of torch's
    CyclicLR, over all steps; the paper's code rises for 65,000.
    """
    if options.schedule == "cosine":
        epoch = step * options.epochs // steps
        return options.learning_rate * (1 + math.cos(math.pi * epoch / options.epochs)) / 2
    if options.schedule == "cyclic":
        return CYCLE_FLOOR + (options.learning_rate - CYCLE_FLOOR) * step / steps
    return options.learning_rate


def class_weight(options: TrainingOptions, labels: np.ndarray) -> float:
    """How much a positive counts: 1, or negatives over positives where the classes are skewed."""
    positive = int(labels.sum())
    negative = len(labels) - positive
    rarer = min(positive, negative)
    if rarer == 0 or rarer / len(labels) >= options.class_weight_below:
        return 1.0
    return negative / positive


def training_key(options: TrainingOptions, train: Examples, dev: Examples) -> str:
    """Hash of all that shapes a training: its half-done state lies under it in the content store."""
    parts = [
        {
            "features": [part.reader.sha256(id_) for id_ in part.ids],
            "labels": part.labels.tolist(),
            "gains": None if part.gains is None else part.gains.tolist(),
            "extractor": part.reader.extractor,
        }
        for part in (train, dev)
    ]
    code = code_hash("whisper_router.decider.registry")
    return digest([options.model_dump(mode="json"), parts, code, VERSIONS, torch.get_num_threads()])


def _loss(options: TrainingOptions, outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error of a regression, else binary cross-entropy of logits."""
    each = (
        (outputs - target) ** 2
        if options.objective == "regression"
        else F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
    )
    return (each * weight).mean()


@torch.inference_mode()
def _validate(
    network: nn.Module, options: TrainingOptions, dev: Examples, shift: float
) -> tuple[float, float]:
    """The objective's loss and share of wrong decisions at 0.5, of logits less ``shift``."""
    network.eval()
    rows, size = range(len(dev.ids)), options.batch_size
    made = [
        network(states, lengths) - shift
        for states, lengths in batches(dev, [rows[i : i + size] for i in rows[::size]])
    ]
    output = torch.cat(made)
    target, weight = (torch.tensor(part, dtype=torch.float32) for part in dev.targets(options))
    wanted = target > (0 if options.objective == "regression" else 0.5)
    return float(_loss(options, output, target, weight)), float(((output > 0) != wanted).float().mean())


def plan_epoch(rows: Sequence[int], size: int) -> list[list[int]]:
    """Batches of an epoch; a single utterance at the end joins the batch before, for batch norm's sake."""
    plan = [list(rows[i : i + size]) for i in range(0, len(rows), size)]
    if len(plan) > 1 and len(plan[-1]) == 1:
        plan[-2:] = [plan[-2] + plan[-1]]
    return plan


def best_point(curve: Sequence[dict[str, float]], monitor: str) -> int:
    """Index of the point of a training curve that is kept: the first with the least dev ``monitor``."""
    return min(range(len(curve)), key=lambda i: curve[i][f"dev_{monitor}"])


def fit_network(
    network: nn.Module, options: TrainingOptions, train: Examples, dev: Examples, state_path: Path, title: str
) -> list[dict[str, float]]:
    """Train a network in place on the options' objective and keep its best epoch.

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
        The loss is not finite.
    """
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimiser = kinds[options.optimiser](
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    shuffle = torch.Generator().manual_seed(options.seed)
    target, each = (torch.tensor(part, dtype=torch.float32) for part in train.targets(options))
    weight = 1.0 if options.objective == "regression" else class_weight(options, target.numpy())
    shift = math.log(weight)  # weighting adds it to the log-odds; taken off, scores are probabilities again
    curve: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    if stored := ContentStore.read_training(state_path):
        state = torch.load(io.BytesIO(stored), weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        shuffle.set_state(state["shuffle_rng"])
        torch.set_rng_state(state["torch_rng"])
        curve, best = state["curve"], state["best"]
    size = options.batch_size
    per_epoch = len(plan_epoch(range(len(train.ids)), size))
    steps = options.epochs * per_epoch
    shown = bar(steps, title, unit="batch", initial=len(curve) * per_epoch)
    while len(curve) < options.epochs:
        kept = best_point(curve, options.monitor) if curve else 0
        if options.patience and len(curve) - 1 - kept >= options.patience:
            break
        network.train()
        total, step = 0.0, len(curve) * per_epoch
        first_rate = learning_rate(options, step, steps)
        rows = torch.randperm(len(train.ids), generator=shuffle).tolist()
        plan = plan_epoch(rows, size)
        for part, (states, lengths) in zip(plan, batches(train, plan), strict=True):
            wanted, counts = target[part], each[part]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(options, step, steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                logits = network(states, lengths)
            classes = torch.where(wanted > 0.5, weight, 1.0)
            loss = _loss(options, logits.float(), wanted, counts * classes)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            unweighted = _loss(options, logits.detach().float() - shift, wanted, counts)
            total += unweighted.item() * len(part)
            step += 1
            shown.update()
        dev_loss, dev_error = _validate(network, options, dev, shift)
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
        if best_point(curve, options.monitor) == len(curve) - 1:
            best = {name: value.clone() for name, value in network.state_dict().items()}
        shown.set_postfix(dev_loss=f"{dev_loss:.3f}", dev_error=f"{dev_error:.3f}")
        state = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "shuffle_rng": shuffle.get_state(),
            "torch_rng": torch.get_rng_state(),
            "curve": curve,
            "best": best,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        ContentStore.write_training(state_path, buffer.getvalue())
    shown.close()
    network.load_state_dict(best)
    with torch.no_grad():
        network.output.bias -= shift  # type: ignore[operator, union-attr]
    network.eval()
    return curve

"""Deciders that are networks on encoder states: built, trained, scored and stored alike."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from whisper_router.decider.mlp import PooledMlp
from whisper_router.decider.options import SCORE_DECIMALS, NetworkOptions
from whisper_router.decider.resnet import LayerResnet
from whisper_router.decider.training import Examples, fit_network, pad, training_key
from whisper_router.decider.transformer import FrameTransformer
from whisper_router.errors import UserError
from whisper_router.store import ContentStore

Network = PooledMlp | LayerResnet | FrameTransformer


def _build(options: NetworkOptions, layers: int, width: int) -> Network:
    if options.kind == "mlp":
        return PooledMlp(options, layers, width)
    if options.kind == "transformer":
        return FrameTransformer(options, layers, width)
    return LayerResnet(options, layers, width)


def _depth(options: NetworkOptions) -> int:
    """Blocks, each of several tensors."""
    if options.kind == "mlp":
        return 1
    return options.blocks if options.kind == "transformer" else len(options.strides)


def _shape(content: bytes) -> tuple[int, int]:
    """Layers and width, of the header of a safetensors file that is known to be one."""
    size = int.from_bytes(content[:8], "little")
    found = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["shape"])
    if not (isinstance(found, list) and len(found) == 2 and all(type(n) is int and n > 0 for n in found)):
        raise ValueError(f"shape {found} is not layers and width")
    return found[0], found[1]


def _read(content: bytes, options: NetworkOptions) -> tuple[dict[str, torch.Tensor], int, int]:
    """Weights, layers and width, if they are those of such a network."""
    tensors = load(content)
    layers, width = _shape(content)
    if _depth(options) > len(tensors):
        raise ValueError(f"{len(tensors)} tensors are too few for {_depth(options)} blocks")
    with torch.device("meta"):  # takes no memory, whatever the sizes
        expected = _build(options, layers, width).state_dict()
    if differing := sorted(tensors.keys() ^ expected.keys()):
        raise ValueError(f"the names of its tensors differ in {', '.join(differing)[:200]}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"{name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"by its options it should be {wanted.dtype} {tuple(wanted.shape)}"
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
    return tensors, layers, width


class NetworkDecider:
    """Score that the strong arm is needed, from encoder states of shape (frames, layers, width)."""

    FILE = "weights.safetensors"

    def __init__(self, network: Network, layers: int, width: int) -> None:
        self.network, self.layers, self.width = network.eval(), layers, width

    @classmethod
    def fit(
        cls, options: NetworkOptions, train: Examples, dev: Examples, title: str
    ) -> tuple["NetworkDecider", list[dict[str, float]]]:
        """Train; return the decider of the best epoch and the curve. A killed training goes on."""
        _, layers, width = train.reader.batch(train.ids[:1])[0].shape
        torch.manual_seed(options.seed)
        network = _build(options, layers, width)
        state = ContentStore().training_path(training_key(options, train, dev))
        return cls(network, layers, width), fit_network(network, options, train, dev, state, title)

    @torch.inference_mode()
    def score(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Scores in [0, 1] to 6 decimals, one an utterance, each independent of the others."""
        scores = [float(self.network(*pad([feature])).sigmoid()) for feature in features]
        return np.round(np.array(scores), SCORE_DECIMALS)

    def macs(self, frames: int) -> int:
        """Multiply-accumulates for an utterance of that many feature frames, all products counted."""
        return self.network.macs(frames)

    def paper_macs(self, frames: int) -> int:
        """Multiply-accumulates of convolutions and linear layers alone."""
        return self.network.paper_macs(frames)

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def save(self, path: Path) -> None:
        """Write the weights."""
        shape = json.dumps([self.layers, self.width])  # one key: safetensors writes several in any order
        save_file(self.network.state_dict(), path, metadata={"shape": shape})

    @classmethod
    def load(cls, path: Path, content: bytes, options: NetworkOptions) -> "NetworkDecider":
        """The weights of a file by its content.

        Raises
        ------
        UserError
            They are not those of such a network.
        """
        try:
            tensors, layers, width = _read(content, options)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is damaged: {error}; run train and package again") from error
        network = _build(options, layers, width)
        network.load_state_dict(tensors)
        return cls(network, layers, width)

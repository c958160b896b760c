"""Deciders by kind, and the folder that holds a trained one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from whisper_router.decider.calibration import Calibration, fit_calibration
from whisper_router.decider.gbt import GbtDecider
from whisper_router.decider.logistic import LogisticDecider
from whisper_router.decider.network import NetworkDecider
from whisper_router.decider.options import DeciderOptions
from whisper_router.decider.training import Examples
from whisper_router.errors import UserError
from whisper_router.files import parse_json, parse_model, read_bytes, write_json
from whisper_router.hashing import digest

Uncalibrated = LogisticDecider | GbtDecider | NetworkDecider

KINDS: dict[str, type[LogisticDecider] | type[GbtDecider] | type[NetworkDecider]] = {
    "logistic": LogisticDecider,
    "gbt": GbtDecider,
    "mlp": NetworkDecider,
    "resnet": NetworkDecider,
    "transformer": NetworkDecider,
}
DESCRIPTION = "decider.json"
DESCRIPTION_BYTES = 4 * 2**20
WEIGHT_BYTES = {"weights.txt": 64 * 2**20, "weights.safetensors": 512 * 2**20}


@dataclass(frozen=True)
class CalibratedDecider:
    """A decider whose scores are mapped to probabilities."""

    raw: Uncalibrated
    calibration: Calibration

    def score(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities that the strong arm is needed, to 6 decimals."""
        return self.calibration.apply(self.raw.score(features))

    def macs(self, frames: int) -> int:
        """The decider's own."""
        return self.raw.macs(frames)

    def paper_macs(self, frames: int) -> int:
        """The decider's own."""
        return self.raw.paper_macs(frames)

    @property
    def parameters(self) -> int:
        """The decider's own."""
        return self.raw.parameters


Decider = Uncalibrated | CalibratedDecider


def fit_decider(
    options: DeciderOptions, train: Examples, dev: Examples, title: str
) -> tuple[Uncalibrated, list[dict[str, float]]]:
    """Train a decider; return it and its training curve.

    Raises
    ------
    UserError
        A split is empty, train holds one class only, or the loss is not finite.
    """
    for name, part in (("train", train), ("dev", dev)):
        if not len(part.ids):
            raise UserError(f"{title}: the {name} split has no utterance; add speakers to the corpus")
    if len(set(train.labels.tolist())) < 2:
        raise UserError(
            f"{title}: the train split holds one class only ({len(train.ids)} utterances); add data"
        )
    made: tuple[Uncalibrated, list[dict[str, float]]] = KINDS[options.kind].fit(options, train, dev, title)  # type: ignore[arg-type]
    return made


def calibrated(decider: Uncalibrated, options: DeciderOptions, held_out: Examples) -> Decider:
    """The decider with its probability calibration, fitted on utterances that it has not learnt from."""
    if options.calibration == "none" or not len(held_out.ids):
        return decider
    scores = decider.score(held_out.reader.batch(held_out.ids))
    calibration = fit_calibration(options.calibration, scores, held_out.labels)
    return decider if calibration is None else CalibratedDecider(decider, calibration)


def save_decider(
    folder: Path, decider: Decider, options: DeciderOptions, extractor: dict[str, object]
) -> None:
    """Write weights and description; ``extractor`` is the identity of the features it was trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    description: dict[str, object] = {
        "options": options.model_dump(mode="json"),
        "extractor": extractor,
        "parameters": decider.parameters,
    }
    if isinstance(decider, CalibratedDecider):
        description["calibration"] = decider.calibration.model_dump(mode="json")
        decider = decider.raw
    decider.save(folder / decider.FILE)
    write_json(folder / DESCRIPTION, description)


class DeciderDescription(BaseModel):
    """decider.json: what a stored decider is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: DeciderOptions
    extractor: dict[str, Any]
    parameters: int
    calibration: Calibration | None = None


@dataclass(frozen=True)
class StoredDecider:
    """A decider's files, read but for the weights, which `load` parses."""

    folder: Path
    description: DeciderDescription
    described: bytes
    weights: bytes

    @classmethod
    def read(cls, folder: Path) -> "StoredDecider":
        """Read a folder.

        Raises
        ------
        UserError
            A file is missing, too large, or is not what `save_decider` writes.
        """
        described = read_bytes(folder / DESCRIPTION, DESCRIPTION_BYTES)
        description = parse_model(folder / DESCRIPTION, described, DeciderDescription)
        kind = KINDS[description.options.kind]
        return cls(folder, description, described, read_bytes(folder / kind.FILE, WEIGHT_BYTES[kind.FILE]))

    @property
    def sha256(self) -> str:
        """Hash of weights and description."""
        parts = (self.weights, self.described)
        return digest([hashlib.sha256(part).hexdigest() for part in parts])

    def load(self) -> Decider:
        """Parse the weights.

        Raises
        ------
        UserError
            They are damaged.
        """
        kind, options = KINDS[self.description.options.kind], self.description.options
        decider: Uncalibrated = kind.load(self.folder / kind.FILE, self.weights, options)  # type: ignore[arg-type]
        calibration = self.description.calibration
        return decider if calibration is None else CalibratedDecider(decider, calibration)


def load_decider(folder: Path) -> tuple[Decider, dict[str, Any]]:
    """The decider of a folder and its description."""
    stored = StoredDecider.read(folder)
    return stored.load(), parse_json(folder / DESCRIPTION, stored.described)


def decider_sha256(folder: Path) -> str:
    """Hash of weights and description."""
    return StoredDecider.read(folder).sha256

"""Deciders by kind, and the folder that holds a trained one."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from whisper_router.decider.logistic import LogisticDecider
from whisper_router.decider.network import NetworkDecider
from whisper_router.decider.options import DeciderOptions
from whisper_router.decider.training import Examples
from whisper_router.errors import UserError
from whisper_router.files import read_json, write_json
from whisper_router.hashing import digest, file_sha256

Decider = LogisticDecider | NetworkDecider

KINDS: dict[str, type[LogisticDecider] | type[NetworkDecider]] = {
    "logistic": LogisticDecider,
    "mlp": NetworkDecider,
    "resnet": NetworkDecider,
}
WEIGHTS, DESCRIPTION = "weights.safetensors", "decider.json"

_OPTIONS: TypeAdapter[DeciderOptions] = TypeAdapter(DeciderOptions)


def fit_decider(
    options: DeciderOptions, train: Examples, dev: Examples, title: str
) -> tuple[Decider, list[dict[str, float]]]:
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
    made: tuple[Decider, list[dict[str, float]]] = KINDS[options.kind].fit(options, train, dev, title)  # type: ignore[arg-type]
    return made


def save_decider(
    folder: Path, decider: Decider, options: DeciderOptions, extractor: dict[str, object]
) -> None:
    """Write weights and description; ``extractor`` is the identity of the features it was trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    decider.save(folder / WEIGHTS)
    description = {
        "options": options.model_dump(mode="json"),
        "extractor": extractor,
        "parameters": decider.parameters,
    }
    write_json(folder / DESCRIPTION, description)


def load_decider(folder: Path) -> tuple[Decider, dict[str, Any]]:
    """The decider of a folder and its description."""
    description = read_json(folder / DESCRIPTION)
    options = _OPTIONS.validate_python(description["options"])
    kind = KINDS[options.kind]
    return kind.load(folder / WEIGHTS, options), description  # type: ignore[arg-type]


def decider_sha256(folder: Path) -> str:
    """Hash of weights and description."""
    return digest([file_sha256(folder / WEIGHTS), file_sha256(folder / DESCRIPTION)])

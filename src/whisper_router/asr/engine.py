"""What an engine is: an encoder and a decoder, whoever runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol

import torch
import whisper
from torch import Tensor

from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.options import Engine
from whisper_router.errors import UserError

VERSIONS = (whisper.__version__, torch.__version__)
PACKAGES: dict[Engine, tuple[str, str]] = {  # beside torch, and the extra that installs it
    "ctranslate2": ("ctranslate2", "fast"),
    "hf": ("transformers", "hf"),
}


def _missing(engine: Engine) -> UserError:
    package, extra = PACKAGES[engine]
    return UserError(
        f"decode.engine {engine}: {package} is not installed; pip install 'whisper-router[{extra}]', "
        "or choose another engine"
    )


def engine_package(engine: Engine) -> Any:
    """The package that an engine runs on.

    Raises
    ------
    UserError
        It is not installed.
    """
    try:
        return import_module(PACKAGES[engine][0])
    except ImportError as error:
        raise _missing(engine) from error


@cache
def engine_versions(engine: Engine) -> tuple[str, ...]:
    """Versions of the packages that shape what an engine makes.

    Raises
    ------
    UserError
        One is not installed.
    """
    try:
        return VERSIONS if engine == "torch" else (*VERSIONS, version(PACKAGES[engine][0]))
    except ImportError as error:
        raise _missing(engine) from error


@dataclass(frozen=True)
class Encoding:
    """A batch after the encoder, every row at the same context."""

    mel: Tensor  # (batch, mels, 2 * frames)
    last: Tensor  # the encoder's normalised output, (batch, frames, width), float32
    earlier: list[Tensor] | None  # conv front end, then each block but the last; None: the engine hides them

    @property
    def states(self) -> list[Tensor]:
        """Conv front end, then each block, the last normalised; each (batch, frames, width), float32.

        Raises
        ------
        UserError
            The engine gives the last only.
        """
        if self.earlier is None:
            raise UserError(
                "decode.engine ctranslate2 gives only the last of the layers that an encoder extractor "
                "reads: set decode.encoder_dtype of that arm to bfloat16 or float32 (torch's encoder before "
                "CTranslate2's decoder), or its decode.engine to torch, or use a confidence extractor"
            )
        return [*(state.float() for state in self.earlier), self.last]

    def rows(self, index: Sequence[int]) -> "Encoding":
        """The same, of some rows only."""
        chosen = torch.tensor(list(index), dtype=torch.long)
        earlier = None if self.earlier is None else [state[chosen] for state in self.earlier]
        return Encoding(self.mel[chosen], self.last[chosen], earlier)


class Encoder(Protocol):
    """A model's first half."""

    def __call__(self, mel: Tensor) -> Encoding:
        """Encode a batch, shape (batch, mels, 2 * frames), at any context up to 1500 frames."""
        ...


class Decoder(Protocol):
    """A model's second half."""

    def __call__(
        self,
        encoded: Tensor,
        limits: Sequence[int],
        temperature: float = 0.0,
        generators: Sequence[torch.Generator] = (),
    ) -> list[Hypothesis]:
        """Decode a batch, shape (batch, frames, width), to at most ``limits`` tokens a row.

        At temperature 0 greedily; above, each row is sampled with its own generator.
        """
        ...

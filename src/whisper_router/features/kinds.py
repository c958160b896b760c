"""Every extractor that params.yaml can name: those of one source, and what is built on them.

The content store hashes `features.options` and `features.extractors`, which shape its encodings; what does
not shape them is said here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whisper_router.features.options import (
    ArmName,
    ConfidenceExtractor,
    EncoderExtractor,
    Reads,
    SignalExtractor,
)

FRAMED = ("encoder", "logmel", "hf")  # kinds with frames for a network to look along


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _OfSound(_Strict):
    """Heard in the sound itself, while the weak encoder runs."""

    @property
    def arm(self) -> ArmName:
        """The arm whose encoder the router has run by the time it decides."""
        return "weak"

    @property
    def reads(self) -> Reads:
        """What is paid before the decision, an encoder of its own apart."""
        return "weak_encoder"


class BlocksExtractor(EncoderExtractor):
    """An arm's encoder, all of it or, of the strong arm, its first blocks: the strong route goes on there."""

    blocks: int | None = Field(None, ge=1, description="strong arm only; null: all")

    @model_validator(mode="after")
    def _of_the_strong_arm(self) -> "BlocksExtractor":
        if self.blocks is None:
            return self
        if self.arm != "strong":
            raise ValueError(f"blocks {self.blocks}: the first blocks are read of arm strong, not {self.arm}")
        if not self.is_stored:
            raise ValueError(
                f"blocks {self.blocks}: they are cut from stored states; set pool above 1 or stored: true"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What shapes a feature."""
        left_out = {"stored"} | ({"blocks"} if self.blocks is None else set())
        return self.model_dump(mode="json", exclude=left_out)

    @property
    def whole(self) -> EncoderExtractor:
        """The states of all blocks, which the content store keeps."""
        return EncoderExtractor.model_validate(self.model_dump(exclude={"blocks"}))


class LogMelExtractor(_OfSound):
    """Whisper's log-mel as the weak arm reads it, cut to the audio: one layer of as many numbers as mels."""

    kind: Literal["logmel"]
    pool: int = Field(8, ge=1, le=3000, description="mel frames of 10 ms averaged into one")

    def identity(self) -> dict[str, Any]:
        """What shapes a feature."""
        return self.model_dump(mode="json")


class HfExtractor(_OfSound):
    """All hidden states of an encoder of Hugging Face's transformers that reads samples (extra ``hf``)."""

    kind: Literal["hf"]
    model: str = Field(description="folder with config.json, preprocessor_config.json, model.safetensors")
    pool: int = Field(4, ge=1, le=1500, description="frames of 20 ms averaged into one")

    def identity(self) -> dict[str, Any]:
        """What shapes a feature, the model's files apart."""
        return self.model_dump(mode="json", exclude={"model"})


Single = Annotated[
    BlocksExtractor | ConfidenceExtractor | SignalExtractor | LogMelExtractor | HfExtractor,
    Field(discriminator="kind"),
]


class CombinedExtractor(_Strict):
    """Several extractors side by side as one vector, for deciders that read one.

    Of a part with frames the vector holds mean and deviation over them.
    """

    kind: Literal["combined"]
    parts: tuple[Single, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _parts_go_together(self) -> "CombinedExtractor":
        kinds = [part.kind for part in self.parts]
        encoders = [part for part in self.parts if isinstance(part, BlocksExtractor)]
        arms = {part.arm for part in encoders} | ({"weak"} if "confidence" in kinds else set())
        if len(arms) == 2:
            raise ValueError(
                "parts: both arms would run before the decision, the weak one for "
                f"{'confidence' if 'confidence' in kinds else 'its encoder'} and the strong one for "
                "its encoder; read one arm only"
            )
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"parts: kind {', '.join(twice)} stands there twice; leave one out")
        for part in encoders:
            if not part.is_stored:
                raise ValueError(f"parts: encoder: pool {part.pool} is not stored; set pool above 1")
        return self

    @property
    def arm(self) -> ArmName:
        """The arm that runs before the decision."""
        return "strong" if any(part.arm == "strong" for part in self.parts) else "weak"

    @property
    def reads(self) -> Reads:
        """What is paid before the decision: the dearest part's."""
        return dearest({part.reads for part in self.parts})

    def identity(self) -> dict[str, Any]:
        """What shapes a feature."""
        return {"kind": self.kind, "parts": [part.identity() for part in self.parts]}


def dearest(reads: set[Reads]) -> Reads:
    """What is paid where several are read: sound alone is heard beside whichever arm runs."""
    order: tuple[Reads, ...] = ("weak", "strong_encoder", "weak_encoder")
    return next(name for name in order if name in reads)


AnyExtractor = Annotated[Single | CombinedExtractor, Field(discriminator="kind")]


def parts_of(extractor: AnyExtractor) -> tuple[Single, ...]:
    """The parts of a combination, or the extractor itself."""
    return extractor.parts if extractor.kind == "combined" else (extractor,)


def with_model(extractor: AnyExtractor, folder: str) -> AnyExtractor:
    """The same with its Hugging Face model, if it reads one, in another folder."""
    if extractor.kind == "combined":
        parts = tuple(with_model(part, folder) for part in extractor.parts)
        return extractor.model_copy(update={"parts": parts})
    return extractor.model_copy(update={"model": folder}) if extractor.kind == "hf" else extractor


def encoder_of(extractor: AnyExtractor) -> BlocksExtractor | None:
    """The part that reads an arm's encoder."""
    return next((part for part in parts_of(extractor) if isinstance(part, BlocksExtractor)), None)


def blocks_of(extractor: AnyExtractor) -> int | None:
    """Blocks of the strong encoder that are run before the decision, where not all are."""
    encoder = encoder_of(extractor)
    return None if encoder is None else encoder.blocks

"""What params.yaml says about extractors."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ArmName = Literal["weak", "strong"]
Reads = Literal["weak_encoder", "strong_encoder", "weak"]


class EncoderExtractor(BaseModel):
    """All hidden states of an arm's encoder, at the context at which that arm decodes.

    ``padding: cut`` leaves out the frames beyond the audio's end; ``keep`` is what the paper does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["encoder"]
    arm: ArmName = "weak"
    pool: int = Field(4, ge=1, le=1500, description="encoder frames of 20 ms averaged into one")
    padding: Literal["cut", "keep"] = "cut"
    stored: bool | None = Field(None, description="null: where pooled; else computed anew in each epoch")

    @property
    def is_stored(self) -> bool:
        """Whether featurize writes the states, or whoever reads them encodes the audio."""
        return self.pool > 1 if self.stored is None else self.stored

    @property
    def reads(self) -> Reads:
        """What is paid before the decision."""
        return "weak_encoder" if self.arm == "weak" else "strong_encoder"

    def identity(self) -> dict[str, Any]:
        """What shapes a feature."""
        return self.model_dump(mode="json", exclude={"stored"})


class ConfidenceExtractor(BaseModel):
    """The weak arm's confidence in its finished hypothesis: the input of a cascade."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["confidence"]

    @property
    def arm(self) -> ArmName:
        """The arm that it reads."""
        return "weak"

    @property
    def reads(self) -> Reads:
        """What is paid before the decision: the whole weak arm."""
        return "weak"

    def identity(self) -> dict[str, Any]:
        """What shapes a feature."""
        return self.model_dump(mode="json")


class SignalExtractor(BaseModel):
    """Statistics of the sound itself: what any decider must beat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["signal"]

    @property
    def arm(self) -> ArmName:
        """The arm whose encoder the router has run by the time it decides."""
        return "weak"

    @property
    def reads(self) -> Reads:
        """What is paid before the decision."""
        return "weak_encoder"

    def identity(self) -> dict[str, Any]:
        """What shapes a feature."""
        return self.model_dump(mode="json")


Extractor = Annotated[EncoderExtractor | ConfidenceExtractor | SignalExtractor, Field(discriminator="kind")]

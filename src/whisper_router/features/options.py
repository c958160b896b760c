"""What params.yaml says about extractors."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class EncoderExtractor(BaseModel):
    """All hidden states of an arm's encoder, averaged over time; frames beyond the audio's end left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["encoder"]
    arm: Literal["weak"] = "weak"
    pool: int = Field(4, ge=1, le=1500, description="encoder frames of 20 ms averaged into one")


class ConfidenceExtractor(BaseModel):
    """The weak arm's confidence in its finished hypothesis: the input of a cascade."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["confidence"]


Extractor = Annotated[EncoderExtractor | ConfidenceExtractor, Field(discriminator="kind")]

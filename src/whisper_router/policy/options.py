"""What params.yaml says about policies."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class FixedOptions(BaseModel):
    """A threshold set by hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["fixed"]
    decider: str
    threshold: float = Field(ge=0, le=1)


class StrongShareOptions(BaseModel):
    """The threshold that sends at most this share of the calibration split to the strong arm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["strong_share"]
    decider: str
    share: float = Field(ge=0, le=1)


PolicyOptions = Annotated[FixedOptions | StrongShareOptions, Field(discriminator="kind")]

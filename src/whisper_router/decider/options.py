"""What params.yaml says about deciders."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCORE_DECIMALS = 6


class LogisticOptions(BaseModel):
    """Logistic regression on the mean of the features; its strength of regularisation by dev loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["logistic"]
    extractor: str
    c: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), min_length=1
    )


class MlpOptions(BaseModel):
    """A weighted sum of encoder layers, mean and deviation over time, one hidden layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["mlp"]
    extractor: str
    hidden: int = Field(32, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    epochs: int = Field(40, ge=1)
    batch_size: int = Field(32, ge=1)
    seed: int = 0


DeciderOptions = Annotated[LogisticOptions | MlpOptions, Field(discriminator="kind")]

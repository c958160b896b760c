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

    @property
    def monitor(self) -> Literal["loss", "error"]:
        """The dev figure that the best ``c`` is chosen by."""
        return "loss"


class TrainingOptions(BaseModel):
    """How a network is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    extractor: str
    optimiser: Literal["adam", "adamw"]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["constant", "cosine", "cyclic"] = Field(
        description="constant; cosine: down to 0, an epoch a step; cyclic: up from 1e-8 over the whole run"
    )
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    monitor: Literal["loss", "error"] = Field("loss", description="dev figure that the best epoch is kept by")
    patience: int | None = Field(None, ge=1, description="stop after that many epochs without a better one")
    class_weight_below: float = Field(
        0.2,
        ge=0,
        le=0.5,
        description="weight classes where the rarer has a smaller share; scores stay honest",
    )
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


class MlpOptions(TrainingOptions):
    """A weighted sum of encoder layers, mean and deviation over time, one hidden layer."""

    kind: Literal["mlp"]
    hidden: int = Field(32, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    optimiser: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    schedule: Literal["constant", "cosine", "cyclic"] = "constant"
    epochs: int = Field(40, ge=1)
    batch_size: int = Field(32, ge=1)
    patience: int | None = Field(10, ge=1)


class ResnetOptions(TrainingOptions):
    """The paper's decider (arXiv 2309.12712, section 2.2); the defaults are the paper's."""

    kind: Literal["resnet"]
    channels: int = Field(256, ge=1)
    strides: tuple[Annotated[int, Field(ge=1)], ...] = Field((2, 3, 3), min_length=1)
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine", "cyclic"] = "cosine"
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=1)
    monitor: Literal["loss", "error"] = "error"
    class_weight_below: float = Field(0.0, ge=0, le=0.5)


DeciderOptions = Annotated[LogisticOptions | MlpOptions | ResnetOptions, Field(discriminator="kind")]

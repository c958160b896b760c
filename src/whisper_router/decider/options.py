"""What params.yaml says about deciders."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCORE_DECIMALS = 6


Objective = Literal["label", "margin", "cost", "regression"]
CalibrationKind = Literal["none", "temperature", "isotonic"]


class LearningOptions(BaseModel):
    """What every decider is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    extractor: str
    objective: Objective = Field(
        "label",
        description="label; margin: strong better by more than `margin` errors; cost: an utterance weighs "
        "the errors that the choice costs; regression: of the difference in errors",
    )
    margin: int = Field(0, ge=0, description="errors, for the objective margin")
    calibration: CalibrationKind = Field(
        "temperature", description="how scores become probabilities, on the calibration split"
    )


class PooledOptions(LearningOptions):
    """A decider that reads one vector an utterance."""

    deviation: bool = Field(False, description="the features' deviation over time beside their mean")

    @property
    def monitor(self) -> Literal["loss", "error"]:
        """The dev figure that the best point of the curve is chosen by."""
        return "loss"


class LogisticOptions(PooledOptions):
    """Logistic regression on the mean of the features; its strength of regularisation by dev loss."""

    kind: Literal["logistic"]
    c: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), min_length=1
    )


class GbtOptions(PooledOptions):
    """Gradient-boosted trees (LightGBM); how many, by dev loss."""

    kind: Literal["gbt"]
    trees: int = Field(300, ge=1, description="at most")
    leaves: int = Field(4, ge=2)
    learning_rate: float = Field(0.03, gt=0)
    min_in_leaf: int = Field(20, ge=1)
    feature_share: float = Field(0.4, gt=0, le=1)
    row_share: float = Field(0.7, gt=0, le=1)
    l2: float = Field(5.0, ge=0)
    seed: int = 0


class TrainingOptions(LearningOptions):
    """How a network is trained."""

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
    attention: int = Field(0, ge=0, description="hidden units that weigh the frames; 0: all weigh alike")
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
    layer_weights: Literal["raw", "softmax"] = "raw"
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


class TransformerOptions(TrainingOptions):
    """A small transformer over the frames: the paper's alternative to the ResNet."""

    kind: Literal["transformer"]
    width: int = Field(64, ge=4)
    heads: int = Field(4, ge=1)
    blocks: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    optimiser: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    schedule: Literal["constant", "cosine", "cyclic"] = "cosine"
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=1)
    patience: int | None = Field(6, ge=1)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "TransformerOptions":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


NetworkOptions = MlpOptions | ResnetOptions | TransformerOptions
DeciderOptions = Annotated[LogisticOptions | GbtOptions | NetworkOptions, Field(discriminator="kind")]

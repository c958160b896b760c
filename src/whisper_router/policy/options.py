"""What params.yaml says about policies."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Currency = Literal["macs", "macs_paper", "cpu_seconds", "joules"]
MEASURED = ("cpu_seconds", "joules")  # take a measured table


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    decider: str


class FixedOptions(_Options):
    """A threshold set by hand."""

    kind: Literal["fixed"]
    threshold: float = Field(ge=0, le=1)


class StrongShareOptions(_Options):
    """The threshold that sends at most this share of the calibration split to the strong arm."""

    kind: Literal["strong_share"]
    share: float = Field(ge=0, le=1)


class CostBudgetOptions(_Options):
    """As much to the strong arm as a budget pays for."""

    kind: Literal["cost_budget"]
    budget: float = Field(gt=0, description="as a share of always-strong's cost")
    currency: Currency = "macs"


class WerBudgetOptions(_Options):
    """The largest saving whose WER on the calibration split stays near always-strong's."""

    kind: Literal["wer_budget"]
    points: float = Field(ge=0, le=100, description="percentage points of WER above always-strong's")
    currency: Currency = Field("macs", description="of the saving")


class BestWerOptions(_Options):
    """The threshold with the lowest WER on the calibration split: a router may beat its strong arm."""

    kind: Literal["best_wer"]


class GuaranteeOptions(_Options):
    """The cheapest threshold that keeps a promise.

    ``risk`` is what stays under ``alpha``: ``all``, the share of all utterances that go to the weak arm and
    come out worse than the strong arm's by more than ``tau``; ``weak``, the same among those that go to the
    weak arm; ``mean_loss``, the mean over all utterances of the WER lost by going to the weak arm, at most 1
    each.
    """

    kind: Literal["guarantee"]
    risk: Literal["all", "weak", "mean_loss"] = "all"
    alpha: float = Field(0.05, gt=0, lt=1)
    delta: float = Field(0.1, gt=0, lt=1, description="the promise fails no more often; not of mean_loss")
    tau: float = Field(0.0, ge=0, description="WER lost that does not count; not of mean_loss")
    unit: Literal["utterance", "speaker"] = Field(
        "utterance", description="what counts as one independent draw"
    )


PolicyOptions = Annotated[
    FixedOptions
    | StrongShareOptions
    | CostBudgetOptions
    | WerBudgetOptions
    | BestWerOptions
    | GuaranteeOptions,
    Field(discriminator="kind"),
]


class VerdictOptions(BaseModel):
    """When routing is worth it: the rule is in ``whisper_router.verdict``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tolerance: float = Field(1.0, gt=0, le=100, description="points of WER that count as equally good")
    currency: Currency | None = Field(
        None, description="of the costs; null: cpu_seconds where a cost table is named, else macs"
    )

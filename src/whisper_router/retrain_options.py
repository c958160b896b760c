"""What params.yaml says about retraining and its gate; no stage of the DAG reads it."""

import os
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from whisper_router.errors import UserError

WEBHOOK = "WHISPER_ROUTER_WEBHOOK"  # a URL that gets a JSON of the outcome by POST: a secret


class GateOptions(BaseModel):
    """What a challenger has to show, paired with the champion on the same test utterances."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_gap_gain: float = Field(
        0.02, ge=0, description="share of WER_weak - WER_strong that it recovers more"
    )
    min_saving: float = Field(0.02, ge=0, lt=1, description="or: share of the champion's cost that it saves")
    wer_tolerance: float = Field(0.005, ge=0, description="rise of WER that counts as equal, for the saving")
    max_slice_loss: float = Field(0.03, ge=0, description="rise of WER that no slice may show")
    min_slice_words: int = Field(200, ge=1, description="slices with fewer words are not judged")
    max_latency_ratio: float = Field(
        1.25, gt=0, description="median seconds an utterance over the champion's"
    )
    max_size_mb: float = Field(100, gt=0, description="the packaged router, without referenced checkpoints")
    resamples: int = Field(2000, ge=100)


class RetrainOptions(BaseModel):
    """Where new audio comes from and who is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drop: str | None = Field(None, description="folder; each folder in it with a metadata table is a batch")
    corpus: str | None = Field(
        None, description="audiofolder corpus of params.yaml that batches are added to"
    )
    remote: str | None = Field(
        None, description="DVC remote that data is pushed to; null: the default, if any"
    )
    when: Literal["always", "drift"] = Field(
        "always", description="drift: only where log has drifted, or drop holds new audio"
    )
    log: str | None = Field(None, description="folder of the prediction log that `when: drift` reads")
    branch: str = Field("main", description="the branch that a version which passed is merged into")

    @model_validator(mode="before")
    @classmethod
    def _webhook_is_a_secret(cls, values: Any) -> Any:
        if isinstance(values, dict) and "webhook" in values:
            raise ValueError(
                "webhook: its URL is a secret, and params.yaml is committed and logged. Remove the key, set"
                f" {WEBHOOK} in the environment; a URL that was committed should be replaced by a new one"
            )
        return values

    @model_validator(mode="after")
    def _drift_needs_a_log(self) -> Self:
        if self.when == "drift" and self.log is None:
            raise ValueError("when: drift needs log, the folder that `whisper-router serve --log` writes")
        return self


def webhook() -> SecretStr | None:
    """The URL that is told of a retraining; None where none is set.

    Raises
    ------
    UserError
        It is no http or https URL; the message does not show it.
    """
    url = os.environ.get(WEBHOOK)
    if url is None:
        return None
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise UserError(f"{WEBHOOK} is not a URL that begins with http:// or https://")
    return SecretStr(url)

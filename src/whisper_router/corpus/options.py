"""What params.yaml says about corpora and splits."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whisper_router.audio import WINDOW_S

SPLITS = ("train", "dev", "calibration", "test")


class Corpus(BaseModel):
    """One corpus: the demo's sentences, or a table of audio files and transcripts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    kind: Literal["demo", "table"]
    path: str = Field(description="sentences or table, below ingest.root")
    utterances: int | None = Field(None, ge=1, description="take a sample of this size; all if absent")
    seed: int = 0


class Splits(BaseModel):
    """Shares of speakers; train takes the rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    salt: str = "whisper-router"
    test: float = Field(0.25, gt=0, lt=1)
    calibration: float = Field(0.2, gt=0, lt=1)
    dev: float = Field(0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _leaves_some_for_train(self) -> "Splits":
        if self.test + self.calibration + self.dev >= 1:
            raise ValueError(
                f"test {self.test} + calibration {self.calibration} + dev {self.dev} leave no train"
            )
        return self


class IngestOptions(BaseModel):
    """Where utterances come from, and which are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str = Field("data/corpora", description="the folder that holds all corpora; DVC watches it")
    corpora: tuple[Corpus, ...] = Field(min_length=1)
    splits: Splits = Splits()
    min_duration_s: float = Field(0.2, gt=0)
    max_duration_s: float = Field(WINDOW_S, gt=0, le=WINDOW_S)

    @model_validator(mode="after")
    def _names_differ(self) -> "IngestOptions":
        names = [corpus.name for corpus in self.corpora]
        if len(set(names)) < len(names):
            raise ValueError(f"two corpora share a name: {names}")
        return self

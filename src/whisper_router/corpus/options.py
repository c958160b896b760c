"""What params.yaml says about corpora and splits."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from whisper_router.audio import MAX_SECONDS

COLUMNS = ("id", "audio", "text", "speaker", "split", "offset_s", "duration_s", "language")
SPLITS = ("train", "dev", "calibration", "test")
FOLDS = "folds"  # the split of rows of a small corpus, which are cross-validated instead

# What Hugging Face's datasets call splits, beside our own names.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val"),
    "calibration": ("calibration",),
    "test": ("test", "testing", "eval", "evaluation"),
}

Kind = Literal["line", "text", "audio", "span", "silent", "length", "duplicate", "shared", "long"]

# Why ingest leaves a row out.
KINDS: dict[Kind, str] = {
    "line": "a line of the table that cannot be read, or a name in it that cannot be taken",
    "text": "no words in the text, or too few",
    "audio": "audio missing, unreadable or truncated",
    "span": "offset or duration not that of the audio",
    "silent": "silence",
    "length": "shorter or longer than ingest allows",
    "duplicate": "id stands twice",
    "shared": "text, audio or speaker also in a split of higher priority",
    "long": "over 30 s outside the test split",
}


def split_named(name: str) -> str | None:
    """Our name of a split, whatever its case and whose name it is; None where it is none."""
    lower = name.strip().lower()
    return next((split for split, names in _SPLIT_NAMES.items() if lower in names), None)


class Corpus(BaseModel):
    """One corpus: the demo's sentences, or audio files, with transcripts in one of the usual layouts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)
    kind: Literal[
        "demo", "table", "nemo", "audiofolder", "librispeech", "commonvoice", "kaldi", "lhotse", "folder"
    ]
    path: str = Field(description="file or folder, below ingest.root")
    columns: dict[str, str] = Field({}, description="table: what audio, text, speaker, ... are called there")
    recordings: str | None = Field(None, description="lhotse: recordings beside the supervisions in path")
    reference: Literal["text", "strong"] | None = Field(
        None,
        description="strong: rows with an empty text are taken, and the strong arm's text is their "
        "reference; folder: strong, else text",
    )
    speaker_level: int | None = Field(
        None, ge=1, description="folder: which folder below path is the speaker, counted from path; 1"
    )
    min_words: int | None = Field(None, ge=1, description="of a text; commonvoice: 3, else 1")
    max_train_duration_s: float | None = Field(None, gt=0, description="longer clips of train are left out")
    utterances: int | None = Field(None, ge=1, description="take a sample of this size; all if absent")
    seed: int = 0

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Corpus":
        if not self.name.strip("."):
            raise ValueError(f"corpus {self.name!r}: its name is that of a folder; take another than dots")
        if self.columns and self.kind != "table":
            raise ValueError(f"corpus {self.name}: columns belong to kind table, not {self.kind}")
        if self.recordings and self.kind != "lhotse":
            raise ValueError(f"corpus {self.name}: recordings belong to kind lhotse, not {self.kind}")
        if self.speaker_level and self.kind != "folder":
            raise ValueError(f"corpus {self.name}: speaker_level belongs to kind folder, not {self.kind}")
        if self.kind == "folder" and self.reference == "text":
            raise ValueError(
                f"corpus {self.name}: kind folder has no texts; leave reference out, or use another kind"
            )
        if self.kind == "demo" and self.reference == "strong":
            raise ValueError(f"corpus {self.name}: every row of kind demo has a text; leave reference out")
        unknown = sorted(set(self.columns) - set(COLUMNS))
        if unknown:
            raise ValueError(f"corpus {self.name}: columns: {unknown[0]!r} is none of {', '.join(COLUMNS)}")
        return self

    @property
    def takes_untold(self) -> bool:
        """Whether rows with an empty text are taken."""
        return self.kind == "folder" or self.reference == "strong"

    @property
    def fewest_words(self) -> int:
        """Words that a text must have. The paper drops texts under three words of Common Voice."""
        return self.min_words or (3 if self.kind == "commonvoice" else 1)


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
    max_duration_s: float = Field(MAX_SECONDS, gt=0, le=MAX_SECONDS, description="over 30 s only in test")

    @model_validator(mode="after")
    def _names_differ(self) -> "IngestOptions":
        names = [corpus.name for corpus in self.corpora]
        if len(set(names)) < len(names):
            raise ValueError(f"two corpora share a name: {names}")
        return self

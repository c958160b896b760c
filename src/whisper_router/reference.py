"""What word errors are counted against: a row's own text, or the strong arm's where the row has none."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

ReferenceKind = Literal["text", "strong"]

UNSEEN = (
    "Without transcripts nobody can tell which arm is right where they differ: an utterance on which {weak} "
    "is right and {strong} is wrong counts as an error of {weak}, and errors that both make alike are not "
    "seen."
)


def told(table: pd.DataFrame) -> pd.Series:
    """Which rows of a manifest or of labels have a transcript: all, where the table does not say."""
    if "reference" not in table:
        return pd.Series(True, index=table.index)
    return table["reference"] == "text"


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that figures are of: those with transcripts, or all where no row has one. Never both kinds."""
    known = told(table)
    return table[known] if known.any() else table


def kind_of(table: pd.DataFrame) -> ReferenceKind:
    """What rows of one kind are measured against."""
    return "text" if told(table).all() else "strong"


@dataclass(frozen=True)
class Reference:
    """What the errors of some utterances are counted against, and the words for that."""

    kind: ReferenceKind = "text"
    weak: str = "the weak arm"
    strong: str = "the strong arm"

    @property
    def is_text(self) -> bool:
        """Whether the utterances have transcripts."""
        return self.kind == "text"

    @property
    def wer(self) -> str:
        """What a share of word errors is called."""
        return "WER" if self.is_text else f"words that differ from {self.strong}'s text"

    @property
    def unseen(self) -> str:
        """What figures without transcripts cannot tell."""
        return UNSEEN.format(weak=self.weak, strong=self.strong)


TEXT = Reference()

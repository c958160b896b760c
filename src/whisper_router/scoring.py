"""Whisper's English normaliser and word error counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import jiwer
import whisper
from whisper.normalizers import EnglishTextNormalizer

from whisper_router.errors import UserError

NORMALISER = f"whisper.EnglishTextNormalizer/{whisper.__version__}"


@cache
def _normaliser() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


@lru_cache(maxsize=100_000)
def normalise(text: str) -> str:
    """Whisper's English normalisation, applied to references and hypotheses alike."""
    return str(_normaliser()(text)).strip()


def has_words(text: str) -> bool:
    """Whether anything is left to score after normalisation; the normaliser keeps the dots of an ellipsis."""
    return any(character.isalnum() for character in normalise(text))


@dataclass(frozen=True)
class WordErrors:
    """Edit counts of one hypothesis against one reference, in words after normalisation."""

    substitutions: int
    deletions: int
    insertions: int
    reference_words: int

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Edits for a reference word: 1.0 is as many errors as words."""
        return self.errors / self.reference_words


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[WordErrors]:
    """Count edits, pair by pair.

    Raises
    ------
    UserError
        A reference without words: its WER is not defined.
    """
    if not references:
        return []
    normalised = [normalise(text) for text in references]
    for raw in references:
        if not has_words(raw):
            raise UserError(f"reference {raw!r} has no words after normalisation; leave the utterance out")
    output = jiwer.process_words(normalised, [normalise(text) for text in hypotheses])
    counts = []
    for reference, chunks in zip(output.references, output.alignments, strict=True):
        edits = {"substitute": 0, "delete": 0, "insert": 0}
        for chunk in chunks:
            if chunk.type == "insert":
                edits["insert"] += chunk.hyp_end_idx - chunk.hyp_start_idx
            elif chunk.type != "equal":
                edits[chunk.type] += chunk.ref_end_idx - chunk.ref_start_idx
        counts.append(WordErrors(edits["substitute"], edits["delete"], edits["insert"], len(reference)))
    return counts

"""Texts as people read them, Whisper's English normaliser, and word error counts."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import jiwer
import whisper
from whisper.normalizers import EnglishTextNormalizer

from whisper_router.errors import UserError

NORMALISER = f"folded/1+whisper.EnglishTextNormalizer/{whisper.__version__}"

# Windows-1252 read as Latin-1: U+0092 is its apostrophe. U+0085 is also a line's end, and stays that.
_C1 = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0) if code != 0x85}
_APOSTROPHES = "\u2019\u2018\u201b\u00b4\u0060\u02bb\u02bc\u02bd\u02b9\u02c8\u2032\u2035\u055a\ua78c\uff07"
_DOUBLE_QUOTES = "\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb\uff02"
_HYPHENS = "\u2010\u2011"
_TYPED = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_DOUBLE_QUOTES, '"') | dict.fromkeys(_HYPHENS, "-")
)
# Soft hyphens, zero-width spaces and joiners, marks of direction, byte order marks, variation selectors.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)
_FRACTIONS = re.compile("([\u00bc-\u00be\u2150-\u215f\u2189])")  # in NFKC 2½ is 21/2
_QUOTED_LETTERS = re.compile(r"(?<!\w)'(s|d|t|m|ll|re|ve)'(?!\w)", re.IGNORECASE)  # no contractions


@cache
def _normaliser() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


def fold(text: str) -> str:
    """The text as a plain keyboard types it: what looks alike is alike.

    Apostrophes, double quotes and hyphens of any kind are ASCII's, wide letters, ligatures and no-break
    spaces the usual ones (NFKC, but for fractions), and characters that nobody sees are gone. Whisper's
    normaliser knows contractions by ASCII's apostrophe alone, and takes the quoted letter 't' for one: it is
    put into double quotes.
    """
    seen = _UNSEEN.sub("", text.translate(_C1)).translate(_TYPED)
    parts = (unicodedata.normalize("NFKC", part) for part in _FRACTIONS.split(seen))
    typed = "".join(parts).translate(_TYPED)  # NFKC brings some back: U+0149 is U+02BC and n
    return _QUOTED_LETTERS.sub(r'"\1"', typed)


@lru_cache(maxsize=100_000)
def normalise(text: str) -> str:
    """Whisper's English normalisation of the folded text, of references and hypotheses alike."""
    return str(_normaliser()(fold(text))).strip()


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

"""How far the texts of both arms differ, in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jiwer

from whisper_router.scoring import normalise


@dataclass(frozen=True)
class Disagreement:
    """Both arms on one utterance, after normalisation."""

    words_weak: int
    words_strong: int
    differences: int  # fewest substitutions, deletions and insertions from one to the other


def disagreements(weak: Sequence[str], strong: Sequence[str]) -> list[Disagreement]:
    """Compare texts pair by pair; either may be empty."""
    pairs = [
        (normalise(one).split(), normalise(other).split()) for one, other in zip(weak, strong, strict=True)
    ]
    spoken = [(one, other) for one, other in pairs if one and other]
    edits: Iterator[list[jiwer.AlignmentChunk]] = iter(())
    if spoken:
        made = jiwer.process_words([" ".join(o) for _, o in spoken], [" ".join(w) for w, _ in spoken])
        edits = iter(made.alignments)
    result = []
    for one, other in pairs:
        differences = max(len(one), len(other))
        if one and other:
            chunks = [chunk for chunk in next(edits) if chunk.type != "equal"]
            differences = sum(
                max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in chunks
            )
        result.append(Disagreement(len(one), len(other), differences))
    return result

"""What ingest left out and what the checks found, for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whisper_router.corpus.options import KINDS

EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """Rows with one fault: what it is, how many, and the first of them."""

    what: str
    count: int
    examples: tuple[str, ...]


def left_out(rejected: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """The rows that ingest left out, by kind."""
    result = []
    for kind, what in KINDS.items():
        rows = [row for row in rejected if row["kind"] == kind]
        if rows:
            examples = tuple(f"{row['corpus']} {row['id']}: {row['reason']}" for row in rows[:EXAMPLES])
            result.append(Finding(what, len(rows), examples))
    return result


def warned(checked: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The expectations that did not hold and only warn, of all suites."""
    return [verdict for suite in checked for verdict in suite["verdicts"] if not verdict["passed"]]

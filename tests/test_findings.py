"""What is wrong with the data is counted by kind and named."""

import pytest

from whisper_router.corpus.options import KINDS
from whisper_router.findings import EXAMPLES, left_out, warned


def row(kind: str, number: int) -> dict[str, str]:
    return {"corpus": "calls", "id": f"{kind}-{number}", "audio": "a.wav", "kind": kind, "reason": "why"}


def test_rows_are_counted_by_kind_in_the_order_of_the_kinds_and_the_first_are_named():
    rejected = [row("silent", i) for i in range(EXAMPLES + 2)] + [row("audio", 0)]
    audio, silent = left_out(rejected)
    assert (audio.what, audio.count) == (KINDS["audio"], 1)
    assert audio.examples == ("calls audio-0: why",)
    assert (silent.what, silent.count) == (KINDS["silent"], EXAMPLES + 2)
    assert silent.examples == tuple(f"calls silent-{i}: why" for i in range(EXAMPLES))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found(kind):
    (found,) = left_out([row(kind, 0)])
    assert found.what == KINDS[kind]


def test_expectations_that_do_not_hold_are_collected_over_the_suites():
    suites = [
        {"verdicts": [{"name": "a", "passed": True}, {"name": "b", "passed": False}]},
        {"verdicts": [{"name": "c", "passed": False}]},
    ]
    assert [verdict["name"] for verdict in warned(suites)] == ["b", "c"]

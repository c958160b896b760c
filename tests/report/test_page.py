"""What the top of the page is made of, and the figures that DVC shows."""

import pytest
from projects import VERDICT

from whisper_router.report.page import code, standing_rows
from whisper_router.report.words import deciding
from whisper_router.verdict import RANDOM


def test_text_in_backquotes_is_code_and_all_is_escaped():
    assert code("run `a <b>`; & so on") == "run <code>a &lt;b&gt;</code>; &amp; so on"


def test_the_choices_stand_by_cost_and_the_advised_one_is_marked():
    rows = standing_rows(VERDICT)
    assert [row["title"] for row in rows] == ["weak.pt alone", "policy half", RANDOM, "strong.pt alone"]
    assert [row["best"] for row in rows] == [False, True, False, False]
    assert rows[0]["wer_width"] == rows[-1]["cost_width"] == 100
    assert rows[1]["words"] == "5 of 10 utterances go to strong.pt"
    assert rows[1]["cost"] == "60%"


@pytest.mark.parametrize("reference", ["text", "strong"])
def test_the_figures_that_decide_are_few_and_a_reference_has_none(reference):
    names = ("wer_weak", "wer_strong", "wer_routed", "strong_share", "auroc", "macs_weak", "macs_routed")
    metrics = {name: {"value": 0.123456} for name in names} | {"reference": reference}
    found = deciding(metrics, "macs")
    assert list(found) == [
        "wer_weak",
        "wer_strong",
        "wer_routed",
        "to_strong",
        "cost_weak",
        "cost_routed",
        "auroc",
    ]
    assert found["cost_routed"] == 0.1235
    assert found["wer_strong"] == (0.1235 if reference == "text" else None)

"""Slices by hand: who is in them, what they say, and which lose."""

import json

import numpy as np
import pandas as pd
import pytest

from whisper_router.evaluation import Choice, Pair
from whisper_router.slices import confusion, losing, slice_columns, slice_table

N = 60


@pytest.fixture
def manifest() -> pd.DataFrame:
    rows = range(N)
    return pd.DataFrame(
        {
            "corpus": ["near" if i < 30 else "far" for i in rows],
            "speaker": [f"s{i % 15}" for i in rows],
            "duration_s": [1.0 if i % 2 else 5.0 for i in rows],
            "tags": [
                json.dumps({"accent": "north" if i % 3 else "south", "age": str(20 + i), "note": f"n{i}"})
                if i
                else ""
                for i in rows
            ],
        }
    )


def made_of(weak: np.ndarray, strong: np.ndarray, sent: np.ndarray) -> tuple[Pair, dict[str, Choice]]:
    cost = {name: {"macs": np.full(N, value)} for name, value in (("weak", 1.0), ("strong", 4.0))}
    zeros = np.zeros(N)
    label = (weak > strong).astype(int)
    pair = Pair(np.arange(N) % 15, np.full(N, 10), weak, strong, label, zeros, zeros,
                cost["weak"], cost["strong"], cost["weak"], cost["strong"])  # fmt: skip
    routed = Choice(np.where(sent, strong, weak), {"macs": 1 + np.where(sent, 4.0, 0.0)}, sent.astype(float))
    return pair, {
        "weak": Choice(weak, cost["weak"], zeros),
        "strong": Choice(strong, cost["strong"], np.ones(N)),
        "routed": routed,
    }


def test_tags_make_slices_if_they_have_few_values_or_are_numbers(manifest):
    columns = slice_columns(manifest)
    assert list(columns) == ["corpus", "duration", "accent", "age", "speaker"]
    assert set(columns["duration"]) == {"0 to 2 s", "4 to 8 s"}
    assert columns["accent"].isna().tolist() == [True] + [False] * (N - 1)
    assert columns["age"].value_counts().max() == 15
    assert len(columns["age"].dropna().unique()) == 4


def test_a_slice_s_figures_are_those_of_its_utterances_and_the_losing_one_is_named(manifest):
    weak = np.where(np.arange(N) < 30, 0, 3)  # the far corpus is beyond the weak arm
    pair, made = made_of(weak, np.ones(N, dtype=int), np.zeros(N, dtype=bool))
    table = slice_table(slice_columns(manifest), pair, made, 200, 0)
    by = {(row["by"], row["slice"]): row for row in table}
    near, far = by["corpus", "near"], by["corpus", "far"]
    assert (near["utterances"], near["speakers"]) == (30, 15)
    assert (near["wer_weak"], near["wer_strong"], near["wer_routed"]) == (0, 0.1, 0)
    assert near["wer_rise"] == {"value": -0.1, "interval": [-0.1, -0.1]}
    assert near["saving_macs"] == 0.75
    assert (near["verdict"], far["verdict"]) == ("gains", "loses")
    assert {"corpus far", "age 50 to 64.5", "age 64.5 to 79"} <= set(losing(table))
    assert "corpus near" not in losing(table)
    assert not any(row["by"] == "speaker" for row in table)  # four utterances each


def test_the_confusion_adds_up_to_the_router_s_words_and_costs():
    rng = np.random.default_rng(0)
    weak, strong, sent = rng.integers(0, 4, N), rng.integers(0, 4, N), rng.uniform(size=N) < 0.5
    pair, made = made_of(weak, strong, sent)
    cells = confusion(pair, made)
    assert sum(cell["utterances"] for cell in cells) == N
    assert sum(cell["words_lost"] for cell in cells) == (made["routed"].errors - strong).sum()
    saved = 1 - made["routed"].cost["macs"].sum() / (4 * N)
    assert sum(cell["saved"]["macs"] for cell in cells) == pytest.approx(saved, abs=1e-5)
    wrong = next(cell for cell in cells if (cell["needed"], cell["sent"]) == ("strong", "weak"))
    assert wrong["words_lost"] == (weak - strong)[(weak > strong) & ~sent].sum() > 0

"""Drift: found where the sound changed, and hardly ever where it did not."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_router.drift import find_drift, make_baseline, read_log, stability_index
from whisper_router.errors import UserError


def sample(random: np.random.Generator, n: int, harder: float = 0.0) -> pd.DataFrame:
    """Rows of a log; ``harder`` moves scores up and confidence down."""
    score = 1 / (1 + np.exp(-random.normal(-0.5 + harder, 1, n)))
    return pd.DataFrame(
        {
            "time": pd.Timestamp("2026-01-01", tz="UTC"),
            "version": "1",
            "score": score,
            "avg_logprob": random.normal(-0.4 - harder / 4, 0.2, n),
            "duration_s": random.gamma(4, 1.5, n),
            "route": np.where(score >= 0.5, "strong", "weak"),
        }
    )


def baseline_of(table: pd.DataFrame) -> dict[str, object]:
    return make_baseline(table, (table["route"] == "strong").to_numpy())


def test_fresh_audio_of_the_same_kind_is_stable_but_for_chance():
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        found = find_drift(baseline_of(sample(random, 150)), sample(random, 300))
        alarms += any(finding.verdict == "drift" for finding in found)
    assert alarms <= 4


def test_harder_audio_is_found_in_score_share_and_confidence():
    random = np.random.default_rng(1)
    found = {f.name: f for f in find_drift(baseline_of(sample(random, 150)), sample(random, 300, 1.0))}
    assert [found[name].verdict for name in ("strong_share", "score", "avg_logprob")] == ["drift"] * 3
    assert found["duration_s"].verdict == "stable"
    assert found["strong_share"].now > found["strong_share"].before + 0.1


def test_few_rows_are_no_evidence():
    random = np.random.default_rng(2)
    with pytest.raises(UserError, match="99 rows"):
        find_drift(baseline_of(sample(random, 150)), sample(random, 99))
    table = sample(random, 150).assign(avg_logprob=np.nan)
    found = {f.name: f for f in find_drift(baseline_of(sample(random, 150)), table)}
    assert found["avg_logprob"].verdict == "not measured"


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.lists(st.floats(-5, 5), min_size=1, max_size=60)
)
def test_the_index_is_0_for_the_same_and_never_below(before, now):
    one, other = np.array(before), np.array(now)
    assert stability_index(one, one) == pytest.approx(0, abs=1e-9)
    assert stability_index(one, other) >= -1e-9


def test_the_index_is_the_formula():
    before, now = np.arange(100) / 100, np.concatenate([np.arange(50) / 100, np.arange(50) / 100])
    p, q = np.full(2, 0.5), np.array([100.5, 0.5]) / 101
    assert stability_index(before, now, 2) == pytest.approx(((q - p) * np.log(q / p)).sum())


def test_a_log_is_read_whole_and_by_version(tmp_path):
    random = np.random.default_rng(3)
    for number, version in enumerate(("1", "1", "2")):
        table = sample(random, 10).assign(version=version)
        table.to_parquet(tmp_path / f"predictions-20260101T00000{number}-1-000001.parquet")
    assert len(read_log(tmp_path)) == 30
    assert len(read_log(tmp_path, ["2"])) == 10
    (tmp_path / "predictions-x.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"predictions-x\.parquet: not a file of the prediction log"):
        read_log(tmp_path)
    with pytest.raises(UserError, match="no predictions"):
        read_log(tmp_path / "nowhere")

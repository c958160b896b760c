"""Drift: found where the sound changed, and hardly ever where it did not."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_router.drift import (
    Baseline,
    find_drift,
    make_baseline,
    read_baseline,
    read_log,
    read_shadow,
    stability_index,
)
from whisper_router.errors import UserError
from whisper_router.files import write_json

NO_SHADOW = pd.DataFrame({"policy": [], "words_strong": [], "differences": []})


def sample(
    random: np.random.Generator, n: int, harder: float = 0.0, speakers: int | None = None
) -> pd.DataFrame:
    """Utterances as log and calibration know them; ``harder`` moves scores up and confidence down.

    With ``speakers`` a speaker's utterances are alike: half of the variance is between speakers.
    """
    speaker = np.arange(n) if speakers is None else np.sort(random.integers(speakers, size=n))

    def draw() -> np.ndarray:
        own, common = random.normal(size=n), random.normal(size=n)[speaker]
        return own if speakers is None else (own + common) / 2**0.5

    score, errors = 1 / (1 + np.exp(-(draw() - 0.5 + harder))), random.poisson(1 + harder, n)
    return pd.DataFrame(
        {
            "time": pd.Timestamp("2026-01-01", tz="UTC"),
            "version": "1",
            "policy": "half",
            "speaker": speaker,
            "score": score,
            "avg_logprob": -0.4 - harder / 4 + 0.2 * draw(),
            "duration_s": np.exp(draw() / 2) * 5,
            "route": np.where(score >= 0.5, "strong", "weak"),
            "strong": score >= 0.5,
            "words": 10,
            "errors": errors,
            "words_strong": 10,
            "differences": errors,
        }
    )


def baseline_of(table: pd.DataFrame) -> Baseline:
    return make_baseline("half", table)


@pytest.mark.parametrize(("speakers", "most"), [(None, 6), (20, 12)])
def test_fresh_audio_of_the_same_kind_is_stable_but_for_chance(speakers, most):
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        fresh = sample(random, 300, speakers=speakers)
        found = find_drift(baseline_of(sample(random, 200, speakers=speakers)), fresh, NO_SHADOW)
        alarms += any(finding.verdict == "drift" for finding in found)
    assert alarms <= most


def twice(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table as the log and as its shadow rows."""
    return table, table


def test_harder_audio_is_found_in_score_share_confidence_and_disagreement():
    random = np.random.default_rng(1)
    found = {
        f.name: f for f in find_drift(baseline_of(sample(random, 150)), *twice(sample(random, 300, 1.0)))
    }
    names = ("strong_share", "score", "avg_logprob", "disagreement", "wer_routed")
    assert [found[name].verdict for name in names] == ["drift"] * 5
    assert found["wer_routed"].now == pytest.approx(2 * found["wer_routed"].before, rel=0.2)
    assert found["duration_s"].verdict == "stable"
    assert found["strong_share"].now > found["strong_share"].before + 0.1


def test_few_rows_are_no_evidence():
    random = np.random.default_rng(2)
    with pytest.raises(UserError, match="99 rows of policy half"):
        find_drift(baseline_of(sample(random, 150)), sample(random, 99), NO_SHADOW)
    table = sample(random, 150).assign(avg_logprob=np.nan)
    found = {f.name: f for f in find_drift(baseline_of(sample(random, 150)), table, table[:99])}
    assert found["avg_logprob"].verdict == found["wer_routed"].verdict == "not measured"
    assert "99 windows that both have heard" in found["wer_routed"].detail


def test_only_what_the_policy_routed_is_compared():
    random = np.random.default_rng(4)
    known = baseline_of(sample(random, 150))
    log = pd.concat([sample(random, 200), sample(random, 900, 2.0).assign(policy="strong")])
    found = find_drift(known, *twice(log))
    assert [finding.verdict for finding in found] == ["stable"] * len(found)
    with pytest.raises(UserError, match="0 rows of policy half"):
        find_drift(known, log.assign(policy=None), NO_SHADOW)


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
    assert len(read_shadow(tmp_path)) == 0
    sample(random, 7).to_parquet(tmp_path / "shadow-20260101T000000-1-000001.parquet")
    assert len(read_shadow(tmp_path, ["1"])) == 7
    assert len(read_log(tmp_path)) == 30
    (tmp_path / "predictions-x.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"predictions-x\.parquet: not a file of the prediction log"):
        read_log(tmp_path)
    with pytest.raises(UserError, match="no predictions"):
        read_log(tmp_path / "nowhere")


def test_a_baseline_is_read_as_it_was_made(tmp_path):
    made = baseline_of(sample(np.random.default_rng(5), 150))
    write_json(tmp_path / "baseline.json", made.model_dump())
    assert read_baseline(tmp_path) == made
    write_json(tmp_path / "baseline.json", {"strong_share": 0.5, "rows": 1})
    with pytest.raises(
        UserError, match=r"baseline\.json: written by an older version.*package the router again"
    ):
        read_baseline(tmp_path)

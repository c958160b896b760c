"""How long the arms take and what a test split can tell, before anything is transcribed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from whisper_router import planning
from whisper_router.audio import SAMPLE_RATE
from whisper_router.corpus.check import check_corpus
from whisper_router.corpus.options import Corpus, IngestOptions
from whisper_router.evaluation import speaker_weights
from whisper_router.files import write_json
from whisper_router.params import ArmOptions, Arms
from whisper_router.planning import USUAL, Spread, arm_times, known_spread, resolution, spread_of
from whisper_router.store import ContentStore


def draw(spread: Spread, speakers: np.ndarray, words: np.ndarray, seed: int) -> np.ndarray:
    """Differences in errors whose spread is known."""
    random = np.random.default_rng(seed)
    own = random.standard_normal(speakers.max() + 1)[speakers]
    rest = random.standard_normal(len(words))
    shared = np.sqrt(spread.correlation) * own + np.sqrt(1 - spread.correlation) * rest
    return spread.per_word * np.sqrt(words) * shared


@pytest.mark.parametrize("each", [1, 5, 30])
@pytest.mark.parametrize("correlation", [0.0, 0.1])
def test_the_formula_is_the_half_width_of_a_paired_bootstrap_over_speakers(each, correlation):
    spread = Spread(0.5, correlation, "drawn")
    speakers = np.repeat(np.arange(80), each)
    words = np.random.default_rng(0).integers(5, 20, len(speakers)).astype(float)
    halves = []
    for seed in range(10):
        errors = draw(spread, speakers, words, seed)
        weights = speaker_weights(speakers, 500, seed)
        low, high = np.quantile((weights @ errors) / (weights @ words), [0.025, 0.975])
        halves.append(100 * (high - low) / 2)
    told = resolution(int(words.sum()), speakers, spread)
    assert told.points == pytest.approx(np.mean(halves), rel=0.15)
    assert told.points_surely == pytest.approx(told.points * 2.80 / 1.96, rel=0.01)


def test_the_spread_of_what_was_observed_is_that_of_what_was_drawn():
    drawn = Spread(0.7, 0.2, "drawn")
    speakers = np.repeat(np.arange(400), 10)
    words = np.full(len(speakers), 12.0)
    found = spread_of(0.05 * words + draw(drawn, speakers, words, 3), words, speakers, "seen")
    assert found.per_word == pytest.approx(drawn.per_word, rel=0.05)
    assert found.correlation == pytest.approx(drawn.correlation, abs=0.05)


def test_more_words_tell_more_and_too_few_speakers_tell_nothing():
    speakers = np.arange(40)
    few, many = (resolution(words, speakers, USUAL).points for words in (500, 5000))
    assert few > many > 0
    nothing = resolution(5000, np.repeat(np.arange(9), 10), USUAL)
    assert (nothing.points, nothing.points_surely, nothing.speakers_needed) == (None, None, 10)


def test_the_spread_comes_from_the_labels_of_these_utterances_by_these_arms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = Arms(weak=ArmOptions(model="tiny.en"), strong=ArmOptions(model="base"))
    ids = [f"u{i}" for i in range(200)]
    assert known_spread(ids, arms) == USUAL
    words = np.full(200, 10)
    labels = pd.DataFrame({"id": ids, "speaker": [f"s{i % 20}" for i in range(200)], "words": words})
    labels["errors_weak"] = np.random.default_rng(0).integers(0, 5, 200)
    labels["errors_strong"] = 0
    Path("data").mkdir()
    labels.to_parquet("data/labels.parquet")
    write_json(Path("data/arms.json"), {"weak": {"model": "tiny.en"}, "strong": {"model": "base"}})
    found = known_spread(ids, arms)
    assert found.per_word == pytest.approx(labels["errors_weak"].std() / np.sqrt(10), rel=0.02)
    assert "200 of these utterances" in found.source
    assert known_spread(ids[:99], arms) == USUAL
    assert known_spread(ids, Arms(weak=arms.weak, strong=ArmOptions(model="small"))) == USUAL


@pytest.fixture
def rows(tmp_path, clips, monkeypatch) -> pd.DataFrame:
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for i, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{i}.wav", clip, SAMPLE_RATE)
    lines = [f"{i}.wav,words of clip {i},s{i}" for i in range(len(clips))]
    (tmp_path / "calls.csv").write_text("\n".join(["audio,text,speaker", *lines]))
    corpus = Corpus(name="calls", kind="table", path="calls.csv")
    options = IngestOptions(root=str(tmp_path), corpora=(corpus,))
    return check_corpus(corpus, options, ContentStore(), 0, 600).utterances


@pytest.fixture
def arms(checkpoints, plain) -> Arms:
    weak, strong = (
        ArmOptions(model=str(checkpoints[name]), decode=plain) for name in ("english", "multilingual")
    )
    return Arms(weak=weak, strong=strong)


def test_arms_are_timed_on_some_utterances_and_the_rest_is_in_proportion(rows, arms):
    made = arm_times(rows, arms, None, ContentStore(), probe=True)
    assert [time.arm for time in made] == ["weak", "strong"]
    assert all(time.minutes is not None and 0 < time.minutes < 10 for time in made)
    assert all("measured on" in time.how for time in made)


def test_a_corpus_of_which_one_row_stands_for_many_takes_as_much_longer(rows, arms, monkeypatch):
    monkeypatch.setattr(planning, "_probe", lambda *_: (4, 1.0))
    one, hundred = (
        arm_times(rows.assign(weight=weight), arms, None, ContentStore(), probe=True)[0].minutes
        for weight in (1.0, 100.0)
    )
    assert hundred == pytest.approx(100 * one, rel=0.02)


@pytest.mark.parametrize(
    ("model", "probe", "table", "why"),
    [
        ("absent-model", True, None, "its weights are not on this machine"),
        (None, False, None, "params.yaml names no cost_table"),
        (None, False, "other", "no such table"),
    ],
)
def test_what_is_not_known_is_said_with_the_reason(rows, arms, model, probe, table, why):
    weak = ArmOptions(model=model, decode=arms.weak.decode) if model else arms.weak
    made = arm_times(rows, Arms(weak=weak, strong=arms.strong), table, ContentStore(), probe)
    assert made[0].minutes is None
    assert why in made[0].how


def test_audio_over_30_s_is_paid_window_by_window(plain):
    assert len(planning._contexts(12.0, plain)) == 1
    assert planning._contexts(65.0, plain)[:2] == [1500, 1500]
    assert len(planning._contexts(65.0, plain)) == 3

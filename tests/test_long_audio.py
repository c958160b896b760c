"""Audio over 30 s: the router transcribes it, what it said is kept, a bad recording fails alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whisper_router.audio import audio_sha256
from whisper_router.long_audio import CHOICES, measure_long
from whisper_router.router import Router
from whisper_router.scoring import word_errors

TEXTS = ["the first recording has some words", "the second one has other words in it"]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rows(tmp_path, speech, wav) -> pd.DataFrame:
    """Two recordings of 35 and 62 s."""
    made = []
    for i, (seconds, text) in enumerate(zip((35, 62), TEXTS, strict=True)):
        path = tmp_path / f"{i}.wav"
        audio = speech(seconds, seed=i)
        path.write_bytes(wav(audio))
        made.append((f"r{i}", str(path), 0.0, float(seconds), text, audio_sha256(audio), f"s{i}"))
    return pd.DataFrame(made, columns=["id", "audio", "offset_s", "duration_s", "text", "sha256", "speaker"])


@pytest.fixture(scope="module")
def router(routers) -> Router:
    return Router.load(routers["encoder"])


def measure(router: Router, rows: pd.DataFrame, wav: Callable[[np.ndarray], bytes]) -> dict:
    return measure_long(router, rows, wav, 100, 0)


def test_the_figures_are_those_of_the_router_at_each_threshold(router, rows, wav):
    found = measure(router, rows, wav)
    routed = router.transcribe([Path(path) for path in rows["audio"]])
    assert found["counts"] == {
        "recordings": 2,
        "failed": 0,
        "speakers": 2,
        "minutes": round(97 / 60, 3),
        "windows": sum(len(made.segments) for made in routed),
    }
    assert found["counts"]["windows"] >= 5
    for choice in CHOICES:
        policy = None if choice == "routed" else choice
        texts = [made.text for made in router.transcribe([Path(p) for p in rows["audio"]], policy=policy)]
        edits = word_errors(TEXTS, texts)
        wer = sum(e.errors for e in edits) / sum(e.reference_words for e in edits)
        assert found[f"wer_{choice}"]["value"] == pytest.approx(wer, abs=1e-6)
        assert found[f"wer_{choice}"]["interval"].startswith("too few: 2 speakers")
    strong = [s for made in routed for s in made.segments if s.arm == "strong"]
    share = sum(s.end_s - s.start_s for s in strong) / 97
    assert found["strong_share"]["value"] == pytest.approx(share, abs=1e-4)


def test_what_was_said_is_kept_and_new_audio_alone_is_transcribed(router, rows, wav, calls):
    first = measure(router, rows.iloc[:1], wav)
    once = sum(calls.encoded.values())
    assert once > 0
    assert measure(router, rows.iloc[:1], wav) == first
    assert sum(calls.encoded.values()) == once
    both = measure(router, rows, wav)
    again = sum(calls.encoded.values())
    assert measure(router, rows, wav) == both
    assert sum(calls.encoded.values()) == again > once


def test_another_threshold_decodes_nothing(routers, rows, wav, calls):
    router = Router.load(routers["encoder"])
    measure(router, rows.iloc[:1], wav)
    calls.encoded.clear()
    router.policy = router.policy.model_copy(update={"threshold": 1.5})
    found = measure(router, rows.iloc[:1], wav)
    assert not calls.encoded
    assert found["strong_share"]["value"] == 0
    assert found["wer_routed"]["value"] == found["wer_weak"]["value"]


def test_a_recording_that_is_gone_is_named_and_the_rest_measured(router, rows, wav, capsys):
    Path(rows["audio"][0]).unlink()
    found = measure(router, rows, wav)
    assert (found["counts"]["recordings"], found["counts"]["failed"]) == (1, 1)
    said = capsys.readouterr().out
    assert "r0 over 30 s was not transcribed" in said
    assert "no such file" in said


def test_without_long_audio_there_are_counts_alone(router, rows, wav):
    assert measure(router, rows.iloc[:0], wav) == {
        "counts": {"recordings": 0, "failed": 0, "speakers": 0, "minutes": 0.0, "windows": 0}
    }

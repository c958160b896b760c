"""What deciders see of an utterance depends on that utterance alone and is what its name says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.asr.decoding import Attempt, Hypothesis
from whisper_router.features.extractors import (
    CONFIDENCE_NAMES,
    confidence,
    extractor_identity,
    extractor_key,
    pool_states,
)
from whisper_router.features.options import ConfidenceExtractor, EncoderExtractor

FRAME = 320  # samples of an encoder frame


def hypothesis(*logprobs: float, **change: object) -> Hypothesis:
    values = {
        "text": "some words",
        "avg_logprob": -0.4,
        "compression_ratio": 1.2,
        "no_speech_prob": 0.01,
        "temperature": 0.2,
        "token_logprob": logprobs,
        "token_entropy": tuple(0.5 + i for i in range(len(logprobs))),
        "token_margin": tuple(3.0 - i for i in range(len(logprobs))),
        "attempts": (Attempt(500, 10), Attempt(1500, 12)),
        **change,
    }
    return Hypothesis(**values)


def states(batch: int, frames: int, width: int = 3, layers: int = 2) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(batch, frames, width, generator=random) for _ in range(layers)]


def by_name(found: np.ndarray) -> dict[str, float]:
    return dict(zip(CONFIDENCE_NAMES, found[0].tolist(), strict=True))


@settings(max_examples=50, deadline=None, database=None)
@given(frames=st.integers(1, 60), pool=st.integers(1, 70), samples=st.integers(1, 70 * FRAME))
def test_pooled_states_are_the_means_of_the_frames_that_hold_audio(frames, pool, samples):
    made = states(1, frames)
    found = pool_states(made, 0, samples, pool)
    heard = min(frames, -(-samples // FRAME))
    assert found.shape == (-(-heard // pool), 2, 3)
    assert found.dtype == np.float16
    for i, values in enumerate(found):
        for layer, state in zip(values, made, strict=True):
            wanted = state[0, i * pool : min((i + 1) * pool, heard)].mean(0).numpy()
            np.testing.assert_allclose(layer, wanted, atol=5e-3)


def test_frames_beyond_the_audio_s_end_do_not_count():
    made = states(1, 40)
    before = pool_states(made, 0, 25 * FRAME, 4)
    for state in made:
        state[:, 25:] = 1e4
    np.testing.assert_array_equal(pool_states(made, 0, 25 * FRAME, 4), before)


def test_pooled_states_are_of_the_row_asked_for():
    made = states(3, 12)
    for row in range(3):
        alone = [state[row : row + 1] for state in made]
        np.testing.assert_array_equal(
            pool_states(made, row, 12 * FRAME, 5), pool_states(alone, 0, 12 * FRAME, 5)
        )


def test_confidence_is_what_its_names_say():
    logprobs = (-0.1, -2.0, -0.3, -0.2, -0.4)
    found = confidence(hypothesis(*logprobs), 2.0)
    assert found.shape == (1, len(CONFIDENCE_NAMES))
    assert found.dtype == np.float32
    assert by_name(found) == pytest.approx(
        {
            "avg_logprob": -0.4,
            "min_logprob": -2.0,
            "low_logprob": -0.4 - 0.6 * 1.6,  # 0.1 of the way through four gaps, from the lowest
            "mean_entropy": 2.5,
            "max_entropy": 4.5,
            "mean_margin": 1.0,
            "min_margin": -1.0,
            "compression_ratio": 1.2,
            "no_speech_prob": 0.01,
            "log_tokens": np.log(6),
            "tokens_per_s": 2.5,
            "log_duration": np.log(2),
            "temperature": 0.2,
            "attempts": 2,
        }
    )


def test_an_empty_hypothesis_has_finite_confidence():
    found = confidence(hypothesis(avg_logprob=-3.0), 0.2)
    assert np.isfinite(found).all()
    assert by_name(found)["tokens_per_s"] == 0
    assert by_name(found)["min_logprob"] == -3.0


def test_an_extractor_s_identity_differs_with_its_options_and_its_arm():
    arm = {"weights": "abc"}
    identities = [
        extractor_identity(EncoderExtractor(kind="encoder"), arm),
        extractor_identity(EncoderExtractor(kind="encoder", pool=8), arm),
        extractor_identity(ConfidenceExtractor(kind="confidence"), arm),
        extractor_identity(EncoderExtractor(kind="encoder"), {"weights": "def"}),
    ]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert identities[0] == extractor_identity(EncoderExtractor(kind="encoder", pool=4), arm)


def test_an_extractor_s_key_differs_with_its_options():
    assert extractor_key(EncoderExtractor(kind="encoder")) == extractor_key(
        EncoderExtractor(kind="encoder", pool=4)
    )
    assert extractor_key(EncoderExtractor(kind="encoder")) != extractor_key(
        EncoderExtractor(kind="encoder", pool=5)
    )

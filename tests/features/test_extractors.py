"""What deciders see of an utterance depends on that utterance alone and is what its name says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.asr.decoding import Attempt, Hypothesis
from whisper_router.features.extractors import (
    extract,
    extractor_identity,
    extractor_key,
    feature_frames,
    pool_states,
)
from whisper_router.features.hypothesis import CONFIDENCE_NAMES, confidence
from whisper_router.features.options import ConfidenceExtractor, EncoderExtractor, SignalExtractor
from whisper_router.router import Router

FRAME = 320  # samples of an encoder frame
CUT = EncoderExtractor(kind="encoder")


def extractor(**change: object) -> EncoderExtractor:
    return CUT.model_copy(update=change)


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


many = settings(max_examples=50)
frame_counts, pools, sample_counts = st.integers(1, 60), st.integers(1, 70), st.integers(1, 70 * FRAME)
paddings = st.sampled_from(["keep", "cut"])


@many
@given(frames=frame_counts, pool=pools, samples=sample_counts, padding=paddings)
def test_pooled_states_are_the_means_of_the_frames_that_count(frames, pool, samples, padding):
    made = states(1, frames)
    found = pool_states(made, 0, samples, extractor(pool=pool, padding=padding))
    valid = frames if padding == "keep" else min(frames, -(-samples // FRAME))
    assert found.shape == (-(-valid // pool), 2, 3)
    assert found.dtype == np.float16
    for i, values in enumerate(found):
        for layer, state in zip(values, made, strict=True):
            wanted = state[0, i * pool : min((i + 1) * pool, valid)].mean(0).numpy()
            np.testing.assert_allclose(layer, wanted, atol=5e-3)


@many
@given(context=frame_counts, pool=pools, samples=sample_counts, padding=paddings)
def test_a_feature_has_as_many_frames_as_was_foretold(context, pool, samples, padding):
    options = extractor(pool=pool, padding=padding)
    assert len(pool_states(states(1, context), 0, samples, options)) == feature_frames(
        options, samples, context
    )


def test_padding_kept_is_the_whole_context_and_padding_cut_the_audio_alone():
    second = 50 * FRAME
    assert feature_frames(extractor(pool=1, padding="keep"), second, 1500) == 1500
    assert feature_frames(extractor(pool=1, padding="cut"), second, 1500) == 50
    assert feature_frames(extractor(pool=1, padding="cut"), second + 1, 1500) == 51
    assert feature_frames(extractor(pool=4, padding="keep"), second, 1500) == 375
    assert feature_frames(extractor(pool=4, padding="cut"), second, 1500) == 13


def test_states_that_are_not_pooled_are_the_encoder_s_own():
    made = states(1, 12)
    found = pool_states(made, 0, 12 * FRAME, extractor(pool=1, padding="keep"))
    np.testing.assert_array_equal(found, torch.stack([state[0] for state in made], dim=1).half().numpy())


def test_frames_beyond_the_audio_s_end_count_where_the_padding_is_kept_alone():
    made = states(1, 40)
    cut, kept = (pool_states(made, 0, 25 * FRAME, extractor(padding=padding)) for padding in ("cut", "keep"))
    for state in made:
        state[:, 25:] = 1e4
    np.testing.assert_array_equal(pool_states(made, 0, 25 * FRAME, CUT), cut)
    assert (pool_states(made, 0, 25 * FRAME, extractor(padding="keep")) != kept).any()


def test_pooled_states_are_of_the_row_asked_for():
    made = states(3, 12)
    for row in range(3):
        alone = [state[row : row + 1] for state in made]
        np.testing.assert_array_equal(
            pool_states(made, row, 12 * FRAME, extractor(pool=5)),
            pool_states(alone, 0, 12 * FRAME, extractor(pool=5)),
        )


def test_confidence_is_what_its_names_say():
    logprobs = (-0.1, -2.0, -0.3, -0.2, -0.4)
    found = confidence(hypothesis(*logprobs), 2.0)
    assert found.shape == (1, len(CONFIDENCE_NAMES))
    assert found.dtype == np.float32
    named = by_name(found)
    expected = {
        "avg_logprob": -0.4,
        "min_logprob": -2.0,
        "low_logprob": -0.4 - 0.6 * 1.6,  # 0.1 of the way through four gaps, from the lowest
        "std_logprob": np.std(logprobs),
        "low3_logprob": -2.7 / 3,
        "low5_logprob": -3.0 / 5,
        "low8_logprob": -3.0 / 8,  # too short a text is filled up with sure tokens
        "log_sum": np.log(4),
        "log_saturated_sum": np.log(3),
        "log_doubt": np.log1p(5 - np.exp(logprobs).sum()),
        "log_count_0.2": np.log(4),
        "log_count_0.3": np.log(3),
        "log_count_0.5": np.log(2),
        "log_count_0.7": np.log(2),
        "mean_entropy": 2.5,
        "max_entropy": 4.5,
        "log_sum_entropy": np.log(13.5),
        "log_count_entropy": np.log(5),
        "high3_entropy": 3.5,
        "high5_entropy": 2.5,
        "high8_entropy": 12.5 / 8,
        "mean_margin": 1.0,
        "min_margin": -1.0,
        "low3_margin": 0.0,
        "low5_margin": 1.0,
        "low8_margin": (5 + 30) / 8,
        "compression_ratio": 1.2,
        "no_speech_prob": 0.01,
        "log_tokens": np.log(6),
        "tokens_per_s": 2.5,
        "tokens_per_word": 2.5,
        "log_duration": np.log(2),
        "temperature": 0.2,
        "attempts": 2,
    }
    assert set(named) == set(expected)
    assert named == pytest.approx(expected, abs=1e-5)


def test_an_empty_hypothesis_has_finite_confidence():
    found = confidence(hypothesis(avg_logprob=-3.0), 0.2)
    assert np.isfinite(found).all()
    assert by_name(found)["tokens_per_s"] == 0
    assert by_name(found)["min_logprob"] == -3.0


def test_an_extractor_s_identity_differs_with_its_options_and_its_arm():
    arm = {"weights": "abc"}
    identities = [
        extractor_identity(CUT, arm),
        extractor_identity(extractor(pool=8), arm),
        extractor_identity(extractor(arm="strong"), arm),
        extractor_identity(extractor(padding="keep"), arm),
        extractor_identity(ConfidenceExtractor(kind="confidence"), arm),
        extractor_identity(CUT, {"weights": "def"}),
    ]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert identities[0] == extractor_identity(extractor(pool=4), arm)


@pytest.mark.parametrize("stored", [True, False, None])
def test_whether_features_are_stored_shapes_none(stored):
    assert extractor(stored=stored).identity() == CUT.identity()
    assert "stored" not in CUT.identity()
    assert extractor_key(extractor(stored=stored)) == extractor_key(CUT)


def test_an_extractor_s_key_differs_with_each_option():
    changes = ({}, {"pool": 5}, {"arm": "strong"}, {"padding": "keep"})
    assert len({extractor_key(extractor(**change)) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    ("pool", "stored", "wanted"),
    [
        (1, None, False),
        (2, None, True),
        (1, True, True),
        (1, False, False),
        (4, False, False),
        (4, True, True),
    ],
)
def test_states_are_stored_where_they_are_pooled_or_where_it_is_asked_for(pool, stored, wanted):
    assert extractor(pool=pool, stored=stored).is_stored is wanted


def test_each_kind_of_extractor_reads_what_it_is_said_to_read(clips):
    read = {
        "encoder": (CUT, {"states": states(2, 60), "row": 1}),
        "signal": (SignalExtractor(kind="signal"), {}),
        "confidence": (ConfidenceExtractor(kind="confidence"), {"hypothesis": hypothesis(-0.1, -0.2)}),
    }
    for options, reads in read.values():
        assert np.isfinite(extract(options, clips[0], **reads)).all()
    with pytest.raises(TypeError, match="the weak arm's hypothesis"):
        extract(ConfidenceExtractor(kind="confidence"), clips[0])


def test_a_router_decides_on_the_signal_that_featurize_writes(package_router, clips, wav, tmp_path):
    router = Router.load(package_router(tmp_path / "router", "signal"))
    features = [extract(SignalExtractor(kind="signal"), clip) for clip in clips]
    decided = router.decide([wav(clip) for clip in clips])
    assert [row.score for row in decided] == router.decider.score(features).tolist()
    assert len({row.arm for row in decided}) == 2
    assert all(row.text for row in router.transcribe([wav(clip) for clip in clips]))

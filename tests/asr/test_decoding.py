"""Batched decoding says what openai-whisper says, whatever the batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import whisper
from whisper import DecodingOptions

from whisper_router.asr import decoding
from whisper_router.asr.arm import log_mel
from whisper_router.asr.decoding import Hypothesis, compression_ratio, loop_period
from whisper_router.asr.options import ENCODER_FRAMES

VOCABULARIES = ("english", "multilingual")


@pytest.fixture(scope="module")
def arms(make_arm):
    return {name: make_arm(name) for name in VOCABULARIES}


@pytest.fixture(scope="module")
def full(arms, clips):
    """Every clip at full context, encoded by each arm."""
    mel = log_mel(clips, ENCODER_FRAMES, 80)
    return mel, {name: arm.encode(mel).last for name, arm in arms.items()}


def openais(arm, limit: int) -> DecodingOptions:
    """openai-whisper's options for the same decoding; by itself it may emit a language in mid-text."""
    tokenizer = arm.decoder.tokenizer
    never = [-1, *range(tokenizer.eot + 1, tokenizer.encoding.n_vocab)]
    return DecodingOptions(
        language="en", without_timestamps=True, fp16=False, sample_len=limit, suppress_tokens=never
    )


def run(arm, encoded, limits, temperature=0.0, seeds=()) -> list[Hypothesis]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return arm.decoder(encoded, limits, temperature, generators)


def numbers(hypothesis: Hypothesis) -> np.ndarray:
    lists = (hypothesis.token_logprob, hypothesis.token_entropy, hypothesis.token_margin)
    return np.array([hypothesis.avg_logprob, hypothesis.no_speech_prob, *(x for row in lists for x in row)])


@pytest.mark.parametrize("limit", [224, 9])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_greedy_batch_equals_openai_whisper(arms, full, vocabulary, limit):
    arm, (mel, encoded) = arms[vocabulary], full
    made = run(arm, encoded[vocabulary], [limit] * len(mel))
    options = openais(arm, limit)
    assert min(hypothesis.tokens for hypothesis in made) < limit
    for hypothesis, spectrogram in zip(made, mel, strict=True):
        expected = whisper.decode(arm.decoder.model, spectrogram, options)
        assert hypothesis.text == expected.text
        assert hypothesis.tokens == len(expected.tokens)
        assert hypothesis.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)
        assert hypothesis.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-3)
        assert hypothesis.compression_ratio == pytest.approx(expected.compression_ratio, abs=1e-3)
        assert hypothesis.temperature == expected.temperature == 0.0


@torch.inference_mode()
def test_a_text_never_begins_with_its_end(make_arm, full):
    arm, spectrogram = make_arm("english"), full[0][0]
    options = openais(arm, 9)
    first = whisper.decode(arm.decoder.model, spectrogram, options).tokens[0]
    embedding = arm.decoder.model.decoder.token_embedding.weight
    embedding[arm.decoder.tokenizer.eot] = 2 * embedding[first]
    expected = whisper.decode(arm.decoder.model, spectrogram, options)
    (made,) = run(arm, arm.encode(spectrogram[None]).last, [9])
    assert expected.tokens[0] == first
    assert (made.text, made.tokens) == (expected.text, len(expected.tokens))
    assert made.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)


def test_the_random_models_end_at_different_lengths_and_hear_speech(arms, full):
    for name, arm in arms.items():
        made = run(arm, full[1][name], [60] * len(full[0]))
        assert len({hypothesis.tokens for hypothesis in made}) > 2
        assert any(0.01 < hypothesis.no_speech_prob < 0.99 for hypothesis in made)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_rows_of_a_batch_equal_rows_alone(arms, full, vocabulary):
    encoded = full[1][vocabulary]
    limits = [5, 40, 12, 40, 3, 40]
    together = run(arms[vocabulary], encoded, limits)
    for i, limit in enumerate(limits):
        (alone,) = run(arms[vocabulary], encoded[i : i + 1], [limit])
        assert together[i].text == alone.text
        assert together[i].attempts == alone.attempts
        np.testing.assert_allclose(numbers(together[i]), numbers(alone), atol=1e-3)


def test_sampled_rows_of_a_batch_equal_rows_alone(arms, full):
    encoded = full[1]["english"]
    together = run(arms["english"], encoded, [20] * len(encoded), 0.6, range(len(encoded)))
    for i, hypothesis in enumerate(together):
        (alone,) = run(arms["english"], encoded[i : i + 1], [20], 0.6, [i])
        assert hypothesis.text == alone.text
        np.testing.assert_allclose(numbers(hypothesis), numbers(alone), atol=1e-3)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_token_limit_of_each_row_is_kept_and_reached(arms, full, vocabulary):
    limits = [1, 2, 4, 8, 16, 30]
    unlimited = run(arms[vocabulary], full[1][vocabulary], [40] * len(limits))
    made = run(arms[vocabulary], full[1][vocabulary], limits)
    for hypothesis, limit, free in zip(made, limits, unlimited, strict=True):
        assert hypothesis.tokens == min(limit, free.tokens)
        assert hypothesis.token_logprob == pytest.approx(free.token_logprob[:limit], abs=1e-3)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_confidence_has_a_finite_number_for_each_token(arms, full, vocabulary, temperature):
    encoded = full[1][vocabulary]
    prompt = len(arms[vocabulary].decoder.tokenizer.sot_sequence_including_notimestamps)
    for hypothesis in run(arms[vocabulary], encoded, [25] * len(encoded), temperature, range(len(encoded))):
        lists = (hypothesis.token_logprob, hypothesis.token_entropy, hypothesis.token_margin)
        assert [len(values) for values in lists] == [hypothesis.tokens] * 3
        assert all(math.isfinite(value) for values in lists for value in values)
        assert all(value <= 0 for value in hypothesis.token_logprob)
        assert all(0 <= value <= math.log(51865) for value in hypothesis.token_entropy)
        assert all(value >= 0 for value in hypothesis.token_margin)
        (attempt,) = hypothesis.attempts
        assert (attempt.context, attempt.tokens) == (ENCODER_FRAMES, prompt + hypothesis.tokens)


def test_greedy_picks_are_the_most_probable(arms, full):
    """Probability of the pick and its margin to the second bound the second's, and so the entropy."""
    (hypothesis,) = run(arms["english"], full[1]["english"][2:3], [30])
    assert hypothesis.tokens > 5
    for logprob, entropy, margin in zip(
        hypothesis.token_logprob, hypothesis.token_entropy, hypothesis.token_margin, strict=True
    ):
        first, second = math.exp(logprob), math.exp(logprob - margin)
        rest = max(0.0, 1 - first - second)
        assert first + second <= 1 + 1e-3
        assert entropy >= -first * logprob - second * (logprob - margin) - 1e-2
        spread = rest * math.log(51864 / max(rest, 1e-9))
        assert entropy <= -first * logprob - second * (logprob - margin) + spread + 1e-2


def test_sampling_is_repeatable_and_follows_its_generator(arms, full):
    encoded = full[1]["multilingual"]
    first, again, other = (
        run(arms["multilingual"], encoded, [20] * len(encoded), 0.8, [seed + i for i in range(len(encoded))])
        for seed in (0, 0, 100)
    )
    greedy = run(arms["multilingual"], encoded, [20] * len(encoded))
    assert first == again
    assert [h.text for h in first] != [h.text for h in other]
    assert [h.text for h in first] != [h.text for h in greedy]
    assert {h.temperature for h in first} == {0.8}


def test_a_low_temperature_approaches_greedy(arms, full):
    encoded = full[1]["english"]
    greedy = run(arms["english"], encoded, [10] * len(encoded))
    cold = run(arms["english"], encoded, [10] * len(encoded), 1e-4, range(len(encoded)))
    assert [replace(h, temperature=0.0) for h in cold] == greedy


def test_the_end_of_a_text_that_repeats_itself_has_a_period():
    text = list(range(100, 150))
    for period, copies, expected in ((1, 21, 1), (1, 20, 0), (4, 6, 4), (4, 5, 0), (15, 3, 15), (15, 2, 0)):
        assert loop_period(text + list(range(period)) * copies) == expected
    assert loop_period(text + [1] * 30 + [2]) == 0
    assert loop_period([]) == loop_period([5]) == 0


def test_a_loop_is_stopped_while_decoding_and_judged_as_if_it_had_run_on(looping_arm, full, monkeypatch):
    arm, encoded = looping_arm(), full[1]["english"]
    monkeypatch.setattr(decoding, "LOOP_TOKENS", 1000)
    free = run(arm, encoded, [150] * len(encoded))
    monkeypatch.undo()
    stopped = run(arm, encoded, [150] * len(encoded))
    loops = [one.tokens < other.tokens for one, other in zip(stopped, free, strict=True)]
    assert any(loops)
    for one, other, loop in zip(stopped, free, loops, strict=True):
        assert other.text.startswith(one.text)
        assert one.token_logprob == pytest.approx(other.token_logprob[: one.tokens], abs=1e-3)
        assert one.attempts[0].tokens == 2 + one.tokens
        if loop:
            assert one.compression_ratio > 2.4
        else:
            assert one.text == other.text


def test_compression_ratio_is_high_where_a_text_repeats_itself():
    assert compression_ratio("") == 0
    assert compression_ratio("so it goes " * 40) > 2.4 > compression_ratio("a quiet sentence with no loop")

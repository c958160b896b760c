"""Arms: encoding at any context, batches of one context, fallback, and the key of what they make."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whisper_router.asr.arm import _generator, arm_key, log_mel, plan_batches
from whisper_router.asr.options import ENCODER_FRAMES, SAMPLES_PER_FRAME, DecodeOptions

SAMPLES = st.integers(1, 31 * 16_000)
OPTIONS = st.builds(
    DecodeOptions,
    floor_frames=st.integers(50, ENCODER_FRAMES),
    margin_frames=st.integers(0, ENCODER_FRAMES),
    step_frames=st.integers(1, ENCODER_FRAMES),
)


@pytest.fixture(scope="module", params=["english", "multilingual"])
def arm(request, make_arm):
    return make_arm(request.param)


@pytest.fixture(scope="module")
def english(make_arm):
    return make_arm("english")


@torch.inference_mode()
def test_full_context_encoding_equals_whispers_own(arm, clips):
    mel = log_mel(clips[:2], ENCODER_FRAMES, arm.n_mels)
    encoding = arm.encode(mel)
    assert len(encoding.states) == len(arm.decoder.model.encoder.blocks) + 1 == 3
    assert {tuple(state.shape) for state in encoding.states} == {(2, ENCODER_FRAMES, 64)}
    torch.testing.assert_close(encoding.states[-1], arm.decoder.model.encoder(mel), atol=1e-4, rtol=1e-4)
    inputs = []
    hooks = [
        block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        for block in arm.decoder.model.encoder.blocks
    ]
    arm.decoder.model.encoder(mel)
    for hook in hooks:
        hook.remove()
    for state, given_to_block in zip(encoding.states[:-1], inputs, strict=True):
        torch.testing.assert_close(state, given_to_block, atol=1e-4, rtol=1e-4)


def test_audio_is_encoded_at_its_own_context(arm, clips):
    frames = arm.options.context(clips[0].size)
    encoding = arm.encode_audio(clips[:1])
    assert {state.shape[1] for state in encoding.states} == {frames}
    assert frames < ENCODER_FRAMES
    assert encoding.mel.shape == (1, 80, 2 * frames)
    with pytest.raises(ValueError, match="unpack"):
        arm.encode_audio([clips[0], clips[-1]])


def test_rows_of_an_encoding(arm, clips):
    encoding = arm.encode(log_mel(clips, 100, arm.n_mels))
    chosen = encoding.rows([4, 1])
    assert torch.equal(chosen.mel, encoding.mel[[4, 1]])
    for state, whole in zip(chosen.states, encoding.states, strict=True):
        assert torch.equal(state, whole[[4, 1]])


@given(OPTIONS, SAMPLES, SAMPLES)
def test_context_has_a_floor_a_margin_a_cap_a_step_and_grows_with_the_audio(options, samples, more):
    context = options.context(samples)
    assert context <= ENCODER_FRAMES
    assert context == ENCODER_FRAMES or context % options.step_frames == 0
    wanted = max(options.floor_frames, math.ceil(samples / SAMPLES_PER_FRAME) + options.margin_frames)
    assert context >= min(wanted, ENCODER_FRAMES)
    assert context < wanted + options.step_frames
    assert options.context(samples + more) >= context


@given(SAMPLES, st.floats(0.1, 50))
def test_token_limit_grows_with_the_audio_up_to_half_the_decoders_context(samples, rate):
    options = DecodeOptions(max_tokens_per_s=rate)
    limit = options.token_limit(samples, 448)
    assert 24 <= limit <= 224
    assert limit == 224 or abs(limit - 24 - rate * samples / 16_000) <= 0.51
    assert options.token_limit(samples + 16_000, 448) >= limit


@given(
    st.lists(st.tuples(st.sampled_from([100, 200, 300, 1500]), SAMPLES), max_size=60),
    st.integers(1, 20),
)
def test_batches_hold_each_utterance_once_at_one_context(rows, batch_size):
    contexts, samples = [row[0] for row in rows], [row[1] for row in rows]
    batches = plan_batches(contexts, samples, batch_size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert all(len({contexts[i] for i in batch}) == 1 for batch in batches)
    fewest = sum(math.ceil(contexts.count(context) / batch_size) for context in set(contexts))
    assert len(batches) == fewest


@given(st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(1, 5))
def test_an_arm_batches_audio_by_its_own_context(english, tenths, batch_size):
    audios = [np.zeros(tenth * 1600, np.float32) for tenth in tenths]
    batches = list(english.batches(audios, batch_size))
    assert sorted(i for batch in batches for i in batch) == list(range(len(audios)))
    for batch in batches:
        assert len({english.options.context(audios[i].size) for i in batch}) == 1


TEMPERATURES = (0.0, 0.4, 1.0)


def failing(plain, **changes) -> DecodeOptions:
    return plain.model_copy(update={"temperatures": TEMPERATURES, **changes})


@pytest.mark.parametrize(
    "threshold",
    [{"logprob_threshold": -1e-6}, {"compression_ratio_threshold": 1e-6}],
    ids=["logprob", "loop"],
)
def test_failure_retries_at_full_context_then_at_every_temperature(make_arm, plain, clips, threshold):
    arm = make_arm("multilingual", failing(plain, **threshold))
    audio = clips[:1]
    (made,) = arm.decode(arm.encode_audio(audio), audio)
    short = arm.options.context(audio[0].size)
    assert [attempt.context for attempt in made.attempts] == [short, 1500, 1500, 1500]
    assert made.temperature == TEMPERATURES[-1]
    greedy = make_arm("multilingual", plain)
    full = greedy.encode(log_mel(audio, ENCODER_FRAMES, 80))
    expected = [greedy.decode(greedy.encode_audio(audio), audio)[0], greedy.decode(full, audio)[0]]
    assert [a.tokens for a in made.attempts[:2]] == [h.attempts[0].tokens for h in expected]
    prompt = len(arm.decoder.tokenizer.sot_sequence_including_notimestamps)
    assert made.attempts[-1].tokens == prompt + made.tokens


def test_a_hypothesis_that_passes_is_not_retried(make_arm, plain, clips):
    arm = make_arm("english", failing(plain))
    for clip in clips[:2]:
        (made,) = arm.decode(arm.encode_audio([clip]), [clip])
        assert [attempt.context for attempt in made.attempts] == [arm.options.context(clip.size)]
        assert made.temperature == 0.0


def test_full_context_is_not_encoded_again(make_arm, plain, clips, calls):
    arm = make_arm("english", failing(plain, floor_frames=1500, logprob_threshold=-1e-6))
    (made,) = arm.decode(arm.encode_audio(clips[:1]), clips[:1])
    assert [attempt.context for attempt in made.attempts] == [1500] * 3
    assert calls.encoded == {arm.sha256: 1}


def test_only_the_rows_that_fail_are_retried_and_batch_mates_do_not_matter(make_arm, plain, clips):
    sizes = {clip.size for clip in clips[2:]}
    audios = [np.pad(clip, (0, max(sizes) - clip.size)) for clip in clips[2:]]
    greedy = make_arm("english", plain)
    scores = sorted(h.avg_logprob for h in greedy.decode(greedy.encode_audio(audios), audios))
    arm = make_arm("english", failing(plain, logprob_threshold=(scores[1] + scores[2]) / 2))
    together = arm.decode(arm.encode_audio(audios), audios)
    assert sorted(len(made.attempts) > 1 for made in together) == [False, False, True, True]
    assert max(made.temperature for made in together) > 0
    backwards = arm.decode(arm.encode_audio(audios[::-1]), audios[::-1])[::-1]
    for audio, made, mirrored in zip(audios, together, backwards, strict=True):
        (alone,) = arm.decode(arm.encode_audio([audio]), [audio])
        for other in (alone, mirrored):
            assert made.text == other.text
            assert made.attempts == other.attempts
            assert made.temperature == other.temperature
            assert made.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-3)
            assert made.token_logprob == pytest.approx(other.token_logprob, abs=1e-3)


def test_retries_stop_at_the_first_that_passes(english, make_arm, plain, clips):
    audio = clips[:1]
    (short,) = english.decode(english.encode_audio(audio), audio)
    (full,) = english.decode(english.encode(log_mel(audio, ENCODER_FRAMES, 80)), audio)
    assert full.compression_ratio < 2.4 < short.compression_ratio
    arm = make_arm("english", failing(plain, compression_ratio_threshold=2.4))
    (made,) = arm.decode(arm.encode_audio(audio), audio)
    assert made.attempts == short.attempts + full.attempts
    assert (made.text, made.temperature) == (full.text, 0.0)


def test_a_retry_is_seeded_by_its_audio_and_temperature(clips):
    seeds = {_generator(clip, temperature).initial_seed() for clip in clips for temperature in (0.2, 0.4)}
    assert len(seeds) == 2 * len(clips)
    assert _generator(clips[0].copy(), 0.2).initial_seed() == _generator(clips[0], 0.2).initial_seed()


def test_arms_share_a_mel_only_where_their_contexts_are_equal(make_arm, plain):
    weak = make_arm("english")
    for change, shared in (
        ({}, True),
        ({"logprob_threshold": -0.5, "temperatures": (0.0, 1.0), "language": "de"}, True),
        ({"floor_frames": 60}, False),
        ({"margin_frames": 21}, False),
        ({"step_frames": 20}, False),
    ):
        assert weak.shares_mel(make_arm("multilingual", plain.model_copy(update=change))) is shared


def test_key_changes_with_weights_options_and_threads_only(make_arm, plain):
    key = arm_key("a" * 64, plain)
    assert arm_key("a" * 64, DecodeOptions(**plain.model_dump())) == key
    assert arm_key("b" * 64, plain) != key
    fast = plain.model_copy(update={"engine": "ctranslate2"})
    keys = {key, arm_key("a" * 64, fast)}
    keys |= {
        arm_key("a" * 64, fast.model_copy(update={name: value}))
        for name, value in {"dtype": "int8", "encoder_dtype": "bfloat16", "beam_size": 2}.items()
    }
    assert len(keys) == 5
    changed = {
        "dtype": "bfloat16",
        "language": "de",
        "floor_frames": 51,
        "margin_frames": 21,
        "step_frames": 11,
        "max_tokens_per_s": 3.0,
        "temperatures": (0.0, 1.0),
        "compression_ratio_threshold": 2.0,
        "logprob_threshold": -2.0,
        "no_speech_threshold": 0.5,
        "voice_threshold": 0.5,
    }
    assert {"engine", "encoder_dtype", "beam_size", *changed} == set(DecodeOptions.model_fields)
    keys |= {arm_key("a" * 64, plain.model_copy(update={name: value})) for name, value in changed.items()}
    assert len(keys) == len(changed) + 5
    torch.set_num_threads(2)
    assert arm_key("a" * 64, plain) != key
    torch.set_num_threads(1)
    assert arm_key("a" * 64, plain) == key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype int8: engine torch takes float32 or bfloat16"),
        ({"engine": "ctranslate2", "dtype": "bfloat16"}, "ctranslate2 takes float32 or int16 or int8"),
        ({"encoder_dtype": "bfloat16"}, "encoder_dtype bfloat16: for engine torch set dtype"),
        ({"beam_size": 2}, "beam_size 2: engine torch is greedy; set ctranslate2"),
        ({"engine": "onnx"}, "'torch', 'ctranslate2' or 'hf'"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        DecodeOptions(**options)


def test_the_first_temperature_is_used_or_refused(make_arm, plain, clips):
    try:
        options = DecodeOptions(**{**plain.model_dump(), "temperatures": (0.7,)})
    except ValueError:
        return
    arm = make_arm("english", options)
    assert arm.decode(arm.encode_audio(clips[:1]), clips[:1])[0].temperature == 0.7

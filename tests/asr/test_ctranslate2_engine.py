"""Engine ctranslate2 against torch on the same weights."""

import sys
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from whisper_router.asr import ctranslate2_engine, engine
from whisper_router.asr.arm import arm_key, log_mel
from whisper_router.asr.ctranslate2_format import from_openai, read_arrays, to_openai, write_arrays
from whisper_router.asr.decoding import Attempt
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import ENCODER_FRAMES
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.errors import UserError
from whisper_router.features.options import EncoderExtractor
from whisper_router.labelling import Utterance, Work, compute, plan_work, transcribe_all
from whisper_router.router import Router, RouterMismatchError
from whisper_router.store import ContentStore

pytest.importorskip("ctranslate2")

VOCABULARIES = ("english", "multilingual")


def on(plain, dtype="float32", **changes):
    return plain.model_copy(update={"engine": "ctranslate2", "dtype": dtype, **changes})


def padded(clips):
    longest = max(clip.size for clip in clips)
    return [np.pad(clip, (0, longest - clip.size)) for clip in clips]


def numbers(made):
    return np.concatenate(
        [[made.avg_logprob, made.no_speech_prob], made.token_logprob, made.token_entropy, made.token_margin]
    )


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_float32_says_what_torch_says_with_the_same_confidence(make_arm, plain, clips, vocabulary):
    audios = padded(clips)
    torch_arm, fast = make_arm(vocabulary), make_arm(vocabulary, on(plain))
    ours, theirs = torch_arm.encode_audio(audios), fast.encode_audio(audios)
    assert theirs.last.shape == ours.last.shape
    assert theirs.last.shape[1] == plain.context(audios[0].size) < 1500
    torch.testing.assert_close(theirs.last, ours.last, atol=1e-3, rtol=1e-3)
    expected, made = torch_arm.decode(ours, audios), fast.decode(theirs, audios)
    for one, other in zip(expected, made, strict=True):
        assert (other.text, other.attempts) == (one.text, one.attempts)
        np.testing.assert_allclose(numbers(other), numbers(one), atol=2e-3)


def test_torchs_encoder_before_its_decoder_gives_all_layers(make_arm, plain, clips):
    exact = make_arm("english").encode_audio(clips[:1])
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.1)):
        arm = make_arm("english", on(plain, encoder_dtype=dtype))
        states = arm.encode_audio(clips[:1]).states
        for state, expected in zip(states, exact.states, strict=True):
            assert state.dtype == torch.float32
            assert (state - expected).abs().mean() < tolerance * expected.abs().mean()
    assert not torch.equal(states[-1], exact.states[-1])


def test_int8_is_near_and_not_the_same(make_arm, plain, clips):
    exact = make_arm("english").encode_audio(clips[:1])
    last = make_arm("english", on(plain, "int8")).encode_audio(clips[:1]).last
    # random weights; processors without VNNI round more than those with it
    assert 0 < (last - exact.last).abs().mean() < 0.2 * exact.last.abs().mean()


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_do_not_depend_on_batch_mates_threads_or_pieces(make_arm, plain, clips, monkeypatch, threads):
    torch.set_num_threads(threads)
    audios = padded(clips)
    arm = make_arm("english", on(plain))
    together = arm.decode(arm.encode_audio(audios), audios)
    limit = plain.token_limit(audios[0].size, 448)
    monkeypatch.setattr(ctranslate2_engine, "LOGITS_BYTES", 2 * limit * 51864 * 4)  # two rows at once
    pieces = arm.decode(arm.encode_audio(audios), audios)
    for audio, one, other in zip(audios, together, pieces, strict=True):
        (alone,) = arm.decode(arm.encode_audio([audio]), [audio])
        for made in (alone, other):
            assert (made.text, made.attempts) == (one.text, one.attempts)
            np.testing.assert_allclose(numbers(made), numbers(one), atol=1e-3)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_texts_end_where_torchs_do_and_at_the_limit_of_each_row(make_arm, plain, clips, vocabulary):
    torch_arm, fast = make_arm(vocabulary), make_arm(vocabulary, on(plain))
    encoded = torch_arm.encode(log_mel(clips, ENCODER_FRAMES, 80)).last
    limits = [1, 2, 3, 8, 60, 60]
    expected = torch_arm.decoder(encoded, limits)
    assert any(one.tokens < limit for one, limit in zip(expected, limits, strict=True))
    for one, other in zip(expected, fast.decoder(encoded, limits), strict=True):
        assert (other.tokens, other.attempts) == (one.tokens, one.attempts)
        np.testing.assert_allclose(numbers(other), numbers(one), atol=2e-3)


def test_loops_are_cut_where_torch_stops_them(looping_arm, plain, clips):
    torch_arm, fast = looping_arm(), looping_arm(on(plain))
    encoded = torch_arm.encode(log_mel(clips, ENCODER_FRAMES, 80)).last
    limits = [150] * len(clips)
    expected = torch_arm.decoder(encoded, limits)
    assert any(one.compression_ratio > 2.4 and one.tokens < 150 for one in expected)
    for one, other in zip(expected, fast.decoder(encoded, limits), strict=True):
        assert (other.text, other.attempts) == (one.text, one.attempts)
        assert other.compression_ratio == one.compression_ratio


@torch.inference_mode()
def test_beam_search_finds_what_openai_whisper_finds(make_arm, plain, clips):
    """On a random model the beams lie close together: most texts are the same, and none is less probable."""
    greedy, beams = make_arm("english", on(plain)), make_arm("english", on(plain, beam_size=4))
    mel = log_mel(clips, ENCODER_FRAMES, 80)
    encoded, limits = greedy.encode(mel).last, [12] * len(clips)
    model = make_arm("english").decoder.model
    tokenizer = beams.decoder.tokenizer
    options = whisper.DecodingOptions(
        language="en",
        without_timestamps=True,
        fp16=False,
        beam_size=4,
        sample_len=224,
        suppress_tokens=[-1, *range(tokenizer.eot + 1, tokenizer.encoding.n_vocab)],
    )
    expected = [whisper.decode(model, spectrogram, options) for spectrogram in mel]
    free = beams.decoder(encoded, [224] * len(clips))
    same = [one.text == other.text for one, other in zip(free, expected, strict=True)]
    assert sum(same) >= len(clips) / 2
    for one, other, equal in zip(free, expected, same, strict=True):
        if equal:
            assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=2e-3)
    assert [one.text for one in free] != [one.text for one in greedy.decoder(encoded, [224] * len(clips))]
    made = beams.decoder(encoded, limits)
    for i, one in enumerate(made):
        assert one.tokens <= 12
        assert one.attempts == (Attempt(ENCODER_FRAMES, 2 + 5 * one.tokens),)
        (alone,) = beams.decoder(encoded[i : i + 1], [12])
        assert alone.text == one.text
        np.testing.assert_allclose(numbers(alone), numbers(one), atol=1e-3)


def test_retries_are_those_of_torch(make_arm, plain, clips):
    failing = {"temperatures": (0.0, 0.4, 1.0), "logprob_threshold": -1e-6}
    torch_arm = make_arm("english", plain.model_copy(update=failing))
    fast = make_arm("english", on(plain, **failing))
    for arm in (torch_arm, fast):
        (made,) = arm.decode(arm.encode_audio(clips[:1]), clips[:1])
        contexts = [attempt.context for attempt in made.attempts]
        assert contexts == [plain.context(clips[0].size), 1500, 1500, 1500]
        assert made.temperature == 1.0
    again, _ = (fast.decode(fast.encode_audio(clips[:1]), clips[:1]) for _ in range(2))
    assert again == [made]


def test_an_encoder_extractor_on_its_encoder_is_refused_with_a_remedy(make_arm, plain, clips):
    encoding = make_arm("english", on(plain)).encode_audio(clips[:1])
    with pytest.raises(UserError, match=r"encoder_dtype .* bfloat16 or float32.*confidence"):
        encoding.states  # noqa: B018


def test_labelling_runs_on_it_side_by_side(make_arm, plain, clips, wav, tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    rows = []
    for i, clip in enumerate(clips):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav(clip))
        rows.append(Utterance(f"u{i}", str(path), 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip)))
    arm = make_arm("english", on(plain, "int8"))
    work = Work(arm.sha256, arm.options, True, ())
    store = ContentStore()
    run = partial(compute, arm, work=work, store=store, title="fast")
    made, errors = transcribe_all(work, rows, 2, "fast", run)
    assert not errors
    for clip, one in zip(clips, made, strict=True):
        (alone,) = arm.decode(arm.encode_audio([clip]), [clip])
        assert (one.text, one.attempts) == (alone.text, alone.attempts)
        np.testing.assert_allclose(numbers(one), numbers(alone), atol=1e-3)
    states = Work(arm.sha256, arm.options, True, (EncoderExtractor(kind="encoder"),))
    with pytest.raises(UserError, match=r"encoder_dtype .* bfloat16 or float32"):
        compute(arm, plan_work(rows, states, store, 2), states, store, "fast")


def test_a_cascade_runs_on_it(package_router, plain, clips, wav, tmp_path):
    options = on(plain, "int8")
    folder = package_router(tmp_path / "router", "confidence", weak=options, strong=options)
    made = Router.load(folder).transcribe([wav(clip) for clip in clips])
    assert {row.arm for row in made} == {"weak", "strong"}
    for clip, row in zip(clips, made, strict=True):
        arm = load_arm(find_checkpoint(row.model), options)
        assert row.text == arm.decode(arm.encode_audio([clip]), [clip])[0].text


@pytest.mark.parametrize(
    "change",
    ['"engine":"ctranslate2"', '"engine":"ctranslate2","dtype":"int8"', '"dtype":"bfloat16"'],
)
def test_a_policy_made_on_one_engine_does_not_run_on_another(routers, tmp_path, change):
    source: Path = routers["confidence"]
    folder = tmp_path / "router"
    folder.mkdir()
    for path in source.rglob("*"):
        target = folder / path.relative_to(source)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    text = (folder / "router.json").read_text().replace(" ", "").replace("\n", "")
    for field in ('"engine":"torch"', '"dtype":"float32"'):
        assert field in text
        if field.split(":")[0] in change:
            text = text.replace(field + ",", "", 1)
    text = text.replace('"decode":{', '"decode":{' + change + ",", 1)
    (folder / "router.json").write_text(text)
    with pytest.raises(RouterMismatchError, match="another"):
        Router.load(folder)


def test_a_missing_package_or_type_is_named_with_its_remedy(make_arm, plain, monkeypatch):
    import ctranslate2

    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda device: {"float32"})
    with pytest.raises(UserError, match=r"dtype int8.*float32"):
        make_arm("english", on(plain, "int8"))
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UserError, match=r"pip install 'whisper-router\[fast\]'"):
        make_arm("english", on(plain))


def test_a_key_without_the_package_is_refused_as_well(plain, monkeypatch):
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    engine.engine_versions.cache_clear()
    monkeypatch.setattr(engine, "version", absent)
    with pytest.raises(
        UserError, match=r"ctranslate2 is not installed; pip install 'whisper-router\[fast\]'"
    ):
        arm_key("a" * 64, on(plain))
    assert arm_key("a" * 64, plain)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_weights_come_back_from_its_format_without_loss(checkpoints, vocabulary):
    content = torch.load(checkpoints[vocabulary], weights_only=True)
    dims, state = to_openai(
        read_arrays(write_arrays(from_openai(content["dims"], content["model_state_dict"])))
    )
    assert dims == content["dims"]
    assert state.keys() == content["model_state_dict"].keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in content["model_state_dict"].items())

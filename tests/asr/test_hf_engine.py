"""Engine hf on a small random Wav2Vec2ForCTC saved to disk."""

import json
import sys

import numpy as np
import pytest
import torch
from torch.nn.utils.parametrize import remove_parametrizations
from torch.utils.flop_counter import FlopCounterMode

from whisper_router.asr.arm import log_mel
from whisper_router.asr.load import cost_dims, load_arm
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import SAMPLE_RATE
from whisper_router.cost import Dims, arm_macs, encoder_macs
from whisper_router.errors import UserError
from whisper_router.features.extractors import feature_frames, pool_states
from whisper_router.features.options import EncoderExtractor
from whisper_router.router import Router

transformers = pytest.importorskip("transformers")

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]


def save_model(folder, norm: str, normalise: bool = True, strides=(5, 2, 2, 2, 2, 2, 2)):
    """A model of 32 by 2 layers whose head is sharp enough for runs of tokens and blanks."""
    config = transformers.Wav2Vec2Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        conv_stride=strides,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = transformers.Wav2Vec2ForCTC(config)
        torch.nn.init.normal_(model.lm_head.weight, std=2)
        model.lm_head.bias.data[0] = 2
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctc")
    return {norm: save_model(folder / norm, norm) for norm in ("group", "layer")}


@pytest.fixture(scope="module")
def ctc(plain):
    """Options of a CTC arm."""
    return plain.model_copy(update={"engine": "hf"})


@pytest.fixture(scope="module", params=["group", "layer"])
def arm(request, folders, ctc):
    return load_arm(find_checkpoint(str(folders[request.param])), ctc)


@torch.inference_mode()
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_states_text_and_confidence_are_those_of_transformers(folders, ctc, clips, norm):
    arm, audio = load_arm(find_checkpoint(str(folders[norm])), ctc), clips[2]
    context = ctc.context(audio.size)
    model = transformers.AutoModelForCTC.from_pretrained(folders[norm]).eval()
    processor = transformers.AutoProcessor.from_pretrained(folders[norm])
    size = {"padding": "max_length", "max_length": 320 * context + 80, "return_tensors": "pt"}
    given = processor(audio, sampling_rate=SAMPLE_RATE, return_attention_mask=True, **size)
    mask = given.attention_mask if norm == "layer" else None
    made = model(given.input_values, attention_mask=mask, output_hidden_states=True)
    encoding = arm.encode_audio([audio])
    valid = -(-audio.size // 320)
    assert encoding.last.shape == (1, context, 32)
    assert len(encoding.states) == len(made.hidden_states) == 3
    last = model.base_model(given.input_values, attention_mask=mask).last_hidden_state
    for state, expected in zip(encoding.states, (*made.hidden_states[:-1], last), strict=True):
        torch.testing.assert_close(state[:, :valid], expected[:, :valid], atol=1e-4, rtol=1e-4)
    (hypothesis,) = arm.decode(encoding, [audio])
    logprobs = made.logits[0, :valid].log_softmax(-1)
    assert hypothesis.text == processor.decode(logprobs.argmax(-1)).strip()
    assert hypothesis.avg_logprob == pytest.approx(logprobs.amax(-1).mean().item(), abs=1e-3)
    assert hypothesis.no_speech_prob == pytest.approx(logprobs[:, 0].exp().min().item(), abs=1e-3)
    assert 1 < hypothesis.tokens < valid
    best = logprobs.amax(-1).tolist()
    assert all(min(abs(value - one) for one in best) < 1e-3 for value in hypothesis.token_logprob)
    assert [(attempt.context, attempt.tokens) for attempt in hypothesis.attempts] == [(context, 0)]


def test_rows_do_not_depend_on_batch_mates(arm, clips):
    longest = max(clip.size for clip in clips)
    audios = [np.pad(clip, (0, longest - clip.size)) for clip in clips]
    audios[0][:] = 0  # silence
    together = arm.decode(arm.encode_audio(audios), audios)
    assert len({one.text for one in together}) > 2
    for audio, one in zip(audios, together, strict=True):
        (alone,) = arm.decode(arm.encode_audio([audio]), [audio])
        assert alone.text == one.text
        assert alone.token_logprob == pytest.approx(one.token_logprob, abs=1e-3)
        assert alone.token_entropy == pytest.approx(one.token_entropy, abs=1e-3)
        assert all(np.isfinite([one.avg_logprob, one.no_speech_prob]))


def test_it_is_not_retried(folders, ctc, clips):
    options = ctc.model_copy(update={"temperatures": (0.0, 1.0), "logprob_threshold": -1e-9})
    arm = load_arm(find_checkpoint(str(folders["group"])), options)
    (made,) = arm.decode(arm.encode_audio(clips[:1]), clips[:1])
    assert (len(made.attempts), made.temperature) == (1, 0.0)


def test_it_does_not_share_a_log_mel_with_whisper(arm, make_arm):
    assert not arm.shares_mel(make_arm("english"))
    assert not make_arm("english").shares_mel(arm)


def test_features_are_as_long_as_announced(arm, ctc, clips):
    for padding in ("cut", "keep"):
        extractor = EncoderExtractor(kind="encoder", pool=4, padding=padding)
        for clip in clips[:3]:
            feature = pool_states(arm.encode_audio([clip]).states, 0, clip.size, extractor)
            assert len(feature) == feature_frames(extractor, clip.size, ctc.context(clip.size))


def test_macs_are_those_that_torch_counts(folders, ctc):
    eager = {"attn_implementation": "eager"}  # torch does not count fused attention on a CPU
    model = transformers.AutoModelForCTC.from_pretrained(folders["group"], **eager).eval()
    remove_parametrizations(model.wav2vec2.encoder.pos_conv_embed.conv, "weight")
    dims = Dims(**cost_dims(load_arm(find_checkpoint(str(folders["group"])), ctc)))
    for frames in (50, 400):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(torch.randn(1, 320 * frames + 80))
        assert arm_macs(dims, [(frames, 0)]) == encoder_macs(dims, frames)
        assert encoder_macs(dims, frames) == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


@pytest.mark.parametrize("kind", ["encoder", "confidence", "strong_encoder"])
@pytest.mark.parametrize("place", ["weak", "strong"])
def test_a_router_of_two_families(package_router, folders, ctc, plain, clips, wav, tmp_path, kind, place):
    choice = {f"{place}_weights": folders["layer"], place: ctc}
    router = Router.load(package_router(tmp_path / "router", kind, **choice))
    made = router.transcribe([wav(clip) for clip in clips])
    assert {row.arm for row in made} == {"weak", "strong"}
    for clip, row in zip(clips, made, strict=True):
        options = ctc if row.arm == place else plain
        arm = load_arm(find_checkpoint(row.model), options)
        assert row.text == arm.decode(arm.encode_audio([clip]), [clip])[0].text


def test_bfloat16_is_near_and_not_the_same(folders, ctc, clips):
    checkpoint = find_checkpoint(str(folders["layer"]))
    exact, rough = (
        load_arm(checkpoint, ctc.model_copy(update={"dtype": dtype})).encode_audio(clips[:1]).last
        for dtype in ("float32", "bfloat16")
    )
    assert 0 < (rough - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_a_folder_is_known_by_its_files(folders, tmp_path):
    found = find_checkpoint(str(folders["group"]))
    assert (found.name, found.path) == ("group", folders["group"])
    assert found.sha256 != find_checkpoint(str(folders["layer"])).sha256
    assert found.sha256 == find_checkpoint(str(save_model(tmp_path / "again", "group"))).sha256
    changed = save_model(tmp_path / "changed", "group", normalise=False)
    assert found.sha256 != find_checkpoint(str(changed)).sha256


def test_what_does_not_fit_is_refused_with_a_remedy(folders, checkpoints, ctc, plain, monkeypatch, tmp_path):
    hf, pt = find_checkpoint(str(folders["group"])), find_checkpoint(str(checkpoints["english"]))
    for checkpoint, options in ((hf, plain), (pt, ctc)):
        with pytest.raises(UserError, match=r"Hugging Face needs engine hf, a Whisper checkpoint torch"):
            load_arm(checkpoint, options)
    odd = save_model(tmp_path / "odd", "group", strides=(5, 2, 2, 2, 2, 2, 1))
    with pytest.raises(UserError, match="frames of 160 samples, 320 are needed"):
        load_arm(find_checkpoint(str(odd)), ctc)
    (odd / "config.json").unlink()
    with pytest.raises(UserError, match="holds no CTC model in safetensors"):
        load_arm(find_checkpoint(str(odd)), ctc)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'whisper-router\[hf\]'"):
        load_arm(hf, ctc)
    assert log_mel([np.ones(3, np.float32)], 2, 0).tolist() == [[1.0] * 3 + [0.0] * 637]

"""Hidden states of a small random Wav2Vec2 saved to disk."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_model import save_model
from torch.nn.utils.parametrize import remove_parametrizations
from torch.utils.flop_counter import FlopCounterMode

from whisper_router.asr.weights import HF_FILE
from whisper_router.audio import SAMPLE_RATE
from whisper_router.errors import UserError
from whisper_router.features.hf import FILES, hf_frames, hf_sha256, load_hf
from whisper_router.features.kinds import HfExtractor
from whisper_router.features.reading import identity_of

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("w2v") / "model")


@torch.inference_mode()
@pytest.mark.parametrize("pool", [1, 4])
def test_the_feature_is_the_mean_of_all_hidden_states(folder, clips, pool):
    audio = clips[2]
    made = load_hf(str(folder)).feature(audio, pool)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    reader = transformers.AutoFeatureExtractor.from_pretrained(folder)
    given = reader(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
    frames = -(-audio.size // 320)
    padded = torch.nn.functional.pad(given, (0, 320 * frames + 80 - audio.size))
    states = torch.stack(model(padded, output_hidden_states=True).hidden_states, dim=2)[0, :frames]
    assert made.dtype == np.float16
    assert made.shape == (hf_frames(HfExtractor(kind="hf", model="", pool=pool), audio.size), 3, 32)
    for i, frame in enumerate(made):
        expected = states[i * pool : (i + 1) * pool].mean(dim=0)
        np.testing.assert_allclose(frame, expected, atol=2e-3, rtol=2e-3)


def test_products_are_those_that_torch_counts(folder):
    eager = {"attn_implementation": "eager"}  # torch does not count fused attention on a CPU
    model = transformers.AutoModel.from_pretrained(folder, **eager).eval()
    remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    source, samples = load_hf(str(folder)), 320 * 100
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.randn(1, samples + 80))
    assert source.macs(samples, True) == pytest.approx(counter.get_total_flops() / 2, rel=0.01)
    products = 2 * 2 * 100 * 100 * 32  # layers, queries with keys and weights with values, frames, width
    assert source.macs(samples, True) - source.macs(samples, False) == products


def test_a_model_is_known_by_its_files_and_not_by_its_folder(folder, tmp_path):
    extractor = HfExtractor(kind="hf", model=str(folder))
    again = save_model(tmp_path / "again")
    other = save_model(tmp_path / "other", seed=1)
    moved = HfExtractor(kind="hf", model=str(again))
    changed = HfExtractor(kind="hf", model=str(other))
    assert identity_of(extractor, {}) == identity_of(moved, {}) != identity_of(changed, {})
    assert identity_of(extractor, {})["options"]["sha256"] == hf_sha256(str(folder))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{copy} lacks {name}; put the model there"):
        hf_sha256(str(copy))


def test_nothing_there_is_named_as_a_whole(tmp_path):
    with pytest.raises(UserError, match=f"nowhere lacks {FILES[0]}, {FILES[1]}, {HF_FILE}"):
        hf_sha256(str(tmp_path / "nowhere"))


def test_without_transformers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'whisper-router\[hf\]'"):
        hf_sha256(str(folder))


def test_models_that_give_no_frames_of_20_ms_are_refused(folder, tmp_path):
    odd = save_model(tmp_path / "odd", conv_stride=(5, 2, 2, 2, 2, 2, 1))
    with pytest.raises(UserError, match="frames of 160 samples; 320 are needed"):
        load_hf(str(odd))
    text = tmp_path / "text"
    transformers.BertModel(
        transformers.BertConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=64
        )
    ).save_pretrained(text)
    shutil.copy(folder / FILES[1], text)
    with pytest.raises(UserError, match="model_type bert does not read samples through convolutions"):
        load_hf(str(text))
    (text / "config.json").write_text("{}")
    with pytest.raises(UserError, match="transformers cannot read it"):
        load_hf(str(text.rename(tmp_path / "broken")))

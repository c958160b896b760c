"""Features of every kind, of one utterance and of a corpus, and the products that they take."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hf_model import save_model
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.asr.load import cost_dims
from whisper_router.asr.options import DecodeOptions
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.cost import Dims
from whisper_router.errors import UserError
from whisper_router.features.collate import Sources, features_of
from whisper_router.features.combined import over_time, side_by_side
from whisper_router.features.extractors import pool_states
from whisper_router.features.hf import load_hf
from whisper_router.features.kinds import BlocksExtractor, CombinedExtractor, HfExtractor, LogMelExtractor
from whisper_router.features.logmel import mel_frames, pool_mel, weak_mel
from whisper_router.features.options import ConfidenceExtractor, SignalExtractor
from whisper_router.features.reading import (
    Heard,
    as_vector,
    frames_of,
    identity_of,
    read_feature,
    reading_costs,
    reading_macs,
)
from whisper_router.labelling import transcripts_table

CONFIDENCE, SIGNAL = ConfidenceExtractor(kind="confidence"), SignalExtractor(kind="signal")
MEL = LogMelExtractor(kind="logmel", pool=8)
WEAK, STRONG = (BlocksExtractor(kind="encoder", arm=arm, pool=4) for arm in ("weak", "strong"))
BLOCK = STRONG.model_copy(update={"blocks": 1})
BOTH = CombinedExtractor(kind="combined", parts=(CONFIDENCE, SIGNAL, WEAK))
BEGUN = CombinedExtractor(kind="combined", parts=(BLOCK, MEL))
ALL = {"weak": WEAK, "block": BLOCK, "mel": MEL, "both": BOTH, "begun": BEGUN}
ARMS = {
    "weak": (DecodeOptions(), Dims(80, 384, 4, 4, 51864, 3)),
    "strong": (DecodeOptions(), Dims(80, 512, 6, 6, 51865, 4)),
}


@settings(max_examples=60)
@given(samples=st.integers(1, 200 * 160), pool=st.integers(1, 40), mels=st.integers(1, 4))
def test_a_log_mel_is_cut_to_the_audio_and_averaged(samples, pool, mels):
    options = LogMelExtractor(kind="logmel", pool=pool)
    mel = torch.randn(mels, 300, generator=torch.Generator().manual_seed(samples))
    made = pool_mel(mel, samples, options)
    valid = max(1, -(-samples // 160))
    assert made.shape == (mel_frames(options, samples), 1, mels) == (-(-valid // pool), 1, mels)
    for i, frame in enumerate(made):
        expected = mel[:, i * pool : min(valid, (i + 1) * pool)].mean(dim=1)
        np.testing.assert_allclose(frame[0], expected, atol=2e-3)


@settings(max_examples=40)
@given(frames=st.integers(1, 9), layers=st.integers(1, 3), width=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_vector_of_a_part_is_mean_and_deviation_over_its_frames(frames, layers, width, seed):
    feature = np.random.default_rng(seed).normal(size=(frames, layers, width)).astype(np.float16)
    made = as_vector(WEAK, feature)
    whole = feature.astype(np.float64)
    np.testing.assert_allclose(made, np.concatenate([whole.mean(0).ravel(), whole.std(0).ravel()]))
    plain = np.arange(3, dtype=np.float32)[None]
    joined = side_by_side([made, as_vector(SIGNAL, plain)])
    assert joined.shape == (1, 2 * layers * width + 3)
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined[0, -3:], plain[0])


@pytest.fixture(scope="module")
def arms(make_arm):
    return {"weak": make_arm("english"), "strong": make_arm("multilingual")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, arms, clips, wav, checkpoints, reference_of, plain):
    """Manifest, transcripts and whole encodings of four utterances."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for i, clip in enumerate(clips[:4]):
        path = folder / f"{i}.wav"
        path.write_bytes(wav(clip))
        rows.append((f"u{i}", str(path), 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip), "words"))
    manifest = pd.DataFrame(rows, columns=["id", "audio", "offset_s", "duration_s", "sha256", "text"])
    weak = [arms["weak"].decode(arms["weak"].encode_audio([clip]), [clip])[0] for clip in clips[:4]]
    transcripts = transcripts_table(manifest, {"weak": weak}, {})

    def encodings(extractor):
        for i, clip in enumerate(clips[:4]):
            states = arms[extractor.arm].encode_audio([clip]).states
            yield f"u{i}", pool_states(states, 0, clip.size, extractor)

    references = {
        "weak": reference_of(checkpoints["english"], plain),
        "strong": reference_of(checkpoints["multilingual"], plain),
    }
    dims = {name: Dims(**cost_dims(arm)) for name, arm in arms.items()}
    return Sources(manifest, transcripts, references, dims, encodings), weak


@pytest.mark.parametrize("name", ALL)
def test_features_of_a_corpus_are_those_that_a_router_reads(corpus, arms, clips, name, tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path))
    (sources, weak), extractor = corpus, ALL[name]
    made = dict(features_of(extractor, sources, "a title"))
    assert list(made) == sources.manifest["id"].tolist()
    sizes = {arm: (sources.references[arm].decode, dims) for arm, dims in sources.dims.items()}
    for i, feature in enumerate(made.values()):
        encoding, heard_by_weak = (arms[a].encode_audio([clips[i]]) for a in (extractor.arm, "weak"))
        heard = Heard(clips[i], encoding.states, 0, weak[i], heard_by_weak.mel[0])
        np.testing.assert_allclose(feature, read_feature(extractor, heard), atol=1e-3, rtol=1e-3)
        assert len(feature) == frames_of(extractor, clips[i].size, sizes)


def test_too_many_blocks_for_the_encoder_at_hand_are_refused(corpus):
    many = STRONG.model_copy(update={"blocks": 2})
    with pytest.raises(UserError, match="blocks 2: the strong encoder has 2"):
        list(features_of(many, corpus[0], ""))


def test_states_of_a_hugging_face_model_are_kept_and_made_again(corpus, clips, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    extractor = HfExtractor(kind="hf", model=str(save_model(tmp_path / "model")))
    made = dict(features_of(extractor, corpus[0], ""))
    stored = sorted((tmp_path / "cache" / "encodings").glob("*/*.safetensors"))
    assert len(stored) == len(made) == 4
    for i, feature in enumerate(made.values()):
        np.testing.assert_array_equal(feature, read_feature(extractor, Heard(clips[i])))
    Path(stored[0]).write_bytes(b"damaged")
    read, source = [], load_hf(extractor.model)
    with monkeypatch.context() as patch:
        feature_of = source.feature
        patch.setattr(source, "feature", lambda audio, pool: read.append(1) or feature_of(audio, pool))
        again = dict(features_of(extractor, corpus[0], ""))
    assert len(read) == 1
    for id_, feature in made.items():
        np.testing.assert_array_equal(again[id_], feature)


def test_what_is_known_of_a_combination_is_what_is_known_of_its_parts():
    specs = {"weak": {"weights": "a"}, "strong": {"weights": "b"}}
    made = identity_of(BEGUN, specs)
    assert made["parts"] == [identity_of(BLOCK, specs), identity_of(MEL, specs)]
    assert made["parts"][0] == {"options": BLOCK.identity(), "arm": {"weights": "b"}}
    other = identity_of(BEGUN, {**specs, "weak": {"weights": "c"}})
    assert made != other


@settings(max_examples=40)
@given(samples=st.integers(1, 30 * SAMPLE_RATE))
def test_pooling_is_what_mean_and_deviation_of_the_parts_take(samples):
    assert (
        reading_macs(WEAK, samples, ARMS) == reading_macs(MEL, samples, ARMS) == {"macs": 0, "macs_paper": 0}
    )
    frames = frames_of(WEAK, samples, ARMS)
    assert reading_macs(BOTH, samples, ARMS) == {"macs": 3 * frames * 5 * 384, "macs_paper": 0}
    blocks, mels = frames_of(BLOCK, samples, ARMS), frames_of(MEL, samples, ARMS)
    assert reading_macs(BEGUN, samples, ARMS)["macs"] == 3 * (blocks * 2 * 512 + mels * 80)


def test_costs_of_utterances_are_each_its_own():
    made = reading_costs(BOTH, [1.0, 3.0], ARMS)
    assert made["macs"].tolist() == [
        reading_macs(BOTH, seconds * SAMPLE_RATE, ARMS)["macs"] for seconds in (1, 3)
    ]
    assert made["macs_paper"].tolist() == [0, 0]


def test_a_mel_is_the_same_alone_and_in_a_batch(arms, clips):
    arm = arms["weak"]
    same = [clips[1], clips[1][::-1].copy()]
    together = arm.encode_audio(same).mel
    for audio, mel in zip(same, together, strict=True):
        assert torch.equal(weak_mel(audio, arm.options, arm.n_mels), mel)


def test_deviation_of_one_frame_is_zero():
    assert over_time(np.ones((1, 2, 3), np.float16)).tolist() == [1] * 6 + [0] * 6

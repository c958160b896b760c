"""featurize names what it cannot read, and refuses what does not fit before it encodes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whisper_router import environment
from whisper_router.asr.load import cost_dims
from whisper_router.asr.reference import ArmReference
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.errors import UserError
from whisper_router.features.extractors import extract
from whisper_router.features.options import EncoderExtractor, SignalExtractor
from whisper_router.features.plain import plain_features
from whisper_router.files import write_json
from whisper_router.labelling import Work, encoding_bytes, utterances
from whisper_router.params import Params, load_params
from whisper_router.paths import ARMS
from whisper_router.store import ContentStore

ROOT = Path(__file__).parents[1]
PARAMS = """
ingest: {root: corpora, corpora: [{name: toy, kind: table, path: toy.csv}]}
runtime: {batch_size: 2}
extractors:
  small: {kind: encoder, arm: weak, pool: 4}
  large: {kind: encoder, arm: strong, pool: 1, stored: true}
  live: {kind: encoder, arm: strong, pool: 1}
  sure: {kind: confidence}
deciders: {any: {kind: logistic, extractor: small}}
policies: {even: {kind: fixed, decider: any, threshold: 0.5}}
router: {policy: even}
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[object]:
    """The stage's module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        for name, value in environment._DEFAULTS.items():
            patch.setenv(name, value)
        from flows import featurize

        yield featurize


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WHISPER_ROUTER_CACHE_LIMIT", raising=False)
    return tmp_path


@pytest.fixture
def params(project) -> Params:
    (project / "params.yaml").write_text(PARAMS)
    return load_params()


@pytest.fixture
def manifest(project, clips, wav) -> pd.DataFrame:
    rows = []
    for i, clip in enumerate(clips[:4]):
        (project / f"{i}.wav").write_bytes(wav(clip))
        rows.append((f"u{i}", f"{i}.wav", 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip)))
    return pd.DataFrame(rows, columns=["id", "audio", "offset_s", "duration_s", "sha256"])


@pytest.fixture
def references(project, checkpoints, plain, reference_of) -> dict[str, ArmReference]:
    """Both arms, as label leaves them."""
    made = {
        arm: reference_of(checkpoints[name], plain)
        for arm, name in (("weak", "english"), ("strong", "multilingual"))
    }
    write_json(
        ARMS,
        {
            name: {**reference.model_dump(mode="json"), "dims": cost_dims(reference.load())}
            for name, reference in made.items()
        },
    )
    return made


def encoded(stage, params, manifest, references, name: str = "small") -> dict[str, np.ndarray]:
    extractor = params.extractors[name]
    assert isinstance(extractor, EncoderExtractor)
    return dict(stage.encoder_features(params, extractor, references[extractor.arm], manifest))


def entries(manifest, references, extractor: EncoderExtractor) -> list[Path]:
    reference = references[extractor.arm]
    work = Work(reference.sha256, reference.decode, False, (extractor,))
    return [work.encoding_path(ContentStore(), sha256, extractor) for sha256 in manifest["sha256"]]


def test_an_audio_file_that_changed_is_named(stage, params, manifest, references, clips, wav):
    Path("1.wav").write_bytes(wav(clips[1] * 0.5))
    Path("2.wav").unlink()
    with pytest.raises(UserError) as caught:
        encoded(stage, params, manifest, references)
    assert str(caught.value) == (
        "u1: 1.wav: not the audio that ingest saw; run ingest again; u2: 2.wav: no such file"
    )


def test_an_encoding_that_is_damaged_is_made_again_or_the_changed_audio_is_named(
    stage, params, manifest, references, clips, wav
):
    first = encoded(stage, params, manifest, references)
    assert list(first) == manifest["id"].tolist()
    damaged = entries(manifest, references, params.extractors["small"])[3]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"\x07")
    again = encoded(stage, params, manifest, references)
    for id_, states in first.items():
        np.testing.assert_allclose(again[id_], states, atol=1e-3, rtol=1e-3)
    damaged.write_bytes(whole[:-1] + b"\x07")
    Path("3.wav").write_bytes(wav(clips[3] * 0.5))
    with pytest.raises(UserError, match=r"^u3: 3\.wav: not the audio that ingest saw; run ingest again$"):
        encoded(stage, params, manifest, references)


def test_what_stored_states_take_is_said_of_them_alone(stage, params, manifest, references, capsys):
    stage.announce(params, manifest)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["extractor small", "extractor large"]


def test_stored_states_that_do_not_fit_are_refused_until_they_are_made(
    stage, params, manifest, references, monkeypatch
):
    encoders = {name: params.extractors[name] for name in ("small", "large")}
    sizes = {
        name: encoding_bytes(
            utterances(manifest), references[extractor.arm].decode, extractor, stage.Dims(**dims)
        )
        for name, extractor in encoders.items()
        for dims in [cost_dims(references[extractor.arm].load())]
    }
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", str(sum(sizes.values())))
    stage.announce(params, manifest)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", str(sum(sizes.values()) - 1))
    with pytest.raises(UserError, match="the states of small, large take"):
        stage.announce(params, manifest)
    for name in encoders:
        encoded(stage, params, manifest, references, name)
    stage.announce(params, manifest)


def test_signal_features_are_those_of_the_audio(stage, manifest, clips):
    extractor = SignalExtractor(kind="signal")
    made = dict(plain_features(extractor, manifest, pd.DataFrame(), "signal"))
    for id_, clip in zip(manifest["id"], clips, strict=False):
        np.testing.assert_array_equal(made[id_], extract(extractor, clip))

"""Routers on each kind of extractor: what they run before and after the decision, and what they then say."""

import shutil

import numpy as np
import pytest
from hf_model import save_model

from whisper_router.asr.torch_engine import TorchEncoder
from whisper_router.cost import Dims, arm_macs, encoder_macs
from whisper_router.decider.registry import load_decider
from whisper_router.errors import UserError
from whisper_router.evaluation import first_blocks
from whisper_router.features.kinds import AnyExtractor, CombinedExtractor, HfExtractor
from whisper_router.features.options import SignalExtractor
from whisper_router.features.reading import Heard, read_feature
from whisper_router.registry import requirements
from whisper_router.router import HF, WEIGHTS, Router, RouterMismatchError
from whisper_router.serving.savings import savings

KINDS = ("combined", "logmel", "first_block", "combined_block")
BLOCKS = ("first_block", "combined_block")
STRONG, WEAK = 0.0, 1.1  # thresholds


@pytest.fixture(scope="module")
def packaged(package_router, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("routers")
    return {kind: package_router(folder / kind, kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def router(packaged, kind) -> Router:
    return Router.load(packaged[kind])


@pytest.fixture
def waves(clips, wav) -> list[bytes]:
    return [wav(clip) for clip in clips]


@pytest.fixture
def blocks_run(monkeypatch):
    """Blocks that ran, by encoder, in utterances."""
    made: dict[int, list[int]] = {}

    def hook(encoder: object, at: int):
        def count(_module: object, given: tuple, _result: object) -> None:
            made.setdefault(id(encoder), [0, 0])[at] += len(given[0])

        return count

    def watch(router: Router) -> dict[str, list[int]]:
        for arm in (router.weak, router.strong):
            assert isinstance(arm.encoder, TorchEncoder)
            for i, block in enumerate(arm.encoder._encoder.blocks):
                block.register_forward_hook(hook(arm.encoder, i))
        return {
            name: made.setdefault(id(arm.encoder), [0, 0])
            for name, arm in (("weak", router.weak), ("strong", router.strong))
        }

    return watch


@pytest.mark.parametrize("kind", BLOCKS, indirect=True)
def test_the_first_block_is_run_once_and_the_rest_on_the_strong_route_alone(router, waves, blocks_run, calls):
    run = blocks_run(router)
    assert all(row.arm == "weak" for row in router.transcribe(waves, WEAK))
    assert run == {"weak": [6, 6], "strong": [6, 0]}
    assert all(row.arm == "strong" for row in router.transcribe(waves, STRONG))
    assert run == {"weak": [6, 6], "strong": [12, 6]}
    router.decide(waves)
    assert run == {"weak": [6, 6], "strong": [18, 6]}
    made = router.transcribe(waves)
    sent = sum(row.arm == "strong" for row in made)
    assert 0 < sent < 6
    assert run == {"weak": [12 - sent, 12 - sent], "strong": [24, 6 + sent]}
    assert calls.mels == 4 * len(waves)  # one an utterance, whatever reads it


@pytest.mark.parametrize("kind", ["combined", "logmel"], indirect=True)
def test_what_the_weak_arm_made_is_gone_on_with(router, kind, waves, blocks_run, calls):
    run = blocks_run(router)
    sent = sum(row.arm == "strong" for row in router.transcribe(waves))
    assert 0 < sent < 6
    assert run == {"weak": [6, 6], "strong": [sent, sent]}
    decoded = 6 if kind == "combined" else 6 - sent
    assert calls.decoded == {
        router.description.weak.sha256: decoded,
        router.description.strong.sha256: sent,
    }
    assert calls.mels == len(waves)


def test_texts_are_those_of_the_chosen_arm_alone(router, make_arm, clips, waves):
    alone = {
        name: [arm.decode(arm.encode_audio([clip]), [clip])[0].text for clip in clips]
        for name, arm in (("weak", make_arm("english")), ("strong", make_arm("multilingual")))
    }
    for threshold in (STRONG, router.policy.threshold, WEAK):
        made = router.transcribe(waves, threshold)
        assert [row.text for row in made] == [alone[row.arm][i] for i, row in enumerate(made)]


def test_scores_are_the_decider_s_of_the_whole_encoding(router, packaged, kind, clips, waves):
    decider, _ = load_decider(packaged[kind] / "decider")
    extractor = router.description.extractor
    arm = router._arm(extractor.arm)
    for clip, row in zip(clips, router.decide(waves), strict=True):
        encoding = arm.encode_audio([clip])
        hypothesis = arm.decode(encoding, [clip])[0]
        heard = Heard(clip, encoding.states, 0, hypothesis, encoding.mel[0])
        assert decider.score([read_feature(extractor, heard)])[0] == pytest.approx(row.score, abs=1e-3)


@pytest.mark.parametrize("kind", BLOCKS, indirect=True)
def test_the_saving_counts_the_blocks_that_were_run(router, waves):
    dims = {name: Dims(**getattr(router, name).sizes) for name in ("weak", "strong")}
    for threshold in (WEAK, STRONG):
        (made,) = router.transcribe(waves[:1], threshold)
        spent = [(work.arm, work.blocks, work.tokens is None) for work in made.segments[0].spent]
        last = made.segments[0].spent[-1]
        if threshold == WEAK:
            assert spent == [("strong", 1, True), ("weak", None, False)]
            first = encoder_macs(first_blocks(dims["strong"], 1), made.segments[0].spent[0].frames)
            assert first < encoder_macs(dims["strong"], made.segments[0].spent[0].frames)
            assert savings(router, made)["routed"] == first + arm_macs(
                dims["weak"], [(last.frames, last.tokens)]
            )
        else:
            assert spent == [("strong", None, False)]
            assert savings(router, made)["saved"] == 0


def test_a_mel_of_other_settings_is_made_for_the_part_that_reads_it(
    package_router, plain, tmp_path, waves, monkeypatch
):
    longer = plain.model_copy(update={"floor_frames": 120})
    router = Router.load(package_router(tmp_path / "router", "combined_block", strong=longer))
    assert not router.weak.shares_mel(router.strong)
    heard = []
    monkeypatch.setattr(
        "whisper_router.router.read_feature", lambda _, one: heard.append(one) or np.zeros((1, 1))
    )
    monkeypatch.setattr(router.decider, "score", lambda features: np.zeros(len(features)))
    router.decide(waves)
    for one in heard:
        expected = router.weak.encode_audio([one.audio]).mel[0]
        np.testing.assert_array_equal(one.mel, expected)


def test_more_blocks_than_the_encoder_has_are_refused(packaged, waves):
    router = Router.load(packaged["first_block"])
    extractor = router.description.extractor.model_copy(update={"blocks": 2})
    router.description = router.description.model_copy(update={"extractor": extractor})
    with pytest.raises(UserError, match=r"blocks 2: the strong encoder has 2; give fewer than 2"):
        router.decide(waves[:1])


@pytest.mark.parametrize("combined", [False, True])
def test_a_hugging_face_model_is_checked_by_its_files_and_may_lie_in_the_router(
    package_router, tmp_path, waves, clips, combined
):
    pytest.importorskip("transformers")
    model = save_model(tmp_path / "model")
    reads: AnyExtractor = HfExtractor(kind="hf", model=str(model))
    if combined:
        reads = CombinedExtractor(kind="combined", parts=(SignalExtractor(kind="signal"), reads))
    folder = package_router(tmp_path / "router", "hf", extractor=reads)
    before = Router.load(folder).transcribe(waves)
    assert {row.arm for row in before} == {"weak", "strong"}
    assert "transformers==" in " ".join(requirements(folder))
    shutil.copytree(model, folder / WEIGHTS / HF)
    model.rename(tmp_path / "away")
    assert Router.load(folder).transcribe(waves) == before
    shutil.rmtree(folder / WEIGHTS)
    with pytest.raises(
        UserError, match=f"{model} lacks config.json, preprocessor_config.json, model.safetens"
    ):
        Router.load(folder)
    save_model(model, seed=1)
    with pytest.raises(RouterMismatchError, match="calibrated for another extractor"):
        Router.load(folder)


def test_rows_do_not_depend_on_their_batch(router, waves):
    together = router.transcribe(waves)
    for wave, row in list(zip(waves, together, strict=True))[:3]:
        (alone,) = router.transcribe([wave])
        assert (alone.text, alone.arm) == (row.text, row.arm)
        np.testing.assert_allclose(alone.score, row.score, atol=1e-3)

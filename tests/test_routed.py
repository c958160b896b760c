"""What the packaged router said is kept by arm and window, and made again where what shaped it changes."""

from dataclasses import replace

import numpy as np
import pytest

from whisper_router import routed as module
from whisper_router.audio import audio_sha256
from whisper_router.errors import UserError
from whisper_router.labelling import Utterance
from whisper_router.routed import ROUTES, Routed
from whisper_router.router import Router
from whisper_router.store import ContentStore

EVERY = list(ROUTES)


@pytest.fixture
def rows(tmp_path, speech, wav) -> list[Utterance]:
    made = []
    for i, seconds in enumerate((1.2, 2.0, 35.0)):
        audio = speech(seconds, seed=i)
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav(audio))
        made.append(Utterance(f"u{i}", str(path), 0.0, seconds, audio_sha256(audio)))
    return made


@pytest.fixture(params=["encoder", "confidence", "strong_encoder"])
def routed(request, routers, wav, tmp_path) -> Routed:
    return Routed(Router.load(routers[request.param]), wav, ContentStore(tmp_path / "cache"))


def test_each_way_is_what_the_router_says_at_any_threshold(routed, rows):
    heard = routed.hear(rows, EVERY)
    scores = [window.score for row in rows for window in heard[row.id, "stays weak"]]
    for threshold in (0.0, np.median(scores) - 1e-3, np.median(scores) + 1e-3, 1.5):
        for row, made in zip(
            rows, routed.router.transcribe([row.audio for row in rows], threshold), strict=True
        ):
            weak, strong = heard[row.id, "stays weak"], heard[row.id, "goes strong"]
            for segment, here, there in zip(made.segments, weak, strong, strict=True):
                taken = there if here.score >= threshold else here
                assert (segment.arm, segment.text) == (taken.arm, taken.text)
                assert segment.score == pytest.approx(here.score, abs=1e-4)
    for row, made in zip(
        rows, routed.router.transcribe([row.audio for row in rows], policy="strong"), strict=True
    ):
        assert [window.text for window in heard[row.id, "always strong"]] == [s.text for s in made.segments]


def test_what_is_kept_is_not_decoded_again(routed, rows, calls):
    heard = routed.hear(rows, EVERY)
    assert calls.decoded
    calls.decoded.clear()
    calls.encoded.clear()
    other = replace(routed)
    other.router.policy = other.router.policy.model_copy(update={"threshold": 0.123})
    assert other.hear(rows, EVERY) == heard
    assert not calls.decoded
    assert not calls.encoded
    routed.forget(rows[0])
    assert routed.hear(rows, EVERY).keys() == heard.keys()
    assert sum(calls.decoded.values()) > 0


@pytest.mark.parametrize("part", ["weak", "strong", "code", "library", "extractor", "decider", "batch"])
def test_a_change_of_anything_that_shaped_it_is_decoded_again(
    routers, rows, wav, tmp_path, calls, monkeypatch, part
):
    def make() -> Routed:
        return Routed(Router.load(routers["encoder"]), wav, ContentStore(tmp_path / "cache"))

    make().hear(rows[:1], EVERY)
    calls.decoded.clear()
    changed = make()
    description, policy = changed.router.description, changed.router.policy
    if part in ("weak", "strong"):
        reference = getattr(description, part).model_copy(update={"sha256": "0" * 64})
        changed.router.description = description.model_copy(update={part: reference})
    elif part == "batch":
        changed.router.description = description.model_copy(update={"batch_size": 3})
    elif part in ("extractor", "decider"):
        bound = policy.bound.model_copy(update={part: "0" * 64})
        changed.router.policy = policy.model_copy(update={"bound": bound})
    elif part == "code":
        monkeypatch.setattr(module, "code_hash", lambda *modules: "other")
    else:
        monkeypatch.setattr(module, "version", lambda name: "0")
    changed.hear(rows[:1], EVERY)
    assert calls.decoded


def test_audio_that_is_gone_is_named(routed, rows, tmp_path):
    (tmp_path / "1.wav").unlink()
    with pytest.raises(UserError, match=r"u1: .*1\.wav"):
        routed.hear(rows, EVERY)

"""An encoder that stopped after its first blocks and went on has done what one in one piece does."""

import pytest
import torch

from whisper_router.asr.blocks import Started, begin, check_blocks, whole
from whisper_router.asr.engine import Encoding
from whisper_router.errors import UserError


@pytest.fixture(params=["float32", "bfloat16"])
def arm(request, make_arm, plain):
    return make_arm("multilingual", plain.model_copy(update={"dtype": request.param}))


def test_stopping_changes_no_bit_of_states_or_text(arm, clips):
    audios = [clips[1], clips[1][::-1].copy()]
    at_once = arm.encode_audio(audios)
    begun = begin(arm, audios, 1)
    assert isinstance(begun, Started)
    assert len(begun.states) == 2
    for state, expected in zip(begun.states, at_once.states, strict=False):
        assert state.dtype == torch.float32
        assert torch.equal(state, expected)
    finished = whole(arm, begun)
    assert torch.equal(finished.mel, at_once.mel)
    for state, expected in zip(finished.states, at_once.states, strict=True):
        assert torch.equal(state, expected)
    made, expected = (arm.decode(encoding, audios) for encoding in (finished, at_once))
    assert made == expected


def test_some_rows_go_on(arm, clips):
    audios = [clips[1], clips[1][::-1].copy()]
    begun = begin(arm, audios, 1)
    (made,) = arm.decode(whole(arm, begun.rows([1])), audios[1:])
    (expected,) = arm.decode(arm.encode_audio(audios[1:]), audios[1:])
    assert made.text == expected.text


def test_without_blocks_the_encoder_runs_in_one_piece(arm, clips):
    begun = begin(arm, clips[:1], None)
    assert isinstance(begun, Encoding)
    assert whole(arm, begun) is begun


def test_an_engine_that_cannot_stop_is_refused_by_name(make_arm, plain, clips):
    fast = make_arm("english", plain.model_copy(update={"engine": "ctranslate2"}))
    with pytest.raises(
        UserError, match=r"decode.engine ctranslate2 of the strong arm.*blocks: 1 set that engine"
    ):
        begin(fast, clips[:1], 1)


@pytest.mark.parametrize("blocks", [2, 3])
def test_blocks_that_are_not_there_are_refused(blocks):
    with pytest.raises(UserError, match=f"blocks {blocks}: the strong encoder has 2; give fewer than 2"):
        check_blocks(2, blocks)

"""What params.yaml may ask of extractors, alone and combined."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from whisper_router.features.kinds import (
    AnyExtractor,
    BlocksExtractor,
    blocks_of,
    dearest,
    encoder_of,
    parts_of,
)
from whisper_router.features.options import EncoderExtractor

ANY: TypeAdapter[AnyExtractor] = TypeAdapter(AnyExtractor)
PARTS = {
    "confidence": {"kind": "confidence"},
    "signal": {"kind": "signal"},
    "logmel": {"kind": "logmel"},
    "hf": {"kind": "hf", "model": "w2v"},
    "weak": {"kind": "encoder", "pool": 4},
    "strong": {"kind": "encoder", "arm": "strong", "pool": 4},
    "blocks": {"kind": "encoder", "arm": "strong", "blocks": 2},
}


@pytest.mark.parametrize("arm", ["weak", "strong"])
@pytest.mark.parametrize("stored", [None, True])
def test_an_encoder_without_blocks_is_known_as_before(arm, stored):
    values = {"kind": "encoder", "arm": arm, "pool": 8, "stored": stored}
    before = EncoderExtractor.model_validate(values)
    made = ANY.validate_python(values)
    assert (
        made.identity() == before.identity() == {"kind": "encoder", "arm": arm, "pool": 8, "padding": "cut"}
    )
    assert made.whole == before
    assert (made.reads, made.is_stored) == (before.reads, before.is_stored)


def test_blocks_are_part_of_what_an_encoder_is_known_by_and_the_store_keeps_all():
    made = BlocksExtractor(kind="encoder", arm="strong", blocks=2)
    assert made.identity()["blocks"] == 2
    assert made.whole.identity() == EncoderExtractor(kind="encoder", arm="strong").identity()


@settings(max_examples=200)
@given(names=st.lists(st.sampled_from(sorted(PARTS)), max_size=5))
def test_a_combination_reads_one_arm_before_the_decision_and_each_kind_once(names):
    kinds = [PARTS[name]["kind"] for name in names]
    arms = {"strong" if name in ("strong", "blocks") else "weak" for name in names if name in PARTS} & {
        "weak" if {"confidence", "weak"} & set(names) else "",
        "strong" if {"strong", "blocks"} & set(names) else "",
    }
    right = len(names) > 1 and len(set(kinds)) == len(kinds) and len(arms) < 2
    values = {"kind": "combined", "parts": [PARTS[name] for name in names]}
    if not right:
        with pytest.raises(ValidationError):
            ANY.validate_python(values)
        return
    made = ANY.validate_python(values)
    assert [part.kind for part in parts_of(made)] == kinds
    assert made.arm == ("strong" if "strong" in arms else "weak")
    assert made.reads == dearest({part.reads for part in made.parts})
    assert blocks_of(made) == (2 if "blocks" in names else None)
    assert (encoder_of(made) is None) == ("encoder" not in kinds)
    assert ANY.validate_python(made.model_dump(mode="json")) == made
    assert [part["kind"] for part in made.identity()["parts"]] == kinds


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "encoder", "blocks": 2}, "blocks 2: the first blocks are read of arm strong, not weak"),
        ({"kind": "encoder", "arm": "strong", "blocks": 2, "pool": 1}, "set pool above 1 or stored: true"),
        ({"kind": "encoder", "arm": "strong", "blocks": 0}, "greater than or equal to 1"),
        ({"kind": "combined", "parts": [PARTS["signal"]]}, "at least 2 items"),
        ({"kind": "combined", "parts": [PARTS["signal"]] * 2}, "kind signal stands there twice"),
        (
            {"kind": "combined", "parts": [PARTS["confidence"], PARTS["strong"]]},
            "both arms would run before the decision, the weak one for confidence and the strong one",
        ),
        (
            {"kind": "combined", "parts": [PARTS["weak"], PARTS["blocks"]]},
            "both arms would run before the decision, the weak one for its encoder and the strong one",
        ),
        (
            {"kind": "combined", "parts": [PARTS["signal"], {"kind": "encoder", "pool": 1}]},
            "encoder: pool 1 is not stored; set pool above 1",
        ),
        ({"kind": "combined", "parts": [PARTS["signal"], {"kind": "combined", "parts": []}]}, "'combined'"),
        ({"kind": "logmel", "pool": 0}, "greater than or equal to 1"),
        ({"kind": "hf"}, "Field required"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(values, said):
    with pytest.raises(ValidationError) as caught:
        ANY.validate_python(values)
    assert said in str(caught.value)


def test_the_identity_of_a_hugging_face_model_is_not_its_path():
    one, other = (ANY.validate_python({"kind": "hf", "model": path}) for path in ("a", "b"))
    assert one.identity() == other.identity() == {"kind": "hf", "pool": 4}
    assert not set(chain.from_iterable(one.identity().items())) & {"a", "b"}

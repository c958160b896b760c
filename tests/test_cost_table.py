"""Prices of utterances are read off a table as it was measured; a stale or missing table is told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.cost_table import (
    ArmCosts,
    BatchCosts,
    CostTable,
    DecisionCosts,
    DecisionPoint,
    DecodePoint,
    EncodePoint,
    Energy,
    Watts,
    load_table,
)
from whisper_router.errors import UserError
from whisper_router.files import write_text
from whisper_router.hashing import import_closure

SPEC = {"weights": "abc", "options": {"language": "en", "floor_frames": 500}, "engine": "torch"}


def costs(utterances: int = 16, factor: float = 1.0) -> BatchCosts:
    """0.1 s of encoder for 500 frames; 0.01 s of decoder and 1 ms a token, twice that at 1500 frames."""
    return BatchCosts(
        encode=(
            EncodePoint(context=500, mel_s=0.01 * factor, encode_s=0.1 * factor),
            EncodePoint(context=1500, mel_s=0.03 * factor, encode_s=0.5 * factor),
        ),
        decode=tuple(
            DecodePoint(
                context=context,
                tokens=tokens,
                utterances=utterances,
                decode_s=scale * factor * (0.01 + 0.001 * tokens),
            )
            for context, scale in ((500, 1), (1500, 2))
            for tokens in (10.0, 40.0)
        ),
    )


ARM = ArmCosts(
    model="tiny.en", spec=SPEC, batched=costs(), single=costs(1, 3.0), watts=Watts(encode=10.0, decode=4.0)
)


def table(**changes: object) -> CostTable:
    made = CostTable(
        machine={"cpu": "a processor"},
        date="2026-01-01",
        conditions={},
        code="",
        arms={"weak": ARM},
        checks={},
        deciders={},
        energy=Energy(kind="estimated", how="a model"),
        gpu_seconds="not measured",
    )
    return made.model_copy(update=changes)


def test_measured_points_come_back():
    assert ARM.utterance([(500, 10)])["cpu_seconds"] == pytest.approx(0.11 + 0.02)
    assert ARM.utterance([(1500, 40)])["cpu_seconds"] == pytest.approx(0.53 + 0.10)


def test_between_points_it_is_linear_and_beyond_the_tokens_too():
    assert ARM.utterance([(1000, 25)])["cpu_seconds"] == pytest.approx(0.02 + 0.3 + 1.5 * 0.035)
    assert ARM.utterance([(500, 200)])["cpu_seconds"] == pytest.approx(0.11 + 0.21)


def test_a_retry_is_priced_as_an_utterance_alone_and_pays_the_encoder_for_a_new_context_only():
    first = 0.11 + 0.02
    again = 3 * (0.53 + 0.10)
    sampled = 3 * 0.10
    made = ARM.utterance([(500, 10), (1500, 40), (1500, 40)])
    assert made["cpu_seconds"] == pytest.approx(first + again + sampled)


def test_joules_weigh_encoder_and_decoder_apart_and_are_left_out_where_energy_is_unknown():
    assert ARM.utterance([(500, 10)])["joules"] == pytest.approx(0.11 * 10 + 0.02 * 4)
    assert ARM.encoder(500) == pytest.approx({"cpu_seconds": 0.11, "joules": 1.1})
    assert set(ARM.model_copy(update={"watts": None}).utterance([(500, 10)])) == {"cpu_seconds"}


def test_noise_in_the_points_makes_no_token_and_no_start_cheaper_than_free():
    for seconds in ((0.05, 0.02), (0.001, 0.09)):
        points = tuple(
            DecodePoint(context=500, tokens=tokens, utterances=1, decode_s=value)
            for tokens, value in zip((10.0, 40.0), seconds, strict=True)
        )
        noisy = costs().model_copy(update={"decode": points})
        prices = [noisy.decode_s(500, tokens) for tokens in (1, 10, 40, 200)]
        assert prices == sorted(prices)
        assert min(prices) > 0


@settings(max_examples=50)
@given(context=st.integers(500, 1499), tokens=st.integers(4, 200))
def test_more_audio_and_more_tokens_cost_more(context, tokens):
    price = ARM.utterance([(context, tokens)])["cpu_seconds"]
    assert price < ARM.utterance([(context + 1, tokens)])["cpu_seconds"]
    assert price < ARM.utterance([(context, tokens + 1)])["cpu_seconds"]
    assert price < ARM.utterance([(context, tokens), (context, tokens)])["cpu_seconds"]


def test_a_decision_is_priced_by_duration():
    decision = DecisionCosts(
        decider="sha",
        points=(
            DecisionPoint(duration_s=12.0, extractor_s=0.006, decider_s=0.002),
            DecisionPoint(duration_s=2.0, extractor_s=0.001, decider_s=0.001),
        ),
    )
    assert decision.utterance(7.0, ARM.watts) == pytest.approx({"cpu_seconds": 0.005, "joules": 0.05})
    assert decision.utterance(1.0, None) == pytest.approx({"cpu_seconds": 0.002})


def test_an_arm_is_found_by_what_it_is_and_a_stale_one_is_told_with_what_differs():
    assert table().arm("strong", SPEC) == ARM
    other = {**SPEC, "weights": "def", "options": {**SPEC["options"], "floor_frames": 750}}
    with pytest.raises(UserError, match="its weak arm differs in floor_frames") as told:
        table().arm("weak", other)
    assert "500, now 750" in str(told.value)
    assert "weights (abc, now def)" in str(told.value)
    assert "cost --measure" in str(told.value)
    with pytest.raises(UserError, match="no arm 'strong'; run `whisper-router cost --measure`"):
        table().arm("strong", other)


def test_a_table_is_read_as_it_was_written(tmp_path):
    write_text(tmp_path / "here.json", table().model_dump_json())
    assert load_table(tmp_path / "here.json") == table()


def test_a_missing_or_foreign_table_is_told_with_those_that_are_there(tmp_path):
    write_text(tmp_path / "laptop.json", "{}")
    with pytest.raises(UserError, match=r"server\.json: no such table \(there: laptop\); .*--measure"):
        load_table(tmp_path / "server.json")
    with pytest.raises(UserError, match="not a cost table of this version"):
        load_table(tmp_path / "laptop.json")


@pytest.mark.parametrize(
    "module", ["labelling", "router", "evaluation", "decider.training", "features.live", "replication"]
)
def test_what_stages_run_imports_nothing_that_measures(module):
    closure = import_closure(f"whisper_router.{module}")
    assert not {"whisper_router.cost_measure", "whisper_router.energy"} & set(closure)

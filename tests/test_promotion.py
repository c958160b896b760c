"""Promotion, rollback and their history, on a registry of a test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from whisper_router.errors import UserError
from whisper_router.promotion import (
    LEANING,
    MODEL,
    SAYS,
    WORTH,
    Move,
    champion,
    compare,
    history,
    models,
    promote,
    registry,
    rollback,
    served_before,
)


@pytest.fixture
def client(tmp_path, monkeypatch) -> MlflowClient:
    """A registry with three versions, each with a run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = registry()
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    client.create_registered_model(MODEL)
    for number in (1, 2, 3):
        run = client.create_run(experiment)
        client.log_metric(run.info.run_id, "wer_routed", 0.1 * number)
        client.log_param(run.info.run_id, "policy", f"p{number}")
        client.log_param(run.info.run_id, "seed", "0")
        client.create_model_version(MODEL, str(tmp_path), run.info.run_id)
    return client


def test_a_rollback_goes_back_one_step_at_a_time_and_keeps_history(client):
    for version in ("1", "2", "3"):
        promote(version, "better")
    assert promote("3", "again") is None
    assert rollback("bad").version == "2"
    assert rollback("worse").version == "1"
    with pytest.raises(UserError, match="version 1 is the first"):
        rollback("more")
    promote("3", "mended")
    assert rollback("no").version == "1"
    assert champion(client) == "1"
    assert [(move.action, move.version, move.previous, move.reason) for move in history(client)] == [
        ("promote", "1", None, "better"),
        ("promote", "2", "1", "better"),
        ("promote", "3", "2", "better"),
        ("rollback", "2", "3", "bad"),
        ("rollback", "1", "2", "worse"),
        ("promote", "3", "1", "mended"),
        ("rollback", "1", "3", "no"),
    ]


def test_a_move_by_hand_can_be_rolled_back(client):
    promote("1", "first")
    client.set_registered_model_alias(MODEL, "champion", "3")
    assert rollback("not that one").version == "1"


def test_what_failed_the_gate_is_promoted_by_force_alone(client):
    promote("1", "first")
    client.set_model_version_tag(MODEL, "2", "gate", "failed")
    client.set_model_version_tag(MODEL, "2", "gate.slices", "failed: corpus calls: WER up by 9.00%")
    with pytest.raises(UserError, match=r"(?s)version 2 failed the gate.*slices: corpus calls: WER up"):
        promote("2", "please")
    assert champion(client) == "1"
    assert promote("2", "please", force=True).version == "2"


def test_what_is_not_worth_serving_is_promoted_by_force_alone(client):
    says = {WORTH: "weak", LEANING: "weak", SAYS: "do not route. tiny.en alone is better"}
    for key, value in says.items():
        client.set_model_version_tag(MODEL, "2", key, value)
    with pytest.raises(UserError, match=r"(?s)version 2 is not worth serving.*do not route. tiny.en"):
        promote("2", "please")
    assert champion(client) is None
    assert promote("2", "please", force=True).version == "2"
    assert [(row["verdict"], row["verdict_says"]) for row in models()] == [
        (None, None),
        ("weak", says[SAYS]),
        (None, None),
    ]
    assert compare("1", "2")["verdict"] == [("verdict", None, says[SAYS])]


def test_unknown_versions_are_refused_with_those_there_are(client):
    with pytest.raises(UserError, match=r"no version or alias '9'; versions: 1, 2, 3"):
        promote("9", "?")
    with pytest.raises(UserError, match="'nobody'"):
        promote("nobody", "?")


def test_models_and_compare_show_what_differs(client):
    promote("2", "first")
    client.set_model_version_tag(MODEL, "2", "gate", "passed")
    rows = models()
    assert [(row["version"], row["aliases"], row["gate"]) for row in rows] == [
        ("1", [], None),
        ("2", ["champion"], "passed"),
        ("3", [], None),
    ]
    assert [row["wer_routed"] for row in rows] == pytest.approx([0.1, 0.2, 0.3])
    made = compare("1", "champion")
    assert made["params"] == [("policy", "p1", "p2")]
    assert made["metrics"] == [("wer_routed", pytest.approx(0.1), pytest.approx(0.2))]


@given(st.lists(st.one_of(st.sampled_from("1234"), st.just("back")), max_size=30))
def test_rollbacks_undo_promotions_like_a_stack(steps):
    stack: list[str] = []
    moves: list[Move] = []
    for step in steps:
        current = stack[-1] if stack else None
        if step == "back":
            if len(stack) < 2:
                continue
            stack.pop()
            moves.append(Move("", "rollback", stack[-1], current, ""))
        elif step != current:
            stack.append(step)
            moves.append(Move("", "promote", step, current, ""))
        if stack:
            assert served_before(moves, stack[-1]) == stack[:-1]

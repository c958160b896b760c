"""What is packaged beside the router's policy."""

import pytest

from flows.package import policies_of
from whisper_router.errors import UserError
from whisper_router.params import Params

VALUES = {
    "ingest": {"corpora": [{"name": "calls", "kind": "table", "path": "calls.jsonl"}]},
    "extractors": {"confidence": {"kind": "confidence"}},
    "deciders": {name: {"kind": "logistic", "extractor": "confidence"} for name in ("one", "two")},
    "router": {"policy": "half"},
}


def params(**policies: str) -> Params:
    half = {name: {"kind": "strong_share", "decider": d, "share": 0.5} for name, d in policies.items()}
    return Params.model_validate({**VALUES, "policies": half})


def test_all_policies_of_the_decider_are_packaged():
    chosen = params(half="one", other="two", more="one")
    assert policies_of(chosen, "one") == ["half", "more"]


def test_a_policy_with_the_name_of_an_arm_is_refused():
    with pytest.raises(UserError, match=r"policies\.strong: that name asks for the strong arm"):
        policies_of(params(half="one", strong="one"), "one")
    assert policies_of(params(half="one", strong="two"), "one") == ["half"]

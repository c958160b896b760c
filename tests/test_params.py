"""params.yaml is strict, and is changed as a whole or not at all."""

import json
import shutil
import tomllib
import tracemalloc
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from whisper_router.audited import lock_outputs
from whisper_router.errors import UserError
from whisper_router.params import (
    ParamsError,
    edit_params,
    folder_corpus,
    load_params,
    load_yaml,
    presets,
    read_preset,
)
from whisper_router.policy.commands import _options as policy_options

COMMITTED = Path(__file__).parents[1] / "params.yaml"
SMALLEST: dict[str, Any] = {
    "ingest": {"corpora": [{"name": "talks", "kind": "table", "path": "talks.csv"}]},
    "extractors": {"sure": {"kind": "confidence"}, "states": {"kind": "encoder"}},
    "deciders": {"line": {"kind": "logistic", "extractor": "sure"}},
    "policies": {"half": {"kind": "strong_share", "decider": "line", "share": 0.5}},
    "router": {"policy": "half"},
}
COMMENTED = """\
# at the top
ingest:
  root: corpora   # beside the value
  corpora:
    - {name: talks, kind: table, path: "talks.csv"}

arms:
  weak: {model: tiny.en}   # the small one

extractors: {sure: {kind: confidence}}
deciders:
  # above the value
  line: {kind: logistic, extractor: sure}
policies:
  half: {kind: strong_share, decider: line, share: 0.5}
router: {policy: half}
"""


def changed(path: str, value: Any) -> dict[str, Any]:
    values = deepcopy(SMALLEST)
    *parents, last = path.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return values


def refusal(tmp_path: Path, values: Any) -> str:
    path = tmp_path / "params.yaml"
    if isinstance(values, str):
        path.write_text(values)
    else:
        YAML().dump(values, path)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def commented(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(COMMENTED)
    return path


def test_the_committed_params_are_valid():
    params = load_params(COMMITTED)
    assert params.router.policy in params.policies


def test_what_is_left_out_has_a_default(tmp_path):
    YAML().dump(SMALLEST, tmp_path / "params.yaml")
    params = load_params(tmp_path / "params.yaml")
    assert (params.arms.weak.model, params.arms.strong.model) == ("tiny", "small")
    assert params.ingest.max_duration_s == 4 * 3600
    assert params.runtime.runner.kind == "in_process"
    assert params.checks.audible == "warn"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spelling", 1),
        ("ingest.rot", "corpora"),
        ("ingest.splits.tests", 0.2),
        ("arms.medium", {"model": "base"}),
        ("arms.weak.decode.beam", 8),
        ("runtime.batchsize", 4),
        ("runtime.runner", {"kind": "dask", "nodes": 2}),
        ("checks.loudness", "warn"),
        ("extractors.states.layers", [1]),
        ("deciders.line.hidden", 32),
        ("policies.half.threshold", 0.5),
        ("router.decider", "line"),
        ("evaluate.bootstraps", 100),
    ],
)
def test_an_unknown_key_is_refused_by_name(path, value, tmp_path):
    values = changed(path, value)
    if path.startswith("arms.weak"):
        values["arms"]["weak"]["model"] = "tiny"
    message = refusal(tmp_path, values)
    assert path.rpartition(".")[2] in message
    assert "Extra inputs are not permitted" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("runtime.batch_size", 0),
        ("runtime.batch_size", 257),
        ("runtime.batch_size", "many"),
        ("extractors.states.pool", 0),
        ("extractors.states.pool", 1501),
        ("extractors.states.arm", "middle"),
        ("extractors.states.padding", "crop"),
        ("extractors.states.stored", "perhaps"),
        ("deciders.line.c", []),
        ("policies.half.share", 1.01),
        ("policies.half.share", -0.01),
        ("policies.half.share", float("nan")),
        ("evaluate.bootstrap", 99),
        ("evaluate.verify", 0),
        ("ingest.max_duration_s", 4 * 3600 + 1),
        ("checks.audible", "ignore"),
        ("runtime.runner", {"kind": "ray"}),
        ("ingest.min_duration_s", 0),
        ("ingest.splits.test", 0),
        ("ingest.splits.dev", 1),
        ("ingest.corpora", []),
        ("deciders", {}),
        ("extractors", {}),
        ("policies", {}),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_place_and_itself(path, value, tmp_path):
    message = refusal(tmp_path, changed(path, value))
    assert path.rpartition(".")[2] in message
    assert f"(value: {value!r})" in message


def test_an_arm_s_decode_options_have_bounds(tmp_path):
    for name, value in (("floor_frames", 49), ("logprob_threshold", 0), ("temperatures", [])):
        message = refusal(tmp_path, changed("arms", {"weak": {"model": "tiny", "decode": {name: value}}}))
        assert f"arms.weak.decode.{name}" in message


@pytest.mark.parametrize(
    ("path", "value", "said"), [("deciders.line.c", [0.0], "0.0"), ("evaluate.seed", -1, "-1")]
)
def test_a_value_that_no_stage_can_use_is_refused(path, value, said, tmp_path):
    assert f"(value: {said})" in refusal(tmp_path, changed(path, value))


@pytest.mark.parametrize("section", ["extractors", "deciders", "policies"])
def test_the_name_of_a_part_is_no_path(section, tmp_path):
    values = deepcopy(SMALLEST)
    (part, *_) = values[section].values()
    values[section]["../up"] = part
    assert "../up" in refusal(tmp_path, values)


def test_splits_that_leave_no_train_are_refused(tmp_path):
    values = changed("ingest.splits", {"test": 0.5, "calibration": 0.3, "dev": 0.2})
    assert "leave no train" in refusal(tmp_path, values)


def test_two_corpora_of_one_name_are_refused(tmp_path):
    message = refusal(tmp_path, changed("ingest.corpora", SMALLEST["ingest"]["corpora"] * 2))
    assert "talks" in message
    assert "share a name" in message


@pytest.mark.parametrize("name", ["../up", "a/b", "", "two words"])
def test_the_name_of_a_corpus_is_no_path(name, tmp_path):
    corpora = [{**SMALLEST["ingest"]["corpora"][0], "name": name}]
    assert repr(name) in refusal(tmp_path, changed("ingest.corpora", corpora))


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("deciders.line.extractor", "deciders.line.extractor: 'absent' is none of sure, states"),
        ("policies.half.decider", "policies.half.decider: 'absent' is none of line"),
        ("router.policy", "router.policy: 'absent' is none of half"),
    ],
)
def test_a_name_that_nothing_defines_is_refused_with_the_names_there_are(path, wanted, tmp_path):
    assert wanted in refusal(tmp_path, changed(path, "absent"))


@pytest.mark.parametrize("path", ["extractors.sure", "deciders.line", "policies.half"])
def test_an_unknown_kind_is_refused_by_name(path, tmp_path):
    message = refusal(tmp_path, changed(f"{path}.kind", "magic"))
    assert path in message
    assert "magic" in message


def test_a_network_on_confidences_is_refused(tmp_path):
    message = refusal(tmp_path, changed("deciders.line.kind", "mlp"))
    assert (
        "deciders.line: kind mlp looks along frames, and extractor sure of kind confidence has none"
        in message
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimiser", "sgd"),
        ("schedule", "linear"),
        ("monitor", "auroc"),
        ("precision", "float16"),
        ("learning_rate", 0),
        ("weight_decay", -0.1),
        ("class_weight_below", 0.6),
        ("patience", 0),
        ("strides", []),
        ("strides", [2, 0]),
        ("channels", 0),
        ("epochs", 0),
        ("hidden", 8),
    ],
)
def test_a_training_option_out_of_range_is_refused_by_name(key, value, tmp_path):
    net = {"kind": "resnet", "extractor": "states", key: value}
    assert f"deciders.net.resnet.{key}" in refusal(tmp_path, changed("deciders.net", net))


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            {"kind": "cost_budget", "budget": 0.5, "currency": "joules"},
            "policies.half.currency: joules takes",
        ),
        ({"kind": "wer_budget", "points": 1, "currency": "euros"}, "policies.half.wer_budget.currency"),
        ({"kind": "guarantee", "alpha": 1.5}, "policies.half.guarantee.alpha"),
        ({"kind": "guarantee", "risk": "some"}, "policies.half.guarantee.risk"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_its_field(policy, said, tmp_path):
    values = changed("policies.half", {"decider": "line", **policy})
    assert said in refusal(tmp_path, values)
    values["cost_table"] = "here"
    if policy.get("currency") == "joules":
        YAML().dump(values, tmp_path / "params.yaml")
        assert load_params(tmp_path / "params.yaml").cost_table == "here"


def test_a_guarantee_refuses_scores_that_the_calibration_labels_reorder(tmp_path):
    values = changed("policies.half", {"decider": "line", "kind": "guarantee", "alpha": 0.1})
    values["deciders"]["line"]["calibration"] = "isotonic"
    assert "set deciders.line.calibration to temperature or none" in refusal(tmp_path, values)


def test_every_fault_is_named_at_once(tmp_path):
    values = changed("runtime.batch_size", 0)
    values["spelling"] = 1
    del values["ingest"]
    message = refusal(tmp_path, values)
    assert all(name in message for name in ("runtime.batch_size", "spelling", "ingest: Field required"))


def test_what_is_no_table_of_yaml_is_refused(tmp_path):
    assert "is not YAML" in refusal(tmp_path, "ingest: [unclosed")
    assert "is not YAML" in refusal(tmp_path, "router: {policy: a}\nrouter: {policy: b}\n")
    refusal(tmp_path, "")
    refusal(tmp_path, "just words")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ParamsError, match=r"absent\.yaml: no such file"):
        load_params(tmp_path / "absent.yaml")


def test_edit_params_changes_the_values_and_keeps_every_comment(commented):
    edit_params(None, ["policies.half.share=0.25", "arms.weak.model=tiny", "evaluate.seed=3"], commented)
    params = load_params(commented)
    assert (params.policies["half"].share, params.arms.weak.model, params.evaluate.seed) == (0.25, "tiny", 3)
    comments = [line.partition("#")[2] for line in COMMENTED.splitlines() if "#" in line]
    kept = [line.partition("#")[2] for line in commented.read_text().splitlines() if "#" in line]
    assert kept == comments


def test_edit_params_takes_whole_tables(commented):
    even = "policies.even={kind: fixed, decider: line, threshold: 0.5}"
    edit_params(None, [even, "router.policy=even"], commented)
    assert load_params(commented).policies[load_params(commented).router.policy].kind == "fixed"


@pytest.mark.parametrize("text", [COMMENTED, COMMITTED.read_text()], ids=["commented", "committed"])
def test_edit_params_leaves_all_other_lines_as_they_were(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    edit_params(None, ["arms.weak.model=base.en"], path)
    before, after = text.splitlines(), path.read_text().splitlines()
    assert len(before) == len(after)
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        "policies.half.share=2",
        "policies.half.sahre=0.5",
        "router.policy=absent",
        "router.policy",
        "router.policy.name=half",
        "ingest.corpora.0.seed=1",
        "arms.weak={model: [unclosed",
    ],
)
def test_edit_params_refuses_as_a_whole_and_leaves_the_file(wrong, commented):
    with pytest.raises(ParamsError) as caught:
        edit_params(None, ["arms.weak.model=base", wrong], commented)
    assert wrong.split("=")[0].split(".")[-1] in str(caught.value)
    assert commented.read_text() == COMMENTED
    assert list(commented.parent.iterdir()) == [commented]


def test_edit_params_names_a_missing_file(tmp_path):
    with pytest.raises(ParamsError, match="no such file"):
        edit_params(None, ["router.policy=half"], tmp_path / "params.yaml")


PRESETS = ["paper", "paper-code", "paper-compact"]


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(COMMITTED.read_text())
    return path


def test_the_presets_are_those_that_are_documented():
    assert presets() == PRESETS


def test_presets_and_templates_are_part_of_the_package():
    project = tomllib.loads((COMMITTED.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["whisper_router"]
    package = COMMITTED.parent / "src/whisper_router"
    others = [
        path.relative_to(package)
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    assert Path("presets/paper.yaml") in others
    assert [path for path in others if package / path not in shipped] == []


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_merges_into_the_committed_params_and_takes_nothing_away(preset, committed):
    before = load_params(committed)
    edit_params(preset, [], committed)
    after = load_params(committed)
    assert after.router.policy == f"{preset}_even"
    assert set(after.deciders) == {*before.deciders, preset}
    assert set(after.policies) == {*before.policies, f"{preset}_even", f"{preset}_low"}
    assert {name: after.deciders[name] for name in before.deciders} == before.deciders
    assert {name: after.extractors[name] for name in before.extractors} == before.extractors
    assert (after.arms.weak.model, after.arms.strong.model) == (
        before.arms.weak.model,
        before.arms.strong.model,
    )
    assert (after.ingest, after.runtime, after.evaluate) == (before.ingest, before.runtime, before.evaluate)
    assert committed.read_text().count("#") >= COMMITTED.read_text().count("#")


def test_all_presets_merge_one_after_the_other_and_again(committed):
    for preset in PRESETS:
        edit_params(preset, [], committed)
    once = committed.read_text()
    edit_params(PRESETS[-1], [], committed)
    assert committed.read_text() == once
    assert set(PRESETS) < set(load_params(committed).deciders)


@pytest.mark.parametrize("preset", PRESETS)
def test_both_arms_of_a_preset_encode_30_s(preset, committed):
    edit_params(preset, [], committed)
    arms = load_params(committed).arms
    assert arms.weak.decode.floor_frames == arms.strong.decode.floor_frames == 1500


def test_the_preset_of_the_paper_has_the_paper_s_values(committed):
    edit_params("paper", [], committed)
    params = load_params(committed)
    paper = params.deciders["paper"]
    assert paper.kind == "resnet"
    assert (paper.optimiser, paper.learning_rate, paper.weight_decay) == ("adam", 1e-5, 0)
    assert (paper.schedule, paper.epochs, paper.batch_size, paper.monitor) == ("cosine", 10, 64, "error")
    assert (paper.channels, paper.strides) == (256, (2, 3, 3))
    assert (paper.class_weight_below, paper.patience, paper.precision) == (0, None, "float32")
    thresholds = {name: params.policies[name].threshold for name in ("paper_even", "paper_low")}
    assert thresholds == {"paper_even": 0.5, "paper_low": 0.3}
    assert all(params.policies[name].decider == "paper" for name in thresholds)
    states = params.extractors[paper.extractor]
    assert (states.arm, states.pool, states.padding, states.is_stored) == ("strong", 1, "keep", False)


def test_the_preset_of_the_paper_s_code_differs_by_the_values_that_were_released(committed):
    for preset in ("paper", "paper-code"):
        edit_params(preset, [], committed)
    params = load_params(committed)
    released = {"learning_rate": 1e-4, "weight_decay": 1e-4, "schedule": "cyclic"}
    assert params.deciders["paper-code"] == params.deciders["paper"].model_copy(update=released)
    assert [params.policies[f"paper-code_{name}"].threshold for name in ("even", "low")] == [0.5, 0.3]


def test_the_compact_preset_differs_by_what_it_reads(committed):
    for preset in ("paper", "paper-compact"):
        edit_params(preset, [], committed)
    params = load_params(committed)
    other = {"extractor": "paper-compact"}
    assert params.deciders["paper-compact"] == params.deciders["paper"].model_copy(update=other)
    states = params.extractors["paper-compact"]
    assert (states.arm, states.pool, states.padding, states.is_stored) == ("strong", 4, "cut", True)


def test_what_a_preset_says_can_be_set_otherwise_in_the_same_edit(committed):
    edit_params("paper", ["deciders.paper.epochs=2", "extractors.paper.stored=true"], committed)
    params = load_params(committed)
    assert (params.deciders["paper"].epochs, params.deciders["paper"].learning_rate) == (2, 1e-5)
    assert params.extractors["paper"].is_stored


def test_an_unknown_preset_is_refused_with_the_names_there_are(committed):
    before = committed.read_bytes()
    with pytest.raises(ParamsError, match="preset 'papre' is none of paper, paper-code, paper-compact"):
        edit_params("papre", [], committed)
    with pytest.raises(ParamsError, match="is none of"):
        read_preset("../params")
    assert committed.read_bytes() == before


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "wrong", ["router.policy=absent", "deciders.{}.epochs=0", "arms.weak.modle=tiny", "a"]
)
def test_a_preset_that_is_refused_with_an_assignment_leaves_the_file(preset, wrong, committed):
    before = committed.read_bytes()
    with pytest.raises(ParamsError):
        edit_params(preset, [wrong.format(preset)], committed)
    assert committed.read_bytes() == before
    assert list(committed.parent.iterdir()) == [committed]


@pytest.mark.parametrize(
    "text", ["", "just words\n", "ingest: [unclosed\n", "- a list\n", "arms: 3\n", "arms:\n"]
)
def test_a_file_that_is_no_params_is_refused_and_left(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        edit_params("paper", [], path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        (
            {"kind": "dask", "workers": 0},
            "runtime.runner.dask.workers: Input should be greater than or equal to 1",
        ),
        ({"kind": "dask", "address": "head"}, "runtime.runner.dask.address: String should match pattern"),
        (
            {"kind": "dask", "workers": 2, "address": "tcp://head:8786"},
            "workers are those of a local cluster",
        ),
    ],
)
def test_a_runner_that_cannot_be_is_refused_with_its_reason(runner, reason, tmp_path):
    assert reason in refusal(tmp_path, changed("runtime.runner", runner))


@pytest.mark.parametrize(
    "text", ["tcp://head:8786", "a: b, {c}", "# no comment", 'it\'s "so"', "plain/path.csv"]
)
def test_text_of_any_kind_survives_an_assignment(text, tmp_path):
    path = tmp_path / "params.yaml"
    shutil.copy(COMMITTED, path)
    corpus = json.dumps({"name": "x", "kind": "table", "path": text})
    edit_params(None, [f"ingest.corpora=[{corpus}]", f"arms.weak={json.dumps({'model': text})}"], path)
    params = load_params(path)
    assert (params.ingest.corpora[0].path, params.arms.weak.model) == (text, text)


def test_the_runner_of_a_running_cluster_is_set_as_the_readme_says(tmp_path):
    path = tmp_path / "params.yaml"
    shutil.copy(COMMITTED, path)
    edit_params(None, ['runtime.runner={kind: dask, address: "tcp://head:8786"}'], path)
    assert load_params(path).runtime.runner.address == "tcp://head:8786"


def test_an_encoder_extractor_on_an_engine_that_hides_layers_is_refused_by_name(tmp_path):
    values = YAML(typ="safe").load(COMMITTED.read_text())
    values["arms"]["weak"]["decode"] = {"engine": "ctranslate2", "dtype": "int8"}
    assert "extractors.weak_encoder: engine ctranslate2 of arms.weak.decode gives only" in refusal(
        tmp_path, values
    )
    values["arms"]["weak"]["decode"]["encoder_dtype"] = "bfloat16"
    YAML().dump(values, tmp_path / "params.yaml")
    assert load_params(tmp_path / "params.yaml").arms.weak.decode.encoder_dtype == "bfloat16"


def with_extractor(extractor: dict, **arms: dict) -> dict:
    values = changed("extractors.more", extractor)
    values["arms"] = {name: {"model": "tiny", "decode": decode} for name, decode in arms.items()}
    return values


@pytest.mark.parametrize("kind", ["mlp", "resnet", "transformer"])
@pytest.mark.parametrize("framed", [True, False])
def test_networks_take_frames_and_no_combination(tmp_path, kind, framed):
    parts = [{"kind": "signal"}, {"kind": "logmel"}]
    values = with_extractor({"kind": "logmel"} if framed else {"kind": "combined", "parts": parts})
    values["deciders"]["net"] = {"kind": kind, "extractor": "more"}
    if framed:
        YAML().dump(values, tmp_path / "params.yaml")
        assert load_params(tmp_path / "params.yaml").deciders["net"].kind == kind
        return
    said = f"deciders.net: kind {kind} looks along frames, and extractor more of kind combined has none"
    assert said in refusal(tmp_path, values)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("extractor", "arms", "said"),
    [
        (
            {"kind": "encoder", "arm": "strong", "blocks": 2},
            {"strong": {"engine": "ctranslate2"}},
            "extractors.more: engine ctranslate2 of arms.strong.decode gives only the last layer",
        ),
        (
            {"kind": "encoder", "arm": "strong", "blocks": 2},
            {"strong": {"engine": "hf"}},
            "extractors.more: engine hf of arms.strong.decode runs its encoder as a whole; leave out blocks",
        ),
        (
            {"kind": "logmel"},
            {"weak": {"engine": "hf"}},
            "extractors.more: engine hf of arms.weak.decode reads samples, not the log-mel of kind logmel",
        ),
    ],
)
def test_what_an_engine_does_not_give_is_refused_alone_and_inside(tmp_path, extractor, arms, said, inside):
    if inside:
        extractor = {"kind": "combined", "parts": [{"kind": "signal"}, extractor]}
    values = with_extractor(extractor, **arms)
    del values["extractors"]["states"]
    assert said in refusal(tmp_path, values)


def test_seconds_of_the_first_blocks_are_not_measured(tmp_path):
    values = with_extractor({"kind": "encoder", "arm": "strong", "blocks": 2})
    values["cost_table"] = "here"
    values["deciders"]["line"]["extractor"] = "more"
    values["policies"]["half"] = {
        "kind": "cost_budget",
        "decider": "line",
        "budget": 0.5,
        "currency": "cpu_seconds",
    }
    said = "policies.half.currency: cpu_seconds of an encoder's first blocks is not measured"
    assert said in refusal(tmp_path, values)


def test_encoders_that_label_computes_are_those_of_parts_too_each_once(tmp_path):
    whole = {"kind": "encoder", "arm": "strong", "pool": 4}
    values = with_extractor({"kind": "combined", "parts": [{"kind": "signal"}, {**whole, "blocks": 2}]})
    values["extractors"] |= {"whole": whole, "live": {"kind": "encoder", "pool": 1}}
    YAML().dump(values, tmp_path / "params.yaml")
    stored = load_params(tmp_path / "params.yaml").stored_extractors
    assert {name: (one.arm, one.pool) for name, one in stored.items()} == {
        "states": ("weak", 4),
        "more": ("strong", 4),
    }
    assert all("blocks" not in one.identity() for one in stored.values())


BOMB = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "over 262144 values and characters once its aliases are written out"),
        ("a: &a {<<: *a}\n", r"the alias \*a, line 1, stands for no value that ends before it"),
        ("a: &a [*a]\n", r"the alias \*a, line 1, stands for no value that ends before it"),
        ("a: *b\n", r"the alias \*b, line 1, stands for no value"),
        ("[" * 20_000, "more than 64 lists and tables in one another, line 1; write it flatter"),
        ("a: " + "{a: " * 20_000, "more than 64 lists and tables in one another"),
        (
            "".join(" " * n + "a:\n" for n in range(100)),
            "more than 64 lists and tables in one another, line 65",
        ),
        ("- " * 20_000, "more than 64 lists"),
        ("a: " + "x" * 300_000, "over 262144 values and characters"),
        ("a: caf\xe9".encode("latin-1"), "is not YAML: .*; save it as UTF-8"),
        ("a: 2026-13-45\n", "is not YAML: month must be in 1..12"),
        ("a: !!bool maybe\n", "is not YAML"),
        ("a: !!int words\n", "is not YAML"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not YAML"),
        ("a: b\0c\n", "is not YAML"),
        ("a: 1\n---\na: 2\n", "is not YAML"),
    ],
)
def test_yaml_that_would_grow_or_cannot_be_is_refused_by_the_file_s_name(text, said, tmp_path):
    path = tmp_path / "some.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for source in (path, text):
        with pytest.raises(ParamsError, match=said) as caught:
            load_yaml(source, "some.yaml")
        assert str(caught.value).startswith("some.yaml")


def test_yaml_of_200_mb_is_refused_without_being_read(tmp_path):
    path = tmp_path / "params.yaml"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    tracemalloc.start()
    with pytest.raises(ParamsError, match=r"params\.yaml: over 1 MiB, which no such file needs"):
        load_params(path)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


def test_yaml_within_the_bounds_is_read_with_its_aliases_and_its_byte_order_mark():
    text = "a: &a [1, {b: null}]\nb: *a\nc: {<<: {d: 1}}\n"
    assert load_yaml("\ufeff" + text, "x") == {"a": [1, {"b": None}], "b": [1, {"b": None}], "c": {"d": 1}}
    assert load_yaml("[" * 64 + "]" * 64, "x")
    assert load_yaml(COMMITTED.with_name("dvc.lock"), "dvc.lock")["stages"]


@pytest.mark.parametrize("bomb", [BOMB, "[" * 20_000])
def test_options_in_yaml_have_the_same_bounds(bomb, commented):
    with pytest.raises(ParamsError, match=r"--set arms\.weak="):
        edit_params(None, [f"arms.weak={bomb}"], commented)
    with pytest.raises(ParamsError, match="--try "):
        policy_options(bomb, "line")
    assert commented.read_text() == COMMENTED


def test_a_lock_that_is_none_is_a_user_s_error():
    for lock in (BOMB.encode(), b"stages: 1\n", b"[]\n", b"stages: {a: {outs: [{path: x}]}}\n"):
        with pytest.raises(UserError, match=r"dvc\.lock"):
            lock_outputs(lock)


@pytest.mark.parametrize(
    ("folder", "name"), [("calls", "calls"), ("my calls: 'a' #1", "my-calls-a-1"), ("\u00e9\u00e9", "audio")]
)
def test_a_folder_of_audio_becomes_the_corpus(folder, name, committed, tmp_path):
    (tmp_path / folder).mkdir()
    edit_params(None, folder_corpus(tmp_path / folder), committed)
    made = load_params(committed).ingest
    assert made.root == str(tmp_path / folder)
    (corpus,) = made.corpora
    assert (corpus.name, corpus.kind, corpus.path) == (name, "folder", ".")
    assert corpus.takes_untold
    with pytest.raises(ParamsError, match=r"--audio .*absent: not a folder"):
        folder_corpus(tmp_path / "absent")

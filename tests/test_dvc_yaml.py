"""dvc.yaml names for each stage what it reads, imports and writes: no more and no less."""

import os
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

import pytest
from ruamel.yaml import YAML

from whisper_router import hashing

ROOT = Path(__file__).parents[1]
STAGES: dict[str, dict[str, Any]] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def paths(entries: list[Any] | None) -> list[str]:
    """The paths of deps, outs, metrics or plots, with or without options beside them."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries or []]


def written(stage: str) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in paths(STAGES[stage].get(kind))]


def flow(stage: str) -> str:
    python, dash_m, module = STAGES[stage]["cmd"].split()
    assert (python, dash_m) == ("python", "-m")
    return module


def is_code(path: str) -> bool:
    return path.endswith(".py")


def within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


@pytest.fixture(scope="module")
def closures() -> Iterator[dict[str, set[str]]]:
    """Source files that each flow imports, with the project's folder on the path as `python -m` has it."""

    loaded = set(sys.modules)

    def forget() -> None:
        for function in (hashing.module_path, hashing.imports, hashing.code_hash):
            function.cache_clear()
        for name in set(sys.modules) - loaded:
            if name.split(".")[0] == "flows":
                del sys.modules[name]

    with mock.patch.dict(os.environ), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        forget()
        found = {flow(stage): hashing.import_closure(flow(stage)) for stage in STAGES}
        yield {
            module: {Path(hashing.module_path(name)).relative_to(ROOT).as_posix() for name in names}
            for module, names in found.items()
        }
    forget()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports_and_on_no_other(stage, closures):
    named = {path for path in paths(STAGES[stage]["deps"]) if is_code(path)}
    imported = closures[flow(stage)]
    missing, superfluous = sorted(imported - named), sorted(named - imported)
    assert not missing + superfluous, (
        f"deps of stage {stage} in dvc.yaml: missing {', '.join(missing) or 'none'}; "
        f"superfluous {', '.join(superfluous) or 'none'}"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_flow_of_a_stage_exists_under_the_stage_s_name(stage, closures):
    assert flow(stage) == f"flows.{stage}"
    assert f"flows/{stage}.py" in closures[flow(stage)]


@pytest.mark.parametrize("stage", STAGES)
def test_the_params_of_a_stage_are_in_params_yaml(stage):
    for name in STAGES[stage].get("params", []):
        node: Any = PARAMS
        for part in name.split("."):
            assert part in node, f"stage {stage}: params.yaml has no {name}"
            node = node[part]


@pytest.mark.parametrize("stage", STAGES)
def test_data_that_a_stage_reads_is_written_by_an_earlier_stage(stage):
    before = list(STAGES)[: list(STAGES).index(stage)]
    made = [path for earlier in before for path in written(earlier)]
    for path in paths(STAGES[stage]["deps"]):
        if within(path, "data"):
            assert any(within(path, out) for out in made), f"stage {stage}: no earlier stage writes {path}"


@pytest.mark.parametrize("stage", STAGES)
def test_what_no_stage_writes_is_a_file_of_the_project(stage):
    for path in paths(STAGES[stage]["deps"]):
        if path.startswith("${"):
            section, key = path.strip("${}").split(".")
            assert key in PARAMS[section]
        elif not within(path, "data"):
            assert (ROOT / path).exists(), f"stage {stage}: {path} is not there"


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_named_twice(stage):
    for kind in ("deps", "params"):
        entries = paths(STAGES[stage].get(kind))
        assert len(entries) == len(set(entries)), f"stage {stage}: {kind}"


def test_no_output_overlaps_another_and_all_lie_below_data():
    outs = [(stage, path) for stage in STAGES for path in written(stage)]
    assert all(within(path, "data") and path != "data" for _, path in outs)
    for (stage, path), (other, another) in combinations(outs, 2):
        assert not within(path, another), f"{path} of {stage} lies in {another} of {other}"
        assert not within(another, path), f"{another} of {other} lies in {path} of {stage}"


def test_no_output_holds_the_corpora():
    for stage in STAGES:
        for path in written(stage):
            assert not within(PARAMS["ingest"]["root"], path)


def test_a_dep_that_is_too_many_or_too_few_would_be_seen(closures):
    imported = closures["flows.check"]
    assert "src/whisper_router/checks/run.py" in imported
    assert "src/whisper_router/decider/mlp.py" not in imported
    assert "src/whisper_router/__init__.py" in imported

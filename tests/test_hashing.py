"""Hashes depend on what they stand for and on nothing else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router import hashing
from whisper_router.hashing import (
    code_hash,
    digest,
    file_sha256,
    folder_sha256,
    import_closure,
    unit_interval,
)

Write = Callable[[dict[str, str]], None]
LEAF = '''"""Leaf."""


class A:
    """A."""

    def f(self):
        """F."""
        return 1


Z = A().f()
'''
SOURCES = {
    "made_up/__init__.py": '"""A package."""\n',
    "made_up/top.py": '"""Top."""\nimport os\n\nfrom made_up.inner import middle\n\nX = middle.Y\n',
    "made_up/inner/__init__.py": "",
    "made_up/inner/middle.py": "import made_up.inner.leaf\n\nY = made_up.inner.leaf.Z\n",
    "made_up/inner/leaf.py": LEAF,
    "made_up/inner/lazy.py": "def late():\n    from made_up.inner.leaf import Z as name\n\n    return name\n",
    "made_up/unused.py": "import made_up.top\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes modules of a package ``made_up`` that hashing takes for the project."""

    def forget() -> None:
        for function in (hashing.module_path, hashing.imports, hashing.code_hash):
            function.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "made_up"]:
            del sys.modules[name]

    def write(sources: dict[str, str]) -> None:
        for name, text in sources.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        forget()

    monkeypatch.setattr(hashing, "PACKAGES", ("made_up",))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write(SOURCES)
    yield write
    forget()


def test_the_closure_holds_all_that_is_imported_and_the_packages_above(package):
    inner = ["made_up", "made_up.inner", "made_up.inner.leaf"]
    assert import_closure("made_up.inner.leaf") == inner
    assert import_closure("made_up.top") == [*inner, "made_up.inner.middle", "made_up.top"]


def test_the_closure_follows_imports_inside_functions(package):
    assert "made_up.inner.leaf" in import_closure("made_up.inner.lazy")


def test_the_closure_of_modules_that_import_each_other_ends(package):
    package({"made_up/a.py": "import made_up.b\n", "made_up/b.py": "import made_up.a\n"})
    assert import_closure("made_up.a") == ["made_up", "made_up.a", "made_up.b"] == import_closure("made_up.b")


def test_the_closure_of_several_modules_is_the_union(package):
    both = import_closure("made_up.inner.lazy", "made_up.unused")
    assert both == sorted({*import_closure("made_up.inner.lazy"), *import_closure("made_up.unused")})


def test_the_closure_follows_relative_imports(package):
    package({"made_up/relative.py": "from . import top\n"})
    assert "made_up.top" in import_closure("made_up.relative")


def test_an_unknown_module_is_refused_by_name(package):
    with pytest.raises(ModuleNotFoundError, match=r"made_up\.absent"):
        import_closure("made_up.absent")


def test_the_project_s_own_modules_are_found_with_their_imports():
    closure = import_closure("whisper_router.scoring")
    assert closure == ["whisper_router", "whisper_router.errors", "whisper_router.scoring"]


@pytest.mark.parametrize(
    "text",
    [
        LEAF.replace("Leaf.", "Another leaf,\nand more of it."),
        LEAF.replace('"""F."""', '"""Something else."""'),
        LEAF.replace('    """A."""\n\n', ""),
        "# a comment\n" + LEAF.replace("return 1", "return (1)  # one"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_code_hash(package, text):
    before = code_hash("made_up.top")
    assert text != LEAF
    package({"made_up/inner/leaf.py": text})
    assert code_hash("made_up.top") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("made_up/inner/leaf.py", "return 1", "return 2"),
        ("made_up/inner/leaf.py", "return 1", 'return "one"'),
        ("made_up/inner/leaf.py", "class A", "class A(object)"),
        ("made_up/top.py", "X =", "W ="),
        ("made_up/__init__.py", '"""A package."""', "V = 1"),
        ("made_up/inner/middle.py", "leaf.Z", "leaf.Z + 0"),
    ],
)
def test_code_anywhere_in_the_closure_changes_the_code_hash(package, name, old, new):
    before = code_hash("made_up.top")
    assert old in SOURCES[name]
    package({name: SOURCES[name].replace(old, new)})
    assert code_hash("made_up.top") != before


def test_code_outside_the_closure_does_not_change_the_code_hash(package):
    before = code_hash("made_up.top")
    package({"made_up/unused.py": "import made_up.top\n\nNEW = 1\n"})
    assert code_hash("made_up.top") == before


@settings(max_examples=60)
@given(parts=st.lists(st.text(), max_size=4))
def test_unit_interval_is_a_function_of_its_parts_within_0_and_1(parts):
    assert 0 <= unit_interval(*parts) < 1
    assert unit_interval(*parts) == unit_interval(*parts)


def test_unit_interval_is_spread_evenly():
    drawn = np.array([unit_interval("salt", f"speaker {i}") for i in range(5000)])
    counts, _ = np.histogram(drawn, bins=10, range=(0, 1))
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-squared of 9 degrees of freedom, p = 0.001
    other = np.array([unit_interval("pepper", f"speaker {i}") for i in range(5000)])
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.05


def test_parts_are_not_joined_without_a_border():
    assert unit_interval("ab", "c") != unit_interval("a", "bc")


def test_digest_is_that_of_the_value_not_of_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, [1], 1, "1", None, 1.5)}) == 8
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_a_folder_s_hash_sees_names_and_contents_at_any_depth(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/a").write_text("a")
        (folder / "b").write_text("b")
    assert folder_sha256(first) == folder_sha256(second)
    (second / "deep/a").write_text("A")
    changed = folder_sha256(second)
    assert changed != folder_sha256(first)
    (second / "deep/a").write_text("a")
    (second / "b").rename(second / "c")
    assert folder_sha256(second) not in (folder_sha256(first), changed)


def test_a_file_s_hash_is_sha_256(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


SOURCE = Path(hashing.__file__).parent
KEYED = ("whisper_router.asr.arm", "whisper_router.features.extractors")
# Prints which of KEYED have a new hash when a module is changed, for each module of the project.
CHANGES = r"""
import ast, json, sys
from pathlib import Path
from whisper_router import hashing

keyed, source = sys.argv[1:], Path(hashing.__file__).parent
texts = {path: path.read_text() for path in sorted(source.rglob("*.py"))}

def hashes():
    hashing.imports.cache_clear()
    hashing.code_hash.cache_clear()
    return [hashing.code_hash(module) for module in keyed]

def other_docstring(text):
    first = ast.parse(text).body[0]
    assert isinstance(first.value.value, str)
    return "\n".join(['"Another docstring."', *text.splitlines()[first.end_lineno:], ""])

def changed(change, paths):
    for path in paths:
        path.write_text(change(texts[path]))
    new = [module for module, before, after in zip(keyed, plain, hashes()) if before != after]
    for path in paths:
        path.write_text(texts[path])
    return new

plain, statement = hashes(), {}
for path in texts:
    parts = ["whisper_router", *path.relative_to(source).with_suffix("").parts]
    module = ".".join(parts).removesuffix(".__init__")
    statement[module] = changed(lambda text: text + "\nADDED = 1\n", [path])
comment = changed(lambda text: "# a comment\n\n" + text + "# another\n", texts)
docstring = changed(other_docstring, texts)
assert hashes() == plain
print(json.dumps([str(source), statement, comment, docstring]))
"""


def test_a_statement_changes_the_keys_of_all_that_imports_it_alone_and_comments_change_none(tmp_path):
    copy = tmp_path / "whisper_router"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    run = subprocess.run(
        [sys.executable, "-c", CHANGES, *KEYED],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    source, statement, comment, docstring = json.loads(run.stdout)
    assert source == str(copy)
    assert comment == docstring == []
    for keyed in KEYED:
        changing = {module for module, new in statement.items() if keyed in new}
        assert changing == set(import_closure(keyed))
    assert statement["whisper_router.report"] == statement["whisper_router.cli"] == []
    assert statement["whisper_router.asr.decoding"] == list(KEYED)
    assert statement["whisper_router.features.options"] == [KEYED[1]]
    assert statement["whisper_router.audio"] == list(KEYED)

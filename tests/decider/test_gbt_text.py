"""A damaged text of LightGBM is refused before LightGBM, which would end the process, sees it."""

import subprocess
import sys

import numpy as np
import pytest

from whisper_router.decider.gbt import GbtDecider
from whisper_router.decider.options import GbtOptions
from whisper_router.errors import UserError

OPTIONS = GbtOptions(kind="gbt", extractor="toy", trees=20, learning_rate=0.1, min_in_leaf=5)
WIDTH = 6

LOADER = """
import random, sys
from pathlib import Path
import numpy as np
from whisper_router.decider.gbt import GbtDecider
from whisper_router.decider.options import GbtOptions
from whisper_router.errors import UserError

folder = Path(sys.argv[1])
options = GbtOptions.model_validate_json((folder / "options.json").read_text())

def load(content):
    try:
        decider = GbtDecider.load(folder / "weights.txt", content, options)
        decider.score([np.zeros((1, 6)), np.full((1, 6), np.nan)])
        decider.parameters
        return "loaded"
    except UserError as error:
        assert "weights.txt is damaged" in str(error), error
        return "refused"

for path in sorted(folder.glob("*.damaged")):
    print(path.stem, load(path.read_bytes()), flush=True)
good, seeded, results = (folder / "good").read_bytes(), random.Random(0), []
trees = good[: good.index(b"end of trees")]
for _ in range(300):
    content = bytearray(good)
    for _ in range(seeded.randint(1, 4)):
        at, kind = seeded.randrange(min(len(trees), len(content))), seeded.randrange(3)
        if kind == 0:
            content[at] = seeded.choice(b"0123456789-=.e \\nz\\xff")
        elif kind == 1:
            del content[at : at + seeded.choice((1, 2, 30, 3000))]
        else:
            content[at:at] = seeded.choice((b"9", b"-", b"1e9", b" 7", b"99999999"))
    results.append(load(bytes(content)))
assert results.count("refused") > 200, results
print("good", load(good))
"""


@pytest.fixture(scope="module")
def decider(examples, tmp_path_factory) -> GbtDecider:
    random = np.random.default_rng(0)
    labels = np.arange(160) % 2
    features = [random.standard_normal((3, WIDTH)) + label for label in labels]
    data = examples(tmp_path_factory.mktemp("features") / "f", features, labels)
    return GbtDecider.fit(OPTIONS, data, data, "toy")[0]


@pytest.fixture(scope="module")
def text(decider, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("decider") / "weights.txt"
    decider.save(path)
    return path.read_text()


def line(text: str, key: str, value: str) -> str:
    """The text with the value of a key in its first tree replaced; the sizes of trees are made to fit."""
    begin = text.index(f"\n{key}=", text.index("Tree=0")) + 1
    end = text.index("\n", begin)
    return fitted(text, f"{text[:begin]}{key}={value}{text[end:]}")


def fitted(text: str, changed: str) -> str:
    old = text[text.index("tree_sizes=") :].split("\n")[0]
    first, *others = old.removeprefix("tree_sizes=").split(" ")
    size = int(first) + len(changed) - len(text)
    return changed.replace(old, f"tree_sizes={' '.join([str(size), *others])}")


def damaged(text: str) -> dict[str, str | bytes]:
    header = text.index("Tree=0")
    sizes = text[text.index("tree_sizes=") :].split("\n")[0]
    leaves = "left_child", "right_child"
    return {
        "empty": "",
        "no_header": text[header:],
        "cut_in_the_header": text[:60],
        "cut_in_a_tree": text[: header + 200],
        "cut_between_trees": text[: text.index("Tree=1")],
        "no_end": text.replace("end of trees", ""),
        "huge_num_leaves": line(text, "num_leaves", "2147483647"),
        "no_leaves": line(text, "num_leaves", "0"),
        "negative_num_leaves": line(text, "num_leaves", "-4"),
        "fewer_leaves": line(text, "num_leaves", "3"),
        "cyclic": line(text, leaves[0], "1 0 -2"),
        "own_child": line(text, leaves[0], "0 -1 -2"),
        "child_beyond": line(text, leaves[0], "1 -1 900000"),
        "leaf_beyond": line(text, leaves[0], "1 -1 -900000"),
        "feature_beyond": line(text, "split_feature", "0 1 99999999"),
        "negative_feature": line(text, "split_feature", "0 1 -5"),
        "short_threshold": line(text, "threshold", "0.5"),
        "nan_threshold": line(text, "threshold", "nan 0 0"),
        "infinite_leaf": line(text, "leaf_value", "1e999 0 0 0"),
        "categorical": line(text, "num_cat", "7"),
        "categorical_decision": line(text, "decision_type", "1 1 1"),
        "linear": line(text, "is_linear", "1"),
        "missing_array": line(text, "leaf_value", "").replace("leaf_value=\n", "", 1),
        "huge_tree_sizes": text.replace(sizes, "tree_sizes=9999999999 9999999999"),
        "negative_tree_sizes": text.replace(sizes, "tree_sizes=-5"),
        "no_tree_sizes": text.replace(sizes + "\n", ""),
        "classes": text.replace("num_class=1", "num_class=1000000", 1),
        "wide": text.replace(f"max_feature_idx={WIDTH - 1}", "max_feature_idx=2147483647"),
        "another_objective": text.replace("objective=binary sigmoid:1", "objective=custom"),
        "no_text": b"\xff\xfe" + text.encode(),
        "zero_byte": text.replace("Tree=0", "Tree=0\0"),
    }


def test_no_damaged_text_ends_the_process(text, tmp_path):
    cases = damaged(text)
    for name, content in cases.items():
        assert content != text, name
        made = content if isinstance(content, bytes) else content.encode()
        (tmp_path / f"{name}.damaged").write_bytes(made)
    (tmp_path / "good").write_text(text)
    (tmp_path / "options.json").write_text(OPTIONS.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert dict(row.split() for row in done.stdout.splitlines()) == dict.fromkeys(cases, "refused") | {
        "good": "loaded"
    }


def test_a_sound_text_scores_as_before(decider, text, tmp_path):
    loaded = GbtDecider.load(tmp_path / "weights.txt", text.encode(), OPTIONS)
    features = [np.random.default_rng(i).standard_normal((2, WIDTH)) for i in range(50)]
    np.testing.assert_array_equal(loaded.score(features), decider.score(features))
    assert loaded.parameters == decider.parameters


def test_features_of_another_width_are_refused(decider):
    for width in (1, WIDTH - 1, WIDTH + 1):
        with pytest.raises(UserError, match=f"reads {WIDTH} features and is given {width}"):
            decider.score([np.zeros((1, width))])

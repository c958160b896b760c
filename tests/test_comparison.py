"""What two machines made says the same where texts and counts are equal and floats are close."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from whisper_router.comparison import cached_files, difference
from whisper_router.reproduce import CLOSE, _compared

A, B = "a" * 64, "b" * 64
TABLE = {
    "id": ["u1", "u2"],
    "hypothesis": ["yes", None],
    "tokens": [3, 4],
    "token_logprob": [[-0.5, -1.0], []],
}


def written(folder: Path, name: str, value) -> Path:
    path = folder / Path(name).name
    folder.mkdir(exist_ok=True)
    if name.endswith(".json"):
        path.write_text(json.dumps(value))
    elif name.endswith(".parquet"):
        pd.DataFrame(value).to_parquet(path)
    elif name.endswith(".npy"):
        np.save(path, value)
    elif name.endswith(".safetensors"):
        save_file(value, path)
    else:
        path.write_bytes(value)
    return path


@pytest.mark.parametrize(
    ("name", "before", "after", "found"),
    [
        ("data/a.json", {"wer": 0.1234, "n": 3}, {"wer": 0.1239, "n": 3}, None),
        ("data/a.json", {"wer": 0.1234}, {"wer": 0.1254}, "wer: 0.1234 before, 0.1254 now"),
        ("data/a.json", {"macs": 2.0e9}, {"macs": 2.0001e9}, None),
        ("data/a.json", {"n": [3, 4]}, {"n": [3, 5]}, "n[1]: 4 before, 5 now"),
        ("data/a.json", {"n": 100_000}, {"n": 100_001}, "n: 100000 before, 100001 now"),
        ("data/a.json", {"route": True}, {"route": 1}, "route: True before, 1 now"),
        ("data/a.json", {"route": True}, {"route": 1.0}, "route: True before, 1.0 now"),
        ("data/a.json", {"a": 1.0}, {"a": None}, "a: 1.0 before, None now"),
        ("data/a.json", {"a": 1}, {"a": 1, "b": 2}, ": {'a': 1} before, {'a': 1, 'b': 2} now"),
        ("data/a.json", {"decider": A}, {"decider": B}, f"decider: {A} before, {B} now"),
        ("data/policy/p.json", {"bound": {"decider": A}}, {"bound": {"decider": B}}, None),
        ("data/policy/p.json", {"bound": {"weak_arm": A}}, {"bound": {"weak_arm": B}}, "bound.weak_arm: "),
        ("data/router/provenance.json", {"sha256": {"manifest": A}}, {"sha256": {"manifest": B}}, "sha256.m"),
        (
            "data/router/provenance.json",
            {"sha256": {"policies": {"x": A}}},
            {"sha256": {"policies": {"x": B}}},
            None,
        ),
        ("data/t.parquet", TABLE, {**TABLE, "token_logprob": [[-0.5004, -1.0], []]}, None),
        (
            "data/t.parquet",
            TABLE,
            {**TABLE, "token_logprob": [[-0.6, -1.0], []]},
            "row 0: token_logprob[0]: -0.5",
        ),
        ("data/t.parquet", TABLE, {**TABLE, "token_logprob": [[-0.5], []]}, "row 0: token_logprob: "),
        (
            "data/t.parquet",
            TABLE,
            {**TABLE, "hypothesis": ["yes", "no"]},
            "row 1: hypothesis: None before, no now",
        ),
        ("data/t.parquet", TABLE, {**TABLE, "tokens": [3, 5]}, "row 1: tokens: 4 before, 5 now"),
        ("data/manifest.parquet", {"sha256": [A]}, {"sha256": [B]}, "row 0: sha256: "),
        ("data/features/x/index.parquet", {"sha256": [A]}, {"sha256": [B]}, None),
        ("data/s.npy", np.float16([8.0, 1.0]), np.float16([8.008, 1.0]), None),
        ("data/s.npy", np.float16([8.0, 1.0]), np.float16([8.0, 1.1]), "1.0 before, 1.0996"),
        ("data/s.npy", np.zeros(2), np.zeros(3), "shape (2,) before, (3,) now"),
        ("data/w.safetensors", {"w": np.ones(2)}, {"w": np.ones(2) + 1e-4}, None),
        ("data/w.safetensors", {"w": np.ones(2)}, {"w": np.ones(2) + 1e-2}, "w: 1.0 before, 1.01 now"),
        ("data/s.csv", b"threshold,n\ninf,1\n0.5,2\n", b"threshold,n\ninf,1\n0.5001,2\n", None),
        ("data/s.csv", b"threshold,n\n0.5,2\n", b"threshold,n\n0.5,3\n", "row 0: n: 2 before, 3 now"),
        ("data/x.txt", b"1", b"2", "other bytes"),
    ],
)
def test_what_is_close_and_what_differs(tmp_path, name, before, after, found):
    said = difference(
        written(tmp_path / "before", name, before), written(tmp_path / "after", name, after), name
    )
    assert said is None if found is None else said is not None and said.startswith(found)


def cached(cache: Path, md5: str, content: bytes) -> None:
    path = cache / "files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_each_outcome_of_a_reproduced_output_is_said_apart(tmp_path):
    cache, folder = tmp_path / "cache", tmp_path / "again"
    (folder / "data").mkdir(parents=True)
    (folder / "data/a.json").write_text('{"wer": 0.1001, "n": 3}')
    (folder / "data/plot.png").write_bytes(b"new")

    def outcome(path: str, before: str, after: str | None) -> tuple[bool | None, str]:
        link = _compared(path, before, after, folder, cache)
        assert link.name == f"reproduced {path}"
        return link.holds, link.detail

    assert outcome("data/a.json", "aa11", "aa11") == (True, "byte for byte: aa11")
    holds, detail = outcome("data/a.json", "aa11", "bb22")
    assert holds is False
    assert "are not in" in detail
    assert "`dvc fetch`" in detail
    cached(cache, "aa11", b'{"wer": 0.1, "n": 3}')
    assert outcome("data/a.json", "aa11", "bb22") == (True, f"{CLOSE} (aa11 before, bb22 now)")
    cached(cache, "aa12", b'{"wer": 0.1, "n": 4}')
    holds, detail = outcome("data/a.json", "aa12", "bb22")
    assert (holds, detail) == (False, "differs: data/a.json: n: 4 before, 3 now (aa12 before, bb22 now)")
    assert outcome("data/gone.json", "aa12", None) == (False, "differs: aa12 before, none now")
    cached(cache, "cc33", b"old")
    holds, detail = outcome("data/plot.png", "cc33", "dd44")
    assert holds is None
    assert detail.startswith("drawn from the figures")


def test_a_folder_is_compared_file_by_file(tmp_path):
    cache, folder = tmp_path / "cache", tmp_path / "again"
    listing = [{"md5": "a1b2", "relpath": "one.json"}, {"md5": "a1b3", "relpath": "sub/two.json"}]
    cached(cache, "ee55.dir", json.dumps(listing).encode())
    assert [name for name, _ in cached_files(cache, "data/p", "ee55.dir")] == [
        "data/p/one.json",
        "data/p/sub/two.json",
    ]
    cached(cache, "a1b2", b"[1.0]")
    cached(cache, "a1b3", b"[2.0]")
    (folder / "data/p/sub").mkdir(parents=True)
    (folder / "data/p/one.json").write_text("[1.0001]")
    link = _compared("data/p", "ee55.dir", "ff66.dir", folder, cache)
    assert (link.holds, "other files: data/p/sub/two.json" in link.detail) == (False, True)
    (folder / "data/p/sub/two.json").write_text("[2.0]")
    assert _compared("data/p", "ee55.dir", "ff66.dir", folder, cache).holds is True
    (folder / "data/p/sub/two.json").write_text("[3.0]")
    link = _compared("data/p", "ee55.dir", "ff66.dir", folder, cache)
    assert link.detail.startswith("differs: data/p/sub/two.json: [0]: 2.0 before, 3.0 now")

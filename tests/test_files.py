"""What is written is whole or not there at all."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.errors import UserError
from whisper_router.files import (
    read_json,
    replacing,
    replacing_folder,
    write_json,
    write_parquet,
    write_text,
)


class Interrupted(BaseException):
    """Not an Exception: as a keyboard interrupt is not."""


def interrupt(
    block: AbstractContextManager[Path], write: Callable[[Path], object], error: type[BaseException]
) -> None:
    """Write, then leave the block by an error."""
    with block as temporary:
        write(temporary)
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_exception_inside_replacing_leaves_the_old_content_and_nothing_else(tmp_path, error):
    path = tmp_path / "value.txt"
    path.write_text("old")
    with pytest.raises(error):
        interrupt(replacing(path), lambda temporary: temporary.write_text("half of the n"), error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["value.txt"]


def test_an_exception_inside_replacing_makes_no_file_where_there_was_none(tmp_path):
    with pytest.raises(Interrupted):
        interrupt(replacing(tmp_path / "a/value.txt"), Path.touch, Interrupted)
    assert names(tmp_path) == ["a"]


def test_replacing_puts_a_readable_file_of_the_same_suffix_in_place(tmp_path):
    path = tmp_path / "deep/er/value.txt"
    for content in ("first", "second"):
        with replacing(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.suffix == ".txt"
            temporary.write_text(content)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == content
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["value.txt"]


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_exception_inside_replacing_folder_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    folder = tmp_path / "shards"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/old").write_text("old")
    with pytest.raises(error):
        interrupt(replacing_folder(folder), lambda temporary: (temporary / "new").touch(), error)
    assert names(tmp_path) == ["shards", "shards/deep", "shards/deep/old"]
    assert (folder / "deep/old").read_text() == "old"


def test_replacing_folder_leaves_only_the_new_content(tmp_path):
    folder = tmp_path / "a/shards"
    for name in ("first", "second"):
        with replacing_folder(folder) as temporary:
            (temporary / name).write_text(name)
        assert names(tmp_path / "a") == ["shards", f"shards/{name}"]
    assert folder.stat().st_mode & 0o777 == 0o755


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25)
@given(value=st.dictionaries(st.text(), JSON, max_size=4))
def test_equal_json_values_make_equal_files_and_come_back_equal(value, tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    write_json(folder / "a.json", value)
    write_json(folder / "b.json", dict(reversed(value.items())))
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()
    assert read_json(folder / "a.json") == value


def test_a_value_that_json_does_not_know_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, 1)
    for wrong in (float("nan"), {"a": {1, 2}}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, wrong)
    assert read_json(path) == 1
    assert names(tmp_path) == ["value.json"]


def test_a_broken_json_file_is_refused_by_name(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"half": ')
    with pytest.raises(UserError, match=r"broken\.json is not JSON"):
        read_json(path)


def test_tables_and_texts_come_back_and_equal_tables_make_equal_bytes(tmp_path):
    table = pd.DataFrame({"id": ["b", "a"], "x": [1.5, None]}, index=[7, 3])
    write_parquet(tmp_path / "a.parquet", table)
    write_parquet(tmp_path / "b.parquet", table.copy())
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), table.reset_index(drop=True))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    write_text(tmp_path / "a.txt", "Ä\n")
    assert (tmp_path / "a.txt").read_text() == "Ä\n"

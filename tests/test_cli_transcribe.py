"""Formats of `transcribe`, the files it writes, and the router it takes where none is named."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from whisper_router.cli import app
from whisper_router.decision import Transcript
from whisper_router.router import Router
from whisper_router.serving.formats import as_srt, as_vtt


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def router(routers) -> Path:
    return routers["confidence"]


@pytest.fixture
def calls(tmp_path, clips, wav) -> tuple[Path, Path]:
    """Two recordings of different names."""
    folder = tmp_path / "calls"
    folder.mkdir()
    paths = folder / "ann.2024.wav", folder / "bob.wav"
    for path, clip in zip(paths, clips[:2], strict=True):
        path.write_bytes(wav(clip))
    return paths


def expected(router: Path, path: Path) -> Transcript:
    (row,) = Router.load(router).transcribe([path])
    assert row.text
    return row


@pytest.mark.parametrize("kind", ["txt", "srt", "vtt"])
def test_one_file_is_printed_in_a_format_and_nothing_else(router, calls, kind):
    done = invoke("transcribe", calls[0], "--format", kind, "--router", router)
    row = expected(router, calls[0])
    assert done.exit_code == 0, done.stderr
    assert done.stdout == {"txt": f"{row.text}\n", "srt": as_srt(row), "vtt": as_vtt(row)}[kind]


def test_format_json_is_json(router, calls):
    printed = [invoke("transcribe", *calls, *option, "--router", router).stdout
               for option in (["--json"], ["--format", "json"], ["--json", "--format", "json"])]  # fmt: skip
    assert printed[0].splitlines()[1].startswith('{"audio": ')
    assert printed[0] == printed[1] == printed[2]


def test_one_file_is_written_for_each_input(router, calls, tmp_path):
    out = tmp_path / "new" / "texts"
    for kind in ("srt", "json"):
        done = invoke("transcribe", *calls, "--format", kind, "--output", out, "--router", router)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.startswith(f"{out / f'ann.2024.{kind}'}: ")
    assert invoke("transcribe", *calls, "--output", out, "--router", router).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        f"{stem}.{kind}" for stem in ("ann.2024", "bob") for kind in ("json", "srt", "txt")
    ]
    for path in calls:
        row = expected(router, path)
        assert (out / f"{path.stem}.srt").read_text() == as_srt(row)
        assert (out / f"{path.stem}.txt").read_text() == f"{row.text}\n"
        written = json.loads((out / f"{path.stem}.json").read_text())
        assert (written["audio"], written["text"]) == (str(path), row.text)


def test_a_bad_file_is_told_and_the_others_are_written(router, calls, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"not a sound")
    done = invoke("transcribe", bad, calls[1], "--json", "--output", tmp_path / "out", "--router", router)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"{bad}: error: ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bob.json"]


@pytest.mark.parametrize("name", ["other/bob.wav", "calls/bob.mp3"])
def test_two_inputs_for_one_output_are_refused_before_any_work(calls, tmp_path, name):
    twin = tmp_path / name
    done = invoke("transcribe", *calls, twin, "--output", tmp_path / "out", "--router", tmp_path / "no")
    assert done.exit_code == 1
    assert done.stderr == (
        f"whisper-router: {calls[1]} and {twin} would both be written to {tmp_path / 'out' / 'bob.txt'}; "
        "rename one of them, or transcribe them with different --output folders\n"
    )
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder_is_refused(calls, tmp_path):
    (tmp_path / "out").write_text("a file")
    done = invoke("transcribe", calls[0], "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"whisper-router: --output {tmp_path / 'out'}: ")


def test_subtitles_of_several_files_take_a_folder(calls):
    done = invoke("transcribe", *calls, "--format", "srt")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--output FOLDER" in done.stderr


def test_json_and_another_format_are_refused(calls):
    done = invoke("transcribe", calls[0], "--json", "--format", "vtt")
    assert (done.exit_code, done.stderr) == (
        1,
        "whisper-router: --json and --format vtt: give one of them\n",
    )


@pytest.mark.parametrize("command", ["transcribe", "decide"])
def test_the_packaged_folder_is_taken_where_nothing_is_registered_and_it_is_said(
    router, calls, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(router, "data/router")
    done = invoke(command, calls[0], "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == "router: data/router; no version is registered as champion\n"
    assert done.stdout == invoke(command, calls[0], "--json", "--router", router).stdout

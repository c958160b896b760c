"""Commands: help, JSON, exit codes, errors in one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from projects import PARAMS
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner, Result

from whisper_router.cli import app
from whisper_router.errors import UserError
from whisper_router.router import Router
from whisper_router.store import ContentStore

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def good(tmp_path, clips, wav) -> Path:
    path = tmp_path / "good.wav"
    path.write_bytes(wav(clips[0]))
    return path


@pytest.fixture
def bad(tmp_path) -> Path:
    path = tmp_path / "bad.wav"
    path.write_bytes(b"not a sound")
    return path


def test_help_names_every_command():
    done = invoke("--help")
    assert done.exit_code == 0
    assert {"run", "transcribe", "decide", "register", "demo"} <= set(COMMANDS)
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command):
    done = invoke(command, "--help")
    assert done.exit_code == 0
    plain = click.unstyle(done.stdout)
    assert f"Usage: whisper-router {command}" in plain or f" {command} " in plain
    assert "--help" in plain
    assert len(done.stdout.splitlines()) > 5


def all_commands(command: Any) -> Iterator[Any]:
    yield command
    for one in getattr(command, "commands", {}).values():
        yield from all_commands(one)


def test_no_help_text_loses_what_stands_in_square_brackets():
    for command in all_commands(get_command(app)):
        for text in (command.help, *(getattr(option, "help", None) for option in command.params)):
            written = (text or "").replace("\b", "")
            assert Text.from_markup(written).plain == written, command.name


def test_version():
    done = invoke("--version")
    assert (done.exit_code, done.stdout) == (0, f"whisper-router {version('whisper-router')}\n")


def test_completion_in_a_shell():
    words = {"COMP_WORDS": "whisper-router tran", "COMP_CWORD": "1"}
    environment = {"_WHISPER_ROUTER_COMPLETE": "complete_bash", **words}
    done = CliRunner().invoke(app, [], prog_name="whisper-router", env=environment)
    assert (done.exit_code, done.stdout) == (0, "transcribe\n")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option):
    program = f"import sys; from whisper_router.cli import app; sys.argv = ['x', '{option}']\n"
    program += (
        "try: app()\nexcept SystemExit: print(sorted({'torch', 'mlflow', 'prefect'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("kind", ["encoder", "confidence"])
def test_transcribe_writes_a_line_of_json_for_each_file_and_fails_for_a_bad_one(routers, kind, good, bad):
    done = invoke("transcribe", bad, good, "--json", "--router", routers[kind])
    assert done.exit_code == 1
    failed, made = (json.loads(line) for line in done.stdout.splitlines())
    (expected,) = Router.load(routers[kind]).transcribe([good])
    assert (failed["audio"], made["audio"]) == (str(bad), str(good))
    assert failed["error"].startswith(f"{bad}: not readable as audio")
    assert failed["text"] is None
    assert made["error"] is None
    assert (made["text"], made["arm"], made["model"]) == (expected.text, expected.arm, expected.model)
    assert (made["score"], made["threshold"]) == (expected.score, expected.threshold)
    assert made["segments"][0]["text"] == expected.text


def test_decide_writes_json_without_text(routers, good, bad):
    done = invoke("decide", good, bad, "--json", "--router", routers["encoder"])
    assert done.exit_code == 1
    made, failed = (json.loads(line) for line in done.stdout.splitlines())
    (expected,) = Router.load(routers["encoder"]).decide([good])
    assert (made["score"], made["arm"]) == (expected.score, expected.arm)
    assert "text" not in made
    assert failed["score"] is None
    assert failed["error"]


def test_good_files_alone_succeed_batch_after_batch(routers, good):
    done = invoke("transcribe", *[good] * 6, "--json", "--router", routers["encoder"])
    assert done.exit_code == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 6
    assert len({row["text"] for row in rows}) == 1


@pytest.mark.parametrize(("threshold", "arm"), [("0", "strong"), ("1.1", "weak")])
def test_threshold_option(routers, good, threshold, arm):
    done = invoke("decide", good, "--json", "--router", routers["encoder"], "--threshold", threshold)
    assert done.exit_code == 0
    row = json.loads(done.stdout)
    assert (row["arm"], row["threshold"]) == (arm, float(threshold))


def test_plain_output_names_route_and_text_and_sends_errors_to_standard_error(routers, good, bad):
    done = invoke("transcribe", good, bad, "--router", routers["confidence"])
    (expected,) = Router.load(routers["confidence"]).transcribe([good])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].startswith(f"{good}: {expected.model} ({expected.arm}; score ")
    assert expected.text in done.stdout
    assert str(bad) not in done.stdout
    assert f"{bad}: error: {bad}: not readable as audio" in done.stderr


@pytest.mark.parametrize("command", ["transcribe", "decide"])
def test_a_missing_router_is_told_in_one_line(command, good, tmp_path):
    done = invoke(command, good, "--router", tmp_path / "nowhere")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"whisper-router: {tmp_path / 'nowhere'} holds no router.json")
    assert "whisper-router run" in line


def test_a_router_of_other_parts_is_told_in_one_line(routers, package_router, good, tmp_path):
    folder = package_router(tmp_path / "router", "encoder")
    policy = folder / "policies/half.json"
    policy.write_text((routers["confidence"] / "policies/half.json").read_text())
    done = invoke("transcribe", good, "--router", folder)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"whisper-router: {folder}: policy 'half' was calibrated for another")


@pytest.mark.parametrize("command", ["run", "register"])
def test_a_folder_that_is_no_project_is_told_in_one_line(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(command)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("whisper-router: ")
    assert "params.yaml" in line if command == "run" else "dvc.lock" in line
    assert list(tmp_path.iterdir()) == []


def test_cache_ls_sums_hard_links_once_and_gc_deletes_down_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", "store")
    store = ContentStore()
    for name, used in (("old", 1), ("new", 2)):
        path = store.encoding_path(name, "arm", "extractor")
        store.write_encoding(path, np.zeros((100, 2, 3), np.float16))
        os.utime(path, (used, used))
    size = path.stat().st_size
    for folder in ("data", ".dvc/cache"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/shard.npy").write_bytes(bytes(5000))
    os.link(tmp_path / "data/shard.npy", tmp_path / ".dvc/cache/12ab")
    (tmp_path / ".dvc/cache/34cd").write_bytes(bytes(700))

    listed = json.loads(invoke("cache", "ls", "--json").stdout)
    assert listed["store"]["encodings"] == {"entries": 2, "bytes": 2 * size}
    assert (listed["data"], listed["dvc_cache"], listed["shared"]) == (5000, 5700, 5000)
    assert listed["sum"] == 5700 + 2 * size
    assert "are the same files by hard links" in invoke("cache", "ls").stdout

    done = invoke("cache", "gc", "--limit", f"{size}B")
    assert done.stdout.startswith("store: 1 entries deleted")
    assert path.is_file()
    assert json.loads(invoke("cache", "ls", "--json").stdout)["store"]["encodings"]["entries"] == 1
    done = invoke("cache", "gc", "--limit", "much")
    assert done.exit_code == 1
    assert done.stderr == "whisper-router: --limit: 'much' is not a size; write one such as 20GB or 500MB\n"


def test_an_unknown_preset_is_told_with_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = (Path(__file__).parents[1] / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    done = invoke("run", "--preset", "papper")
    assert done.exit_code == 1
    assert done.stderr == "whisper-router: preset 'papper' is none of paper, paper-code, paper-compact\n"
    assert (tmp_path / "params.yaml").read_text() == before


@pytest.mark.parametrize("lone", ["--weak", "--strong"])
def test_replicate_wants_both_arms_or_neither(lone, tmp_path):
    done = invoke("replicate", tmp_path / "table.jsonl", lone, "base")
    assert (done.exit_code, done.stderr) == (1, "whisper-router: name both --weak and --strong, or neither\n")


@pytest.fixture
def said(tmp_path, clips, wav, monkeypatch) -> Path:
    """A table whose columns have other names, beside a project of params.yaml alone."""
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for i, clip in enumerate(clips):
        (tmp_path / f"{i}.wav").write_bytes(wav(clip))
    lines = [f"{i}.wav,words of clip {i},s{i}" for i in range(len(clips))]
    path = tmp_path / "calls.csv"
    path.write_text("\n".join(["file,said,speaker", *lines, "absent.wav,some words,s0"]))
    Path("params.yaml").write_text(PARAMS.replace("calls.jsonl", "calls.csv"))
    return path


def test_check_says_what_a_corpus_holds_within_80_columns_and_as_json(said):
    options = ("check", said, "-c", "audio=file,text=said", "--no-probe")
    done = invoke(*options)
    assert done.exit_code == 0, done.stderr
    assert max(map(len, done.stdout.split("Next:")[0].splitlines())) <= 80
    assert "7: 6 good, 1 bad" in done.stdout
    assert "absent.wav:nosuchfile" in "".join(done.stdout.split())  # folded
    assert "columns: {audio: file, text: said}" in done.stdout.split("Next:")[1]
    row = json.loads(invoke(*options, "--json").stdout)
    assert (row["rows"], row["good"], row["speakers"]) == (7, 6, 6)
    assert row["columns"] == {"file": "audio", "said": "text", "speaker": "speaker"}
    assert [arm["arm"] for arm in row["arms"]] == ["weak", "strong"]
    assert row["resolution"]["points"] is None


def test_check_fails_where_no_row_is_usable(said):
    for sound in said.parent.glob("*.wav"):
        sound.unlink()
    done = invoke("check", said, "-c", "audio=file,text=said", "--json")
    assert (done.exit_code, json.loads(done.stdout)["good"]) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-c", "audio"), "--columns audio: write ours=theirs, such as audio=file,text=said"),
        (("-c", "sound=file"), "columns: 'sound' is none of id, audio, text"),
        (("--kind", "nemo", "-c", "audio=file"), "columns belong to kind table, not nemo"),
    ],
)
def test_check_refuses_wrong_options_in_one_line(said, arguments, message):
    done = invoke("check", said, *arguments)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert message in line


def test_check_of_a_folder_wants_its_kind(tmp_path):
    done = invoke("check", tmp_path)
    assert done.exit_code == 1
    assert "a folder; name its layout with --kind, one of nemo, audiofolder, librispeech" in done.stderr


@pytest.mark.parametrize("arguments", [["check", "calls.csv"], ["run", "-S", "ingest.root=."]])
def test_forgotten_columns_are_told_before_anything_heavy_is_imported(said, arguments):
    program = (
        "import sys\n"
        "from whisper_router.cli import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "finally:\n    print({'torch', 'whisper', 'prefect', 'dvc'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == "set()\n"
    (line,) = done.stderr.splitlines()
    assert "calls.csv: has no column 'audio' and no column 'text'; there are: file, said, speaker." in line
    assert "columns: {audio: file, text: said}" in line


def test_run_says_first_what_the_corpora_hold(said, monkeypatch):
    begun = []

    def begin() -> None:
        begun.append("dvc")
        raise UserError("far enough")

    monkeypatch.setattr("whisper_router.run.run", begin)
    monkeypatch.setattr("whisper_router.asr.weights.find_checkpoint", lambda name: begun.append(name))
    corpora = "ingest.corpora=[{name: c, kind: table, path: calls.csv, columns: {audio: file, text: said}}]"
    done = invoke("run", "-S", "ingest.root=.", "-S", corpora)
    assert done.stderr == "whisper-router: far enough\n"
    assert begun[-1] == "dvc"
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("c: rows 7: 6 good, 1 bad; 0.00 hours, 6 speakers; left out: 1 audio missing")
    assert second.startswith("  cross-validated: ")
    for sound in said.parent.glob("*.wav"):
        sound.unlink()
    begun.clear()
    done = invoke("run")
    assert (done.exit_code, begun) == (1, [])
    assert "no row of ingest.corpora is usable" in done.stderr


def test_files_are_needed():
    done = invoke("transcribe")
    assert done.exit_code == 2
    assert "files" in done.stderr.lower()


def test_the_installed_command_prints_nothing_but_json(routers, good):
    script = Path(sys.executable).with_name("whisper-router")
    done = subprocess.run(
        [script, "decide", good, "--json", "--router", routers["encoder"]],
        cwd=good.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["audio"] == str(good)
    assert done.stderr == ""

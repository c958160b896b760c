"""What would stop a retraining is found in real repositories before it begins, each with its remedy."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from projects import PARAMS

from whisper_router import git, preflight
from whisper_router.errors import UserError
from whisper_router.preflight import Finding, check, require_ready
from whisper_router.retrain_options import WEBHOOK
from whisper_router.retrain_state import OUTCOMES, RetrainError, last

ROOT = Path(__file__).parents[1]
NAMES = ["branch", "identity", "tree", "drop", "corpus", "remote", "webhook"]
DVC = str(Path(sys.executable).with_name("dvc"))


def dvc(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([DVC, *arguments], capture_output=True, text=True, check=False)


def write_params(path: Path, **retrain: object) -> None:
    document = yaml.safe_load(PARAMS) | {"retrain": retrain}
    document["ingest"] = {
        "root": "data/corpora",
        "corpora": [{"name": "calls", "kind": "audiofolder", "path": "calls"}],
    }
    path.write_text(yaml.safe_dump(document))


def commit() -> None:
    git.do("add", "-A")
    git.do("commit", "-qm", "as it is now")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A committed project of git and DVC with a remote and a corpus, and a drop folder beside it."""
    base = tmp_path_factory.mktemp("template")
    project = base / "project"
    for folder in (base / "drop", base / "remote", project / "data/corpora/calls/first"):
        folder.mkdir(parents=True)
    (project / "data/corpora/calls/first/metadata.csv").write_text("file_name,transcription\n")
    (project / "data/.gitignore").write_text("/corpora/?*\n!/corpora/*.dvc\n!/corpora/.gitignore\n")
    write_params(project / "params.yaml", drop="../drop", corpus="calls")
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    (project / "README.md").write_text("about\n")
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch)
        patch.chdir(project)
        git.do("init", "-q", "-b", "main")
        git.do("config", "user.name", "Ann")
        git.do("config", "user.email", "ann@example.org")
        assert dvc("init", "-q").returncode == 0
        assert dvc("remote", "add", "-q", "-d", "store", "../remote").returncode == 0
        commit()
    return base


def isolate(patch: pytest.MonkeyPatch) -> None:
    """No settings of this machine's user."""
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        patch.setenv(name, os.devnull)
    for name in (WEBHOOK, "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        patch.delenv(name, raising=False)
    for scheme in ("http", "https", "all"):
        patch.delenv(f"{scheme}_proxy", raising=False)
        patch.delenv(f"{scheme}_proxy".upper(), raising=False)


@pytest.fixture
def project(template, tmp_path, monkeypatch) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    isolate(monkeypatch)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def found() -> dict[str, Finding]:
    return {finding.name: finding for finding in check()}


def failed() -> dict[str, str]:
    """What does not hold, each in one line."""
    findings = {finding.name: finding.detail for finding in check() if not finding.holds}
    assert not any("\n" in detail for detail in findings.values())
    return findings


def test_a_project_in_order_has_one_line_for_each_check(project, monkeypatch):
    monkeypatch.setenv(WEBHOOK, "http://127.0.0.1:9/hook")
    (project.parent / "drop/monday").mkdir()
    (project.parent / "drop/monday/metadata.csv").touch()
    findings = found()
    assert list(findings) == NAMES
    assert all(finding.holds for finding in findings.values()), findings
    assert findings["branch"].detail.startswith("main; ")
    assert findings["identity"].detail == "Ann <ann@example.org>"
    assert findings["drop"].detail == "../drop; 1 batch waits"
    assert findings["corpus"].detail == "data/corpora/calls; tracked as data/corpora/calls.dvc"
    assert findings["remote"].detail == f"store: {project.parent / 'remote'}"
    assert str(findings["tree"]) == "ok    tree      clean"
    require_ready()


def test_a_project_that_takes_nothing_in_and_pushes_nowhere_may_retrain(project):
    write_params(project / "params.yaml")
    (project / ".dvc/config").write_text("")
    commit()
    findings = found()
    assert all(finding.holds for finding in findings.values()), findings
    assert "no new audio is taken in" in findings["drop"].detail
    assert "data stays in this project's cache" in findings["remote"].detail
    assert "nobody is told" in findings["webhook"].detail


def test_all_that_does_not_hold_is_shown_at_once(project, monkeypatch):
    git.do("switch", "-qc", "mine")
    git.do("config", "--unset", "user.name")
    git.do("config", "user.useConfigOnly", "true")
    (project / "README.md").write_text("changed\n")
    shutil.rmtree(project.parent / "drop")
    shutil.move(project / "data/corpora/calls", project.parent / "calls")
    (project / "data/corpora/calls").symlink_to(project.parent / "calls")
    shutil.rmtree(project.parent / "remote")
    monkeypatch.setenv(WEBHOOK, "hook")
    assert list(failed()) == NAMES
    with pytest.raises(RetrainError) as caught:
        require_ready()
    assert [line.partition(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == NAMES


def test_another_branch_is_told_with_the_way_back(project):
    git.do("switch", "-qc", "mine")
    assert "is on mine, a retraining starts from main: `git switch main`" in failed()["branch"]
    git.do("switch", "-q", "--detach")
    assert "is on no branch" in failed()["branch"]


def test_a_retraining_that_was_killed_on_its_branch_may_go_on(project):
    git.do("switch", "-qc", "retrain/0123456789ab")
    assert failed() == {}
    assert "is continued" in found()["branch"].detail


def test_a_trunk_that_does_not_exist_is_told(project):
    write_params(project / "params.yaml", branch="trunk")
    commit()
    assert "no branch trunk, which retrain.branch" in failed()["branch"]


def test_no_repository_and_no_commit_are_told(project):
    shutil.rmtree(project / ".git")
    told = failed()
    assert "not in a git repository: `git init -b main`" in told["branch"]
    assert "nothing is committed" in told["tree"]
    git.do("init", "-q", "-b", "main")
    assert "has no commit" in failed()["branch"]


@pytest.mark.parametrize("key", ["user.name", "user.email"])
def test_a_missing_identity_is_found_where_git_would_refuse_to_commit(project, key):
    git.do("config", "user.useConfigOnly", "true")
    git.do("config", "--unset", key)
    assert git.ask("commit-tree", "HEAD^{tree}", "-m", "x") is None
    assert "`git config user.name NAME` and `git config user.email ADDRESS`" in failed()["identity"]


def test_an_identity_of_the_environment_will_do(project, monkeypatch):
    git.do("config", "user.useConfigOnly", "true")
    git.do("config", "--unset", "user.name")
    for kind in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{kind}_NAME", "Bob")
    assert found()["identity"] == Finding("identity", True, "Bob <ann@example.org>")


def test_changes_are_named_but_for_those_that_a_retraining_commits(project):
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert dvc("add", "-q", "data/corpora/calls").returncode == 0
    git.do("add", "-f", "data/corpora/calls.dvc")
    assert failed() == {}
    for name in ("a", "b", "c"):
        (project / name).touch()
        git.do("add", name)
    (project / "README.md").write_text("changed\n")
    assert "not committed: README.md, a, b and 1 more; " in failed()["tree"]


def test_a_drop_folder_that_is_gone_or_shut_is_told(project, monkeypatch):
    drop = project.parent / "drop"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).resolve() != drop)  # root may do anything
    assert "../drop cannot be read and written by this user" in failed()["drop"]
    drop.rmdir()
    assert "../drop is not a folder; is it mounted?" in failed()["drop"]


def test_a_drop_folder_without_a_corpus_is_told(project):
    write_params(project / "params.yaml", drop="../drop")
    commit()
    assert "retrain.corpus: None is not a corpus of kind audiofolder" in failed()["corpus"]


def plain(calls: Path) -> None:
    """As it is."""


def tracked_by_git(calls: Path) -> None:
    git.do("add", "-f", str(calls))
    git.do("commit", "-qm", "audio")


def ignored_by_git(calls: Path) -> None:
    Path("data/.gitignore").write_text("/corpora/?*\n")
    commit()


def a_link_to_outside(calls: Path) -> None:
    shutil.move(calls, "../calls")
    calls.symlink_to(Path("../calls").resolve())


def below_a_link(calls: Path) -> None:
    shutil.move("data/corpora", "moved")
    Path("data/corpora").symlink_to(Path("moved").resolve())


CASES = {
    plain: None,
    tracked_by_git: "`git rm -rq --cached data/corpora/calls`, and commit",
    ignored_by_git: "git ignores data/corpora/calls.dvc by data/.gitignore:1:/corpora/?*: add !calls.dvc",
    a_link_to_outside: "lies behind a link",
    below_a_link: "lies behind a link",
}


@pytest.mark.parametrize("make", CASES)
def test_a_corpus_is_refused_where_dvc_refuses_it(project, make):
    make(Path("data/corpora/calls"))
    told = failed().get("corpus")
    assert (CASES[make] or "") in (told or "")
    assert (told is None) == (CASES[make] is None)
    assert (dvc("add", "-q", "data/corpora/calls").returncode == 0) == (told is None)


def move_corpora(project: Path) -> None:
    """Set the root of all corpora to a folder beside the project."""
    shutil.move(project / "data/corpora", project.parent / "corpora")
    document = yaml.safe_load((project / "params.yaml").read_text())
    document["ingest"]["root"] = str(project.parent / "corpora")
    (project / "params.yaml").write_text(yaml.safe_dump(document))


def test_a_corpus_outside_is_refused_with_the_commands_that_bring_it_in(project):
    move_corpora(project)
    commit()
    outside = project.parent / "corpora/calls"
    assert f"{outside} is outside of the project" in failed()["corpus"]
    assert f"`mkdir -p data/corpora && cp -a {outside} data/corpora/calls`" in failed()["corpus"]


def test_a_corpus_outside_that_does_not_grow_is_named(project):
    move_corpora(project)
    document = yaml.safe_load((project / "params.yaml").read_text()) | {"retrain": {}}
    (project / "params.yaml").write_text(yaml.safe_dump(document))
    commit()
    assert failed() == {}
    assert found()["corpus"].detail.endswith("outside of the project, so on no remote: calls")


@pytest.mark.parametrize(
    ("config", "remote", "told"),
    [
        ("['remote \"a\"']\nurl = /gone/away\n[core]\nremote = a", None, "`mkdir -p /gone/away`"),
        ("['remote \"a\"']\nurl = /gone/away", None, "is the default: `dvc remote default a`"),
        ("['remote \"a\"']\nurl = ../../remote", "b", "there is no DVC remote b (there is a)"),
        ("[core]\nremote = a", None, "there is no DVC remote a (there is none)"),
        ("[core]\nremot = a", None, "correct .dvc/config"),
        ("['remote \"a\"']\nurl = s3://bucket/x\n[core]\nremote = a", None, "`pip install 'dvc[s3]'`"),
        (
            "['remote \"a\"']\nurl = https://example.org\nauth = basic\nuser = ann\n[core]\nremote = a",
            None,
            "require both 'user' and 'password'",
        ),
        (
            "['remote \"a\"']\nurl = https://a.org\nauth = basic\nask_password = true\n[core]\nremote = a",
            None,
            "`dvc remote modify --local a password ...`, and `dvc remote modify a ask_password false`",
        ),
        (
            "['remote \"a\"']\nurl = webdavs://example.org\ncert_path = gone.pem\n[core]\nremote = a",
            None,
            "gone.pem is no file: put it there, or `dvc remote modify --local a cert_path FILE`",
        ),
    ],
)
def test_a_remote_that_would_not_take_the_data_is_told(project, config, remote, told):
    (project / ".dvc/config").write_text(config)
    write_params(project / "params.yaml", drop="../drop", corpus="calls", remote=remote)
    commit()
    assert list(failed()) == ["remote"]
    assert told in failed()["remote"]


@pytest.mark.parametrize(
    ("settings", "found_by_boto", "enough"),
    [
        ({}, None, False),
        ({}, "a role", True),
        ({"access_key_id": "a"}, "a role", False),
        ({"access_key_id": "a", "secret_access_key": "b"}, None, True),
        ({"allow_anonymous_login": True}, None, True),
    ],
)
def test_credentials_of_s3_are_in_the_settings_or_found_by_boto(monkeypatch, settings, found_by_boto, enough):
    session = SimpleNamespace(get_credentials=lambda: found_by_boto)
    monkeypatch.setitem(sys.modules, "botocore", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "botocore.session", SimpleNamespace(Session=lambda profile: session))
    if enough:
        preflight._require_aws_credentials("store", settings)
    else:
        with pytest.raises(UserError, match="DVC remote store has no AWS credentials"):
            preflight._require_aws_credentials("store", settings)


def test_a_remote_with_credentials_is_not_asked_and_shows_no_password(project):
    (project / ".dvc/config").write_text(
        "['remote \"a\"']\nurl = https://ann:s3cret@example.invalid/x\nauth = basic\nuser = ann\n"
        "password = s3cret\n[core]\nremote = a"
    )
    commit()
    assert failed() == {}
    assert found()["remote"].detail == "a: https://ann:***@example.invalid/x"


def test_a_remote_that_cannot_be_written_is_told(project, monkeypatch):
    remote = project.parent / "remote"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != remote)
    assert "remote cannot be written by this user" in failed()["remote"]


def test_a_folder_that_is_no_dvc_project_is_told(project):
    shutil.rmtree(project / ".dvc")
    commit()
    assert "is not a DVC project: `dvc init`" in failed()["remote"]


SECRET = "s3cret"


@pytest.mark.parametrize(
    "url", [SECRET, f"http://127.0.0.1:{SECRET}/x", f"http://[{SECRET}/x", f"http:///{SECRET}"]
)
def test_a_webhook_that_is_no_url_is_told_without_being_shown(project, monkeypatch, url):
    monkeypatch.setenv(WEBHOOK, url)
    assert WEBHOOK in failed()["webhook"]
    assert SECRET not in failed()["webhook"]


def test_a_webhook_without_an_address_is_told_without_being_shown(project, monkeypatch):
    monkeypatch.setenv(WEBHOOK, f"https://{SECRET}.invalid/{SECRET}")
    assert f"the host of {WEBHOOK} has no address" in failed()["webhook"]
    assert SECRET not in failed()["webhook"]
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")  # asks for the address itself
    assert found()["webhook"].holds
    monkeypatch.setenv("https_proxy", "proxy.invalid:3128")
    assert f"the proxy in front of {WEBHOOK} has no address" in failed()["webhook"]


def test_what_does_not_answer_is_told_within_the_limit(project, monkeypatch):
    answer = threading.Event()
    monkeypatch.setenv(WEBHOOK, "https://example.org/hook")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answer.wait())
    monkeypatch.setattr(preflight, "LIMIT_S", 2.0)
    try:
        assert failed() == {"webhook": "no answer within 2 s: see that the disk or host behind it is "
                            "reachable, and check again"}  # fmt: skip
    finally:
        answer.set()


def test_params_that_are_refused_leave_the_other_checks(project, monkeypatch):
    (project / "params.yaml").write_text("ingest: 3\n")
    monkeypatch.setenv(WEBHOOK, "hook")
    assert list(found()) == ["params", "identity", "webhook"]
    assert list(failed()) == ["params", "webhook"]
    assert "params.yaml is refused" in failed()["params"]


def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command, in the project of now; what it imported of what is slow stands on its last line."""
    code = (
        "import runpy, sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "try: runpy.run_module('flows.retrain', run_name='__main__')\n"
        "finally: print(sorted({'prefect', 'torch', 'mlflow', 'pandas'} & set(sys.modules)))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_prints_every_check_and_imports_nothing_slow(project):
    done = call("--check")
    assert done.returncode == 0, done.stderr
    *lines, imported = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in NAMES]
    assert imported == "[]"
    (project / "README.md").write_text("changed\n")
    done = call("--check")
    assert done.returncode == 1
    assert "FAIL  tree      not committed: README.md" in done.stdout
    assert not OUTCOMES.exists()


def test_a_retraining_stops_before_prefect_with_all_that_does_not_hold(project):
    (project / "README.md").write_text("changed\n")
    shutil.rmtree(project.parent / "drop")
    done = call()
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "[]"
    assert "  tree: not committed: README.md" in done.stderr
    assert "  drop: " in done.stderr
    (kept,) = last()
    assert kept.outcome.ending == "error"
    assert kept.outcome.error in done.stderr
    shown = json.loads(call("--status", "--json").stdout.splitlines()[0])
    assert shown["last"][0]["outcome"]["error"] == kept.outcome.error

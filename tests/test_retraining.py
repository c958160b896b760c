"""The steps of a retraining that need no training: drop folder, branches, gate, alias, webhook."""

import os
import traceback
from pathlib import Path

import pytest
from mlflow import MlflowClient
from webhooks import listening

from whisper_router import gate, git, intake, retraining
from whisper_router.contest import ContestError
from whisper_router.errors import UserError
from whisper_router.gate import Verdict
from whisper_router.params import Params, ParamsError, load_params
from whisper_router.promotion import MODEL, champion, move_champion, registry
from whisper_router.registry import flat
from whisper_router.retrain_options import WEBHOOK, GateOptions, RetrainOptions, webhook

BAD = Verdict("slices", False, "corpus calls: WER up by 9.00%")


def params(root: Path, **retrain: object) -> Params:
    return Params.model_validate(
        {
            "retrain": retrain,
            "ingest": {
                "root": str(root),
                "corpora": [
                    {"name": "calls", "kind": "audiofolder", "path": "calls"},
                    {"name": "talks", "kind": "table", "path": "talks.csv"},
                ],
            },
            "extractors": {"confidence": {"kind": "confidence"}},
            "deciders": {"cascade": {"kind": "logistic", "extractor": "confidence"}},
            "policies": {"half": {"kind": "strong_share", "decider": "cascade", "share": 0.5}},
            "router": {"policy": "half"},
        }
    )


def batch(folder: Path, metadata: str = "metadata.csv") -> Path:
    folder.mkdir(parents=True)
    (folder / metadata).write_text("file_name,text\na.wav,hello\n")
    (folder / "a.wav").write_bytes(b"sound")
    return folder


def test_complete_batches_move_and_others_stay(tmp_path):
    drop, root = tmp_path / "drop", tmp_path / "corpora"
    batch(drop / "monday")
    batch(drop / "tuesday", "metadata.jsonl")
    batch(drop / ".wednesday")
    (drop / "notes").mkdir()
    wanted = params(root, drop=str(drop), corpus="calls")
    assert intake.take_in(wanted) == ["monday", "tuesday"]
    assert (root / "calls/monday/a.wav").read_bytes() == b"sound"
    assert sorted(path.name for path in drop.iterdir()) == [".wednesday", "notes"]
    assert intake.take_in(wanted) == []


def test_a_batch_of_a_known_name_gets_another(tmp_path):
    drop, root = tmp_path / "drop", tmp_path / "corpora"
    batch(root / "calls" / "monday")
    batch(drop / "monday")
    batch(drop / "monday-2")
    taken = intake.take_in(params(root, drop=str(drop), corpus="calls"))
    assert taken == ["monday-2", "monday-2-2"]
    assert (root / "calls/monday/a.wav").is_file()


def test_batches_whose_move_was_killed_are_finished_and_taken_once(tmp_path):
    drop, calls = tmp_path / "drop", tmp_path / "corpora/calls"
    batch(drop / ".taken-claimed")
    batch(drop / ".taken-copied")
    (calls / ".claimed").mkdir(parents=True)
    (calls / ".claimed/half.wav").write_bytes(b"ha")
    batch(calls / "copied")
    batch(drop / ".taken-deleted")
    batch(calls / "deleted")
    (drop / ".taken-deleted/metadata.csv").unlink()
    batch(drop / "copied")
    taken = intake.take_in(params(tmp_path / "corpora", drop=str(drop), corpus="calls"))
    assert taken == ["claimed", "copied", "copied-2", "deleted"]
    assert sorted(path.name for path in calls.iterdir()) == taken
    assert all(sorted(p.name for p in (calls / n).iterdir()) == ["a.wav", "metadata.csv"] for n in taken)
    assert list(drop.iterdir()) == []


@pytest.mark.parametrize("corpus", [None, "talks", "nobody"])
def test_batches_need_a_corpus_to_go_to(tmp_path, corpus):
    batch(tmp_path / "drop" / "monday")
    with pytest.raises(UserError, match=f"retrain.corpus: {corpus!r} is not a corpus of kind audiofolder"):
        intake.take_in(params(tmp_path, drop=str(tmp_path / "drop"), corpus=corpus))
    assert (tmp_path / "drop/monday/a.wav").is_file()


def test_a_drop_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError, match=r"retrain.drop: .*away is not a folder; is it mounted"):
        intake.take_in(params(tmp_path, drop=str(tmp_path / "away"), corpus="calls"))


def test_a_corpus_outside_of_the_project_is_never_left_untracked(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    batch(tmp_path / "corpora/calls/monday")
    with pytest.raises(UserError, match=r"retrain.corpus: .*corpora/calls is outside of the project"):
        retraining.track(params(tmp_path / "corpora", corpus="calls"))


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository on main with a dvc.lock and a registry beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.setenv(name, "test")
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "test@example.org")
    Path("dvc.lock").write_text("one\n")
    Path("README.md").write_text("about\n")
    git.do("init", "-q", "-b", "main")
    git.do("add", "dvc.lock", "README.md")
    git.do("commit", "-qm", "one")
    return tmp_path


def test_a_new_lock_is_committed_on_its_branch_once(repository):
    assert retraining.commit_lock(None) is None
    Path("dvc.lock").write_text("two\n")
    branch = retraining.commit_lock(None)
    commit = git.text("rev-parse", "HEAD")
    assert branch == retraining.branch_name() == git.text("branch", "--show-current")
    assert retraining.commit_lock(None) == branch
    git.do("switch", "-q", "main")
    assert Path("dvc.lock").read_text() == "one\n"
    Path("dvc.lock").write_text("two\n")
    assert retraining.commit_lock(None) == branch
    assert git.text("rev-parse", "HEAD") == commit
    assert git.text("status", "--porcelain", "--untracked-files=no") == ""


def test_a_lock_of_an_earlier_branch_keeps_its_commit_and_merges_with_a_newer_trunk(client):
    Path("dvc.lock").write_text("two\n")
    branch = retraining.commit_lock(None)
    commit = git.text("rev-parse", "HEAD")
    git.do("switch", "-q", "main")
    Path("README.md").write_text("more\n")
    git.do("commit", "-qam", "more")
    Path("dvc.lock").write_text("two\n")
    assert retraining.commit_lock(None) == branch
    assert git.text("rev-parse", "HEAD") == commit
    retraining.finish(client, "2", True, "main")
    assert git.text("branch", "--show-current") == "main"
    assert git.ask("merge-base", "--is-ancestor", commit, "main") is not None
    assert (Path("README.md").read_text(), Path("dvc.lock").read_text()) == ("more\n", "two\n")


def test_a_branch_that_does_not_merge_is_left_whole_and_said(client):
    Path("dvc.lock").write_text("two\n")
    branch = retraining.commit_lock(None)
    git.do("switch", "-q", "main")
    Path("dvc.lock").write_text("three\n")
    git.do("commit", "-qam", "three")
    git.do("switch", "-q", str(branch))
    with pytest.raises(UserError, match=f"{branch} does not merge with main"):
        retraining.finish(client, "2", True, "main")
    assert git.text("status", "--porcelain", "--untracked-files=no") == ""
    assert Path("dvc.lock").read_text() == "two\n"


def test_a_retraining_on_its_branch_is_gone_on_with(repository):
    assert not retraining.going_on()
    Path("dvc.lock").write_text("two\n")
    retraining.commit_lock(None)
    assert retraining.going_on()


def test_other_changes_are_not_swept_along(repository):
    Path("dvc.lock").write_text("two\n")
    Path("README.md").write_text("changed\n")
    with pytest.raises(UserError, match=r"(?s)commit or undo these first.*README\.md"):
        retraining.commit_lock(None)
    assert git.text("branch", "--show-current") == "main"


@pytest.fixture
def client(repository) -> MlflowClient:
    client = registry()
    client.create_registered_model(MODEL)
    for _ in "12":
        client.create_model_version(MODEL, str(repository))
    move_champion(client, "1", "register", "the first")
    return client


def test_what_passed_serves_and_is_merged(client):
    Path("dvc.lock").write_text("two\n")
    retraining.commit_lock(None)
    for _ in "twice":
        retraining.finish(client, "2", True, "main")
    assert champion(client) == "2"
    assert git.text("branch", "--show-current") == "main"
    assert Path("dvc.lock").read_text() == "two\n"


def test_what_failed_leaves_champion_and_trunk_alone(client, monkeypatch):
    checked_out: list[tuple[str, ...]] = []
    monkeypatch.setattr(retraining, "dvc", lambda *arguments: checked_out.append(arguments))
    Path("dvc.yaml").write_text("stages: {label: {}, train: {}}\n")
    Path("dvc.lock").write_text("two\n")
    branch = retraining.commit_lock(None)
    retraining.finish(client, "2", False, "main")
    assert champion(client) == "1"
    assert Path("dvc.lock").read_text() == "one\n"
    assert git.text("rev-parse", "--verify", str(branch))
    assert checked_out == [("checkout", "--quiet", "label", "train")]


def test_verdicts_stay_on_the_version_and_are_not_made_twice(client, monkeypatch, tmp_path):
    monkeypatch.setattr(retraining, "hold_contest", lambda *_: "a contest")
    monkeypatch.setattr(gate, "judge", lambda *_: iter([BAD]))
    monkeypatch.setattr(retraining, "ROUTER", tmp_path)
    first = retraining.apply_gate(client, "2", GateOptions())
    assert [(verdict.rule, verdict.passed) for verdict in first] == [("size", True), ("slices", False)]
    tags = client.get_model_version(MODEL, "2").tags
    assert tags["gate"] == "failed"
    assert tags["gate.slices"] == f"failed: {BAD.detail}"
    monkeypatch.setattr(gate, "judge", lambda *_: pytest.fail("judged twice"))
    assert retraining.apply_gate(client, "2", GateOptions()) == first


def test_a_champion_that_cannot_load_fails_the_gate_and_says_so(client, monkeypatch, tmp_path):
    def broken(*_: object) -> None:
        raise ContestError("version 1 cannot be run: no such file")

    monkeypatch.setattr(retraining, "hold_contest", broken)
    monkeypatch.setattr(retraining, "ROUTER", tmp_path)
    verdicts = retraining.apply_gate(client, "2", GateOptions())
    assert [verdict.passed for verdict in verdicts] == [True, False]
    assert "version 1 cannot be run: no such file" in verdicts[1].detail
    assert "whisper-router promote" in verdicts[1].detail


def test_the_first_version_needs_no_champion(client, monkeypatch, tmp_path):
    monkeypatch.setattr(retraining, "ROUTER", tmp_path)
    assert all(verdict.passed for verdict in retraining.apply_gate(client, "1", GateOptions()))


@pytest.fixture
def heard(monkeypatch):
    with listening() as (url, got):
        monkeypatch.setenv(WEBHOOK, url)
        yield got


def judged(client: MlflowClient) -> None:
    for key, value in {"gate.size": "passed: small", "gate.slices": f"failed: {BAD.detail}"}.items():
        client.set_model_version_tag(MODEL, "2", key, value)
    client.set_model_version_tag(MODEL, "2", "gate", "failed")
    client.set_model_version_tag(MODEL, "2", "git_commit", "abc")


def test_the_webhook_is_told_once_a_version(client, heard):
    got, options = heard, RetrainOptions()
    retraining.notify(client, "2", options)
    assert got == []  # nothing was judged
    judged(client)
    for _ in "twice":
        retraining.notify(client, "2", options)
    assert len(got) == 1
    assert (got[0]["version"], got[0]["gate"], got[0]["champion"]) == ("2", "failed", False)
    assert got[0]["commit"] == "abc"
    assert got[0]["rules"][1]["detail"] == BAD.detail


SECRET = "s3cret"
GONE = [
    f"http://127.0.0.1:9/{SECRET}",
    f"http://user:{SECRET}@127.0.0.1:9/hook",
    f"http://{SECRET}.invalid/hook",
    f"http://[{SECRET}/hook",
    f"http://127.0.0.1:{SECRET}/hook",
]


def test_a_webhook_that_fails_stops_nothing_and_is_not_shown(client, capsys, monkeypatch, heard):
    refusing = os.environ[WEBHOOK].replace("/hook", f"/refuse/{SECRET}")
    judged(client)
    for url, told in [*((url, "was not reached") for url in GONE), (refusing, "answered 404")]:
        monkeypatch.setenv(WEBHOOK, url)
        retraining.notify(client, "2", RetrainOptions())
        said = capsys.readouterr()
        assert told in said.err, url
        assert SECRET not in said.err + said.out
    assert "notified" not in client.get_model_version(MODEL, "2").tags


@pytest.mark.parametrize(
    "url", ["", SECRET, f"ftp://{SECRET}", f"https://a/{SECRET} b", f"https://a/{SECRET}\n"]
)
def test_a_webhook_that_is_no_url_is_refused_without_being_shown(monkeypatch, url):
    monkeypatch.setenv(WEBHOOK, url)
    with pytest.raises(UserError, match=WEBHOOK) as caught:
        webhook()
    assert SECRET not in str(caught.value)
    monkeypatch.delenv(WEBHOOK)
    assert webhook() is None


@pytest.mark.parametrize("value", [f"https://chat.example.org/{SECRET}", f"[{SECRET}]"])
def test_a_webhook_in_params_yaml_is_refused_without_being_shown(tmp_path, value):
    path = tmp_path / "params.yaml"
    written = (Path(__file__).parents[1] / "params.yaml").read_text()
    path.write_text(written + f"retrain: {{webhook: {value!r}}}\n")
    with pytest.raises(ParamsError, match=WEBHOOK) as caught:
        load_params(path)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_webhook_is_among_the_parameters_that_are_logged(monkeypatch, heard):
    logged = flat(load_params(Path(__file__).parents[1] / "params.yaml").model_dump(mode="json"))
    assert logged
    assert not any("webhook" in name or os.environ[WEBHOOK] in value for name, value in logged.items())


def test_stages_come_in_the_order_of_the_dag():
    os.chdir(Path(__file__).parents[1])
    assert retraining.stages() == [
        *("ingest", "check", "label", "featurize", "train", "calibrate", "package", "evaluate")
    ]

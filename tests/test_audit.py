"""An audit holds for what the DAG made, and names what was tampered with."""

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from projects import PARAMS, lay_out
from typer.testing import CliRunner

from whisper_router import cli_audit, contest, retraining
from whisper_router.audit import (
    UNCOMMITTED,
    Link,
    chain,
    commit_of,
    dvc_md5,
    first_difference,
    packaged,
    registered,
    sorted_links,
)
from whisper_router.audited import cached, file_md5
from whisper_router.cli import app
from whisper_router.contest import Performance
from whisper_router.errors import UserError
from whisper_router.files import read_json, write_json
from whisper_router.gate import Contest
from whisper_router.hashing import file_sha256, folder_sha256
from whisper_router.promotion import MODEL
from whisper_router.registry import commit_state, register, requirements
from whisper_router.retrain_options import GateOptions
from whisper_router.router import Router
from whisper_router.seal import artifacts_seal, file_hashes, gate_seal, model_seal

TABLES = ("manifest", "transcripts", "labels")
LONE = ("data/report.html", "data/arms.json")


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_provenance(router: Path, references: dict[str, dict[str, object]]) -> None:
    hashes = {name: file_sha256(Path(f"data/{name}.parquet")) for name in TABLES}
    write_json(
        router / "provenance.json",
        {
            "sha256": {
                **hashes,
                "policies": {path.stem: file_sha256(path) for path in router.glob("policies/*.json")},
                "decider": folder_sha256(router / "decider"),
                "requirements.lock": file_sha256(Path("requirements.lock")),
            },
            "checkpoints": {arm: {"sha256": reference["sha256"]} for arm, reference in references.items()},
        },
    )


def to_cache(md5: str, data: bytes) -> None:
    path = cached(md5)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_lock() -> None:
    """dvc.lock of the outputs, and DVC's cache of them all."""
    outs = []
    folders = [Path("data") / name for name in ("router", "decider", "plots")]
    tables = [Path(f"data/{name}.parquet") for name in TABLES]
    for path in [*folders, *tables, *Path("data/metrics").iterdir(), *map(Path, LONE)]:
        md5 = dvc_md5(path) if path.is_dir() else file_md5(path)
        outs.append({"path": path.as_posix(), "md5": md5})
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.is_file()]
            listing = [{"md5": file_md5(f), "relpath": f.relative_to(path).as_posix()} for f in files]
            listing.sort(key=lambda entry: tuple(entry["relpath"].split("/")))
            to_cache(md5, json.dumps(listing, sort_keys=True).encode())
        for file in [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]:
            to_cache(file_md5(file), file.read_bytes())
    Path("dvc.lock").write_text(json.dumps({"stages": {"all": {"outs": outs}}}))


@pytest.fixture(scope="module")
def project(package_router, checkpoints, tmp_path_factory):
    """A repository whose commit, lock and registered version belong together."""
    folder = tmp_path_factory.mktemp("audited")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        weights = {
            arm: Path(shutil.copy(checkpoints[vocabulary], folder / f"{arm}.pt"))
            for arm, vocabulary in (("weak", "english"), ("strong", "multilingual"))
        }
        router = package_router(
            tmp_path_factory.mktemp("router") / "router",
            "confidence",
            weak_weights=weights["weak"],
            strong_weights=weights["strong"],
        )
        lay_out(folder, router, "")
        for name in ("manifest", "transcripts"):
            Path(f"data/{name}.parquet").write_bytes(name.encode())
        Path("requirements.lock").write_text("\n".join(requirements(router)) + "\n")
        Path(".gitignore").write_text("data/\nmlruns/\n.dvc/\n*.pt\n__pycache__/\n")
        source = Path(contest.__file__).parent
        shutil.copytree(source, "src/whisper_router", ignore=shutil.ignore_patterns("__pycache__"))
        description = read_json(Path("data/router/router.json"))
        write_provenance(Path("data/router"), {arm: description[arm] for arm in ("weak", "strong")})
        write_lock()
        git("init", "-q")
        git("add", "-A")
        git("commit", "-qm", "one")
        register()
        yield folder
        mlflow.set_tracking_uri(None)


def broken(subject: str = "1") -> list[str]:
    return [link.name for link in chain(registered(subject)) if link.holds is False]


def model_file(name: str) -> Path:
    source = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{MODEL}/1")
    return Path(source) / name


@pytest.fixture
def edit(project):
    """Change or add files for one test."""
    before: dict[Path, bytes | None] = {}

    def change(path: Path, how: Callable[[bytes], bytes]) -> None:
        old = before.setdefault(path, path.read_bytes() if path.is_file() else None)
        path.parent.mkdir(parents=True, exist_ok=True)
        if old is not None:
            path.chmod(0o644)
        changed = how(old or b"")
        assert changed != old
        path.write_bytes(changed)

    yield change
    for path, data in before.items():
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)


def test_what_the_dag_made_holds_to_its_last_link(project):
    links = chain(registered("champion"))
    assert [link for link in links if link.holds is not True] == []
    assert {"code", "environment", "policy half", "labels", "weak checkpoint", "figures"} <= {
        link.name for link in links
    }
    done = CliRunner().invoke(app, ["audit", "1", "--json"])
    assert done.exit_code == 0
    assert all(link["holds"] for link in json.loads(done.stdout)["links"])


def test_a_folder_is_audited_without_the_registry(project):
    links = chain(packaged(Path("data/router")))
    assert [link for link in links if link.holds is not True] == []
    assert "MLflow run" not in {link.name for link in links}
    with pytest.raises(UserError, match=r"no provenance\.json"):
        packaged(Path("data/metrics"))


def lower(data: bytes) -> bytes:
    return json.dumps(json.loads(data) | {"threshold": 0.01}).encode()


def added(line: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data + line


def run_file(name: str) -> Path:
    run = MlflowClient().get_model_version(MODEL, "1").run_id
    return Path(mlflow.artifacts.download_artifacts(run_id=run)) / name


def cached_file(path: str) -> Path:
    return cached(file_md5(Path(path)))


EVIL = b"\nprint('an added line')\n"
TAMPERINGS = {
    "a policy": (model_file, "artifacts/router/policies/half.json", lower, ["policy half", "router folder"]),
    "the decider": (
        model_file,
        "artifacts/router/decider/curve.json",
        added(b" "),
        ["decider", "router folder"],
    ),
    "pyfunc.py": (model_file, "pyfunc.py", added(EVIL), ["code"]),
    "a module": (model_file, "code/whisper_router/scoring.py", added(EVIL), ["code"]),
    "another package": (model_file, "code/torch/__init__.py", added(EVIL), ["code"]),
    "a module beside pyfunc.py": (model_file, "sitecustomize.py", added(EVIL), ["code"]),
    "bytecode": (
        model_file,
        "code/whisper_router/__pycache__/scoring.cpython-311.pyc",
        added(EVIL),
        ["code"],
    ),
    "bytecode of pyfunc.py": (model_file, "__pycache__/pyfunc.cpython-311.pyc", added(EVIL), ["code"]),
    "MLmodel": (model_file, "MLmodel", lambda d: d.replace(b"pyfunc.py", b"mine.py"), ["MLmodel"]),
    "MLmodel's loader": (
        model_file,
        "MLmodel",
        lambda d: d.replace(b"mlflow.pyfunc.loaders.code_model", b"mine"),
        ["MLmodel"],
    ),
    "MLmodel's comment": (model_file, "MLmodel", added(b"# mine\n"), []),
    "requirements.txt": (model_file, "requirements.txt", added(b"\nevil==1.0\n"), ["requirements.txt"]),
    "conda.yaml": (model_file, "conda.yaml", added(b"# mine\n"), []),
    "report.html": (run_file, "report.html", added(b"<p>better</p>"), ["report.html"]),
    "a plot": (run_file, "plots/frontier.png", added(b" "), ["plots"]),
    "another plot": (run_file, "plots/better.png", added(b"a chart"), ["plots"]),
    "metrics": (run_file, "metrics/policies.json", added(b" "), ["metrics/policies.json"]),
    "test figures": (run_file, "metrics/test.json", added(b" "), ["metrics/test.json"]),
    "another metric": (run_file, "metrics/better.json", added(b"{}"), ["metrics/better.json"]),
    "arms.json": (run_file, "arms.json", added(b" "), ["arms.json"]),
    "dvc.yaml": (run_file, "dvc.yaml", added(b"# mine\n"), ["dvc.yaml"]),
    "params.yaml": (run_file, "params.yaml", added(b"# mine\n"), ["params.yaml"]),
    "speakers seen": (run_file, "speakers.json", lambda d: b'{"seen": []}', ["speakers seen"]),
    "another artifact": (run_file, "notes.txt", added(b"passed"), []),
    "the decider in DVC's cache": (
        cached_file,
        "data/decider/encoder/curve.json",
        added(b" "),
        ["DVC's cache"],
    ),
    "labels in DVC's cache": (cached_file, "data/labels.parquet", added(b" "), ["labels"]),
    "the report in DVC's cache": (cached_file, "data/report.html", added(b" "), ["DVC's cache"]),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_tampering_is_named(edit, what):
    place, name, how, expected = TAMPERINGS[what]
    path = place(name)
    edit(path, how)
    whole = {model_file: ["model folder"], run_file: ["run artifacts"], cached_file: []}[place]
    links = [link for link in chain(registered("1")) if link.holds is False]
    assert {link.name for link in links} == {*expected, *whole}
    assert all(link.remedy for link in links)
    if place is model_file:
        (link,) = [link for link in links if link.name == "model folder"]
        assert name in link.detail
    if expected == ["code"]:
        assert name in next(link.detail for link in links if link.name == "code")


def test_the_verdict_names_the_router_first_and_says_what_to_do(edit, project, tmp_path):
    edit(model_file("artifacts/router/policies/half.json"), lower)
    edit(run_file("report.html"), added(b"<script>alert(1)</script>"))
    done = CliRunner().invoke(app, ["audit", "1", "--report", str(tmp_path / "audit.html")])
    assert done.exit_code == 1
    assert "first: policy half" in done.stdout
    assert done.stdout.count("To do:") == 5
    assert "links hold (-v lists them)" in done.stdout
    assert "weak checkpoint" not in done.stdout
    assert "not signed" in done.stdout
    page = (tmp_path / "audit.html").read_text()
    assert page.index("BROKEN") < page.index("policy half") < page.index("weak checkpoint")
    assert git("rev-parse", "HEAD") in page
    assert "http" not in page.replace("http-equiv", "")
    listed = CliRunner().invoke(app, ["audit", "1", "-v"])
    assert "weak checkpoint" in listed.stdout


def test_a_certificate_acts_on_nothing_that_it_quotes(project, tmp_path):
    from whisper_router.certificate import Audit, write_certificate

    link = Link("a|b", False, "<script>alert(1)</script> `x` | [y](z)", "do *this*")
    audit = Audit("<b>", "BROKEN", "1 of 1", "now", "c0ffee", {"model_sha256": "12"}, "not signed", [link])
    for suffix in ("html", "md"):
        path = tmp_path / f"audit.{suffix}"
        write_certificate(path, audit)
        text = path.read_text()
        assert "<script>" not in text
        assert "<b>" not in text
        assert "c0ffee" in text
    assert r"\|" in text
    assert "\n| a\\|b | BROKEN |" in text
    done = CliRunner().invoke(app, ["audit", "1", "--report", str(tmp_path / "audit.pdf")])
    assert done.exit_code == 1
    assert "name a file that ends in .html or .md" in done.stderr


def test_a_threshold_whose_hash_was_edited_too_is_found(edit):
    policy, provenance = (
        model_file(f"artifacts/router/{name}.json") for name in ("policies/half", "provenance")
    )
    edit(policy, lower)
    document = json.loads(provenance.read_bytes())
    document["sha256"]["policies"]["half"] = file_sha256(policy)
    edit(provenance, lambda data: json.dumps(document).encode())
    assert broken() == ["router folder", "model folder"]


def test_swapped_weights_are_found(edit, project, checkpoints):
    edit(project / "weak.pt", lambda data: checkpoints["multilingual"].read_bytes())
    assert broken() == ["weak checkpoint"]


def test_data_that_is_elsewhere_is_said_to_be_unchecked(project):
    paths = [cached_file("data/labels.parquet"), cached_file("data/decider/encoder/curve.json")]
    for path in paths:
        path.rename(path.with_suffix(".away"))
    try:
        links = {link.name: link for link in chain(registered("1"))}
        for name in ("labels", "DVC's cache", "speakers seen"):
            assert links[name].holds is None
            assert "dvc pull" in links[name].remedy
        assert links["curves"].holds is True
        assert "not in DVC's cache" in links["curves"].detail
        done = CliRunner().invoke(app, ["audit", "1"])
        assert done.exit_code == 0
        assert "3 could not be checked here" in done.stdout
    finally:
        for path in paths:
            path.with_suffix(".away").rename(path)


@pytest.fixture
def tags(project):
    """Set tags of version 1 for one test."""
    client = MlflowClient()
    before = dict(client.get_model_version(MODEL, "1").tags)
    yield lambda **new: [client.set_model_version_tag(MODEL, "1", key, value) for key, value in new.items()]
    for key in client.get_model_version(MODEL, "1").tags:
        client.delete_model_version_tag(MODEL, "1", key)
    for key, value in before.items():
        client.set_model_version_tag(MODEL, "1", key, value)


@pytest.fixture
def sql(project):
    """Change MLflow's database behind its back for one test."""
    database = project / "mlruns/mlflow.db"
    before = database.read_bytes()

    def run(statement: str) -> None:
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            assert connection.execute(statement).rowcount > 0

    yield run
    MlflowClient()._tracking_client.store.engine.dispose()
    database.write_bytes(before)


@pytest.mark.parametrize(
    ("statement", "link"),
    [
        ("update params set value = '0.9' where key = 'policies.half.share'", "MLflow params"),
        ("update params set value = 'other' where key = 'router.policy'", "MLflow params"),
        ("delete from params where key = 'runtime.batch_size'", "MLflow params"),
        ("update metrics set value = 0.01 where key = 'encoder.dev_loss' and step = 0", "curves"),
        ("delete from metrics where key = 'encoder.train_loss' and step = 1", "curves"),
    ],
)
def test_edited_records_of_mlflow_are_found(sql, statement, link):
    sql(statement)
    assert broken() == [link]


def test_an_edited_figure_is_found(sql):
    run = MlflowClient().get_model_version(MODEL, "1").run_id
    MlflowClient().log_metric(run, "wer_routed", 0.01)
    assert broken() == ["figures"]


@pytest.mark.parametrize("tag", ["model_sha256", "artifacts_sha256", "dvc_lock_sha256"])
def test_a_tag_that_is_gone_is_found(tags, tag):
    MlflowClient().delete_model_version_tag(MODEL, "1", tag)
    assert broken()


@pytest.mark.parametrize("name", ["gate", "gate.improvement"])
def test_a_gate_tag_that_was_set_by_hand_is_found(tags, name):
    tags(**{name: "passed: well done"})
    assert broken() == ["gate"]


@pytest.fixture
def judged(tags, monkeypatch):
    """Version 1 as the gate leaves it after a contest with a champion that made more errors."""
    n = 240
    errors = np.random.default_rng(0).integers(0, 3, n)
    router = model_file("artifacts/router")
    sides = [
        Performance(made, np.full(n, 0.5), np.zeros(n, bool), router)
        for made in (errors + np.arange(n) % 2, errors)
    ]
    cut = pd.DataFrame({"corpus": np.where(np.arange(n) < n // 2, "calls", "talks")})
    arms = (errors + np.arange(n) % 2, errors)
    values = {"champion": 100.0, "challenger": 90.0, "weak": 50.0, "strong": 110.0}
    spent = {name: np.full(n, value) for name, value in values.items()}
    contest_ = Contest(*sides, np.arange(n) % 24, np.full(n, 10), *arms, spent, cut)
    with monkeypatch.context() as patch:
        patch.setattr(retraining, "champion", lambda client: "0")
        patch.setattr(
            retraining, "find_version", lambda client, version: client.get_model_version(MODEL, "1")
        )
        patch.setattr(retraining, "hold_contest", lambda found, current: contest_)
        yield retraining.apply_gate(MlflowClient(), "1", GateOptions())
    shutil.rmtree(run_file("gate"))


def test_a_verdict_is_judged_again(judged, tags, edit):
    assert [verdict.rule for verdict in judged] == [
        "size",
        "worth",
        "improvement",
        "slices",
        "guarantee",
        "latency",
    ]
    assert all(verdict.passed for verdict in judged)
    links = {link.name: link for link in chain(registered("1"))}
    assert links["gate"].holds
    assert links["gate's inputs"].holds
    assert broken() == []
    passed = MlflowClient().get_model_version(MODEL, "1").tags["gate.slices"]
    tags(**{"gate.slices": "passed: none of 3 slices rose"})
    assert broken() == ["gate"]
    tags(**{"gate.slices": passed})
    evidence = run_file("gate/gate.json")
    edit(evidence, lambda data: data.replace(b'"min_gap_gain": 0.02', b'"min_gap_gain": 0.0'))
    assert broken() == ["gate's inputs", "gate"]


def test_a_failure_that_was_relabelled_is_found(judged, tags, edit):
    table = pd.read_parquet(run_file("gate/contest.parquet"))
    table["challenger_errors"] = table["champion_errors"] + 1

    def write(data: bytes) -> bytes:
        return table.to_parquet(index=False)

    edit(run_file("gate/contest.parquet"), write)
    tags(gate_sha256=gate_seal(run_file("")))
    assert broken() == ["gate"]
    (link,) = [link for link in chain(registered("1")) if link.name == "gate"]
    assert "judged again 'failed" in link.detail


def test_a_model_registered_by_hand_is_found(project):
    client = MlflowClient()
    source = client.get_model_version(MODEL, "1").source
    version = client.create_model_version(MODEL, source).version
    try:
        assert {"model folder", "run artifacts", "git commit"} <= set(broken(str(version)))
    finally:
        client.delete_model_version(MODEL, str(version))


def test_an_amended_commit_is_found(project):
    head = git("rev-parse", "HEAD")
    git("commit", "-q", "--amend", "-m", "another")
    try:
        assert broken() == ["git commit"]
        (link,) = [link for link in chain(registered("1")) if link.name == "git commit"]
        assert "amended or rewritten" in link.detail
    finally:
        git("reset", "-q", "--hard", head)
    assert broken() == []


@pytest.fixture
def identity(monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")


def test_what_was_not_committed_is_uncommitted_until_register_commits_it(project, identity):
    head = git("rev-parse", "HEAD")
    Path("data/metrics/summary.json").write_text('{"wer_weak": 0.4}')
    write_lock()
    Path("params.yaml").write_text(PARAMS + "# mine\n")
    Path("README.md").write_text("not for this commit\n")
    told = CliRunner().invoke(app, ["register", "--json"])
    version = json.loads(told.stdout)["version"]
    try:
        assert "not committed: dvc.lock, params.yaml" in told.stderr
        assert "whisper-router register --commit" in told.stderr
        links = {link.name: link for link in chain(registered(version)) if link.holds is not True}
        assert set(links) == {"dvc.lock of the commit", "params.yaml"}
        assert {link.state for link in links.values()} == {UNCOMMITTED}
        assert all("register --commit" in link.remedy for link in links.values())
        done = CliRunner().invoke(app, ["audit", version])
        assert done.exit_code == 3
        assert "UNCOMMITTED: 2 of" in done.stdout
        again = CliRunner().invoke(app, ["register", "--commit", "--json"])
        made = json.loads(again.stdout)
        assert (made["version"], made["new"], made["uncommitted"]) == (version, False, [])
        assert git("show", "--name-only", "--format=").split() == ["dvc.lock", "params.yaml"]
        assert git("status", "--porcelain") == "?? README.md"
        done = CliRunner().invoke(app, ["audit", version])
        assert done.exit_code == 0, done.stdout
        assert commit_of(registered(version)) == git("rev-parse", "HEAD")
        git("commit", "-q", "--amend", "-m", "another", "--allow-empty")
        assert broken(version) == []  # found by what it holds
        Path("params.yaml").write_text("other: 1\n")
        git("commit", "-qam", "three")
        git("reset", "-q", "--soft", head)
        git("commit", "-qm", "squashed, with other params")
        states = {link.name: link.state for link in chain(registered(version)) if link.holds is not True}
        assert states == {"params.yaml": UNCOMMITTED}
    finally:
        git("reset", "-q", "--hard", head)
        Path("README.md").unlink()
        lay_out(project, model_file("artifacts/router"), Path("dvc.lock").read_text())
        for name in ("manifest", "transcripts"):
            Path(f"data/{name}.parquet").write_bytes(name.encode())
        MlflowClient().delete_model_version(MODEL, version)


def test_a_folder_whose_lock_is_not_committed_is_uncommitted(project, edit):
    router = Path("data/router")
    before = dvc_md5(router).encode()
    edit(router / "notes.json", added(b"{}"))
    assert "router folder" in [link.name for link in chain(packaged(router)) if link.holds is False]
    edit(Path("dvc.lock"), lambda data: data.replace(before, dvc_md5(router).encode()))
    states = {link.name: link.state for link in chain(packaged(router)) if link.state != "holds"}
    assert states == {"dvc.lock of the commit": UNCOMMITTED, "DVC's cache": "not checked"}


def test_an_outcome_of_its_own_is_listed_and_counted():
    links = [Link("a", True, "x"), Link("b", None, "floats", outcome="equal within 1e-3")]
    assert [link.name for link in sorted_links(links)] == ["b", "a"]
    assert cli_audit._sentence(links, [], []) == "1 of 2 links hold, 1 equal within 1e-3"


def test_commit_says_where_there_is_no_repository(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text("")
    with pytest.raises(UserError, match="not a git repository"):
        commit_state()


needs_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture
def keys(tmp_path) -> tuple[Path, Path]:
    """A private key, and the file of those that are trusted."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    allowed = tmp_path / "allowed"
    public = key.with_suffix(".pub").read_text()
    allowed.write_text(f'auditor@example.org namespaces="whisper-router" {public}')
    return key, allowed


def audited(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["audit", "1", "--json", *arguments])
    return done.exit_code, json.loads(done.stdout)


@needs_keygen
def test_a_signature_is_verified_and_its_absence_is_said(tags, keys, tmp_path):
    key, allowed = keys
    code, said = audited()
    assert code == 0
    assert said["signature"].startswith("not signed")
    code, said = audited("--allowed-signers", str(allowed))
    assert (code, said["links"][0]["name"]) == (1, "signature")
    done = CliRunner().invoke(app, ["sign", "champion", "--key", str(key)])
    assert done.exit_code == 0, done.stderr
    signed = json.loads(done.stdout.splitlines()[1])
    assert (signed["model"], signed["version"]) == (MODEL, "1")
    assert signed["git_commit"] == git("rev-parse", "HEAD")
    code, said = audited("--allowed-signers", str(allowed))
    assert (code, said["signature"]) == (0, "signed by auditor@example.org")
    code, said = audited()
    assert code == 0
    assert "no trusted keys are known here" in said["signature"]
    git("config", "gpg.ssh.allowedSignersFile", str(allowed))
    try:
        assert audited()[1]["signature"] == "signed by auditor@example.org"
    finally:
        git("config", "--unset", "gpg.ssh.allowedSignersFile")
    allowed.write_text(allowed.read_text().replace("whisper-router", "git"))
    code, said = audited("--allowed-signers", str(allowed))
    assert code == 1
    allowed.write_text("")
    code, said = audited("--allowed-signers", str(allowed))
    assert code == 1
    assert "by a key that" in said["signature"]


@needs_keygen
def test_a_coherent_rewrite_of_everything_breaks_the_signature_alone(tags, keys, edit):
    key, allowed = keys
    head, lock = git("rev-parse", "HEAD"), Path("dvc.lock").read_bytes()
    assert CliRunner().invoke(app, ["sign", "1", "--key", str(key)]).exit_code == 0
    policy, provenance, mlmodel = (
        model_file(name)
        for name in ("artifacts/router/policies/half.json", "artifacts/router/provenance.json", "MLmodel")
    )
    try:
        edit(policy, lower)
        document = json.loads(provenance.read_bytes())
        document["sha256"]["policies"]["half"] = file_sha256(policy)
        edit(provenance, lambda data: json.dumps(document).encode())
        router = policy.parents[1]
        old = dvc_md5(Path("data/router")).encode()
        rewritten = lock.replace(old, dvc_md5(router).encode())
        edit(Path("dvc.lock"), lambda data: rewritten)
        git("commit", "-qam", "one", "--amend")
        before = hashlib.sha256(lock).hexdigest().encode()
        after = hashlib.sha256(rewritten).hexdigest()
        edit(mlmodel, lambda data: data.replace(before, after.encode()))
        edit(run_file("dvc.lock"), lambda data: rewritten)
        recorded = read_json(run_file("recorded.json")) | {"model": file_hashes(model_file(""))}
        edit(run_file("recorded.json"), lambda data: json.dumps(recorded).encode())
        tags(
            dvc_lock_sha256=after,
            git_commit=git("rev-parse", "HEAD"),
            model_sha256=model_seal(model_file("")),
            artifacts_sha256=artifacts_seal(run_file("")),
        )
        assert broken() == []
        code, said = audited("--allowed-signers", str(allowed))
        assert code == 1
        assert [link["name"] for link in said["links"] if link["holds"] is False] == ["signature"]
        assert "has signed something else" in said["signature"]
    finally:
        git("reset", "-q", "--hard", head)


@needs_keygen
def test_what_does_not_hold_is_not_signed(tags, keys, edit):
    edit(model_file("pyfunc.py"), added(EVIL))
    done = CliRunner().invoke(app, ["sign", "1", "--key", str(keys[0])])
    assert done.exit_code == 1
    assert "is not signed, 2 links do not hold; first model folder: BROKEN: pyfunc.py" in done.stderr


def test_a_machine_without_ssh_keygen_says_so(tags, tmp_path, monkeypatch):
    tags(signature="-----BEGIN SSH SIGNATURE-----")
    (tmp_path / "allowed").write_text("")
    (tmp_path / "key").write_text("")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    code, said = audited("--allowed-signers", str(tmp_path / "allowed"))
    assert code == 1
    assert "ssh-keygen is not installed" in said["signature"]
    done = CliRunner().invoke(app, ["sign", "1", "--key", str(tmp_path / "key")])
    assert "ssh-keygen is not installed" in done.stderr


def test_artifacts_that_are_gone_are_said_to_be_gone_with_their_path(project):
    artifacts, model = run_file("").parent, model_file("")
    for folder, say in (
        (artifacts, lambda: next(ln.detail for ln in chain(registered("1")) if ln.name == "MLflow run")),
        (model, lambda: refused(lambda: registered("1"))),
        (model, lambda: refused(lambda: Router.load(f"models:/{MODEL}@champion"))),
        (model, lambda: refused(lambda: contest._Run.start("1", pd.DataFrame({"sha256": []}), project))),
    ):
        away = folder.with_name("away")
        folder.rename(away)
        try:
            said = say()
        finally:
            away.rename(folder)
        assert "gone" in said
        assert str(folder) in said
    with pytest.raises(UserError, match="is not in the registry"):
        Router.load(f"models:/{MODEL}@nobody")


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_a_copied_or_moved_project_is_not_registered_from(project, tmp_path, monkeypatch):
    here = tmp_path / "copy"
    shutil.copytree(project, here, symlinks=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/mlruns/mlflow.db")
    old = project / "mlruns/artifacts"
    said = refused(register)
    assert f"writes artifacts to {old}, which is outside of this project: it is a copy" in said
    old.rename(project / "mlruns/away")
    try:
        said = refused(register)
        assert "this project was moved" in said
        command = re.search(r"`(mkdir .*?)`", said)
        assert command
        subprocess.run(command[1], shell=True, check=True)
        assert register().new is False
    finally:
        if old.is_symlink():
            old.unlink()
        (project / "mlruns/away").rename(old)


def test_first_difference_names_the_place():
    before = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert first_difference(before, before) is None
    assert first_difference(before, {"a": {"b": 1, "c": [1, 3]}, "d": 4}) == "a.c: [1, 2] before, [1, 3] now"
    assert first_difference(before, {"a": before["a"]}) == "d: 3 before, None now"

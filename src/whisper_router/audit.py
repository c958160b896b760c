"""From a served version back to everything it was made of, link by link.

Each link compares two records that were written apart: the registry's tags, the run's artifacts, the
model's files, git's blobs, dvc.lock, DVC's cache, the checkpoints. A link that cannot be checked says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from whisper_router import git
from whisper_router.asr.reference import arm_references
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audit_run import run_links
from whisper_router.audited import (
    BROKEN,
    HOLDS,
    UNCHECKED,
    UNCOMMITTED,
    Link,
    Subject,
    cached,
    cached_folder,
    code_differences,
    code_record,
    commit_of,
    dvc_md5,
    equal,
    file_md5,
    first_difference,
    lock_of,
    lock_outputs,
    named,
    packaged,
    registered,
    sha256,
    uncommitted,
)
from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.hashing import file_sha256, folder_sha256
from whisper_router.params import load_yaml
from whisper_router.promotion import MODEL
from whisper_router.registry import LOCK
from whisper_router.router import WEIGHTS
from whisper_router.seal import (
    MODEL_TAG,
    RECORDED,
    SIGNATURE,
    artifacts_seal,
    file_hashes,
    gate_seal,
    model_seal,
    statement,
    verify,
)

__all__ = [
    "BROKEN",
    "HOLDS",
    "UNCHECKED",
    "UNCOMMITTED",
    "Link",
    "Subject",
    "chain",
    "commit_of",
    "dvc_md5",
    "first_difference",
    "lock_of",
    "lock_outputs",
    "packaged",
    "registered",
    "sorted_links",
]

TABLES = {name: f"data/{name}.parquet" for name in ("manifest", "transcripts", "labels")}
STATES = (BROKEN, UNCOMMITTED, UNCHECKED, HOLDS)  # the gravest first; another outcome stands before HOLDS
REBUILD = (
    "do not serve it (`whisper-router rollback`); `git checkout COMMIT && dvc checkout` has what was made, "
    "`whisper-router run` makes it again"
)
DATA = "`dvc pull --force` at that commit, or `whisper-router run` makes it again"
HISTORY = "find out who rewrote the history; a version that is registered from the new commit is another"


def chain(subject: Subject) -> list[Link]:
    """Every link of a version: router, policy, data and code first, then what is shown, then its commit."""
    if not (subject.router / "provenance.json").is_file():
        return [
            Link(
                "provenance",
                False,
                "the model has no provenance.json: it was not made by the DAG",
                "`whisper-router run`, then `whisper-router register`",
            )
        ]
    lock = lock_of(subject)
    links = [*_router(subject, lock), *_model(subject), *_checkpoints(subject)]
    if subject.model is not None:
        links += run_links(subject, lock)
    commit = (commit_of(subject) or "COMMIT")[:12]
    links = [replace(link, remedy=link.remedy.replace("COMMIT", commit)) for link in links]
    return [*links, *_commit(subject)]


def sorted_links(links: Sequence[Link]) -> list[Link]:
    """The gravest first; within a state, in the chain's order."""
    rank = {state: place for place, state in enumerate(STATES)}
    return sorted(links, key=lambda link: rank.get(link.state, len(STATES) - 1.5))


def _router(subject: Subject, lock: bytes | None) -> Iterator[Link]:
    expected = read_json(subject.router / "provenance.json")["sha256"]
    decider = subject.router / "decider"
    policies = expected.get("policies", {})
    for name in sorted({*policies, *(path.stem for path in subject.router.glob("policies/*.json"))}):
        policy = subject.router / "policies" / f"{name}.json"
        yield equal(
            f"policy {name}",
            file_sha256(policy) if policy.is_file() else None,
            policies.get(name),
            f"policies/{name}.json",
            "provenance.json",
            REBUILD,
        )
    yield equal(
        "decider",
        folder_sha256(decider) if decider.is_dir() else None,
        expected.get("decider"),
        "decider/",
        "provenance.json",
        REBUILD,
    )
    if lock is None:
        yield Link("router folder", False, "no dvc.lock names it: changed, or not made by the DAG", REBUILD)
        return
    outputs = lock_outputs(lock)
    yield equal(
        "router folder",
        dvc_md5(subject.router),
        outputs.get("data/router"),
        "the model's router/",
        "dvc.lock",
        REBUILD,
    )
    for name, path in TABLES.items():
        yield _table(name, outputs.get(path), expected.get(name))
    yield _cache({path: md5 for path, md5 in outputs.items() if path not in TABLES.values()})


def _table(name: str, md5: str | None, sha: str | None) -> Link:
    """A stage's table: dvc.lock knows its MD5, provenance.json its SHA-256; DVC's cache has the file."""
    if md5 is None or sha is None:
        return Link(name, False, f"{'dvc.lock' if md5 is None else 'provenance.json'} does not name it", DATA)
    path = cached(md5)
    if not path.is_file():
        return Link(name, None, f"{md5[:12]} is not in DVC's cache", "`dvc pull` at that commit")
    if file_md5(path) != md5:
        return Link(
            name, False, f"{path} was changed: its MD5 is not {md5[:12]}", f"`rm {path}`, then {DATA}"
        )
    return equal(name, file_sha256(path), sha, "the file that dvc.lock names", "provenance.json", REBUILD)


def _cache(outputs: dict[str, str]) -> Link:
    """Every other output in DVC's cache, folders with each of their files, against its own name."""
    name, missing, changed, files = "DVC's cache", [], [], 0
    for path, md5 in outputs.items():
        wanted = {path: md5}
        if md5.endswith(".dir") and cached(md5).is_file():
            listing = cached_folder(md5)
            if listing is None:
                changed.append((path, cached(md5)))
                continue
            wanted = {f"{path}/{inside}": its for inside, its in listing.items()}
        for inside, its in wanted.items():
            if not cached(its).is_file():
                missing.append(inside)
            elif file_md5(cached(its)) != its:
                changed.append((inside, cached(its)))
            else:
                files += 1
    if changed:
        detail = f"{named([f'{inside} ({path})' for inside, path in changed])} was changed in the cache"
        return Link(name, False, detail, f"`rm {changed[0][1]}`, then {DATA}")
    if missing:
        return Link(name, None, f"{named(missing)} not there", "`dvc pull` at that commit")
    return Link(name, True, f"{files} files of {len(outputs)} outputs are what dvc.lock says")


def _model(subject: Subject) -> Iterator[Link]:
    """The whole folder that is executed, and what MLflow makes of it."""
    if subject.model is None:
        return
    found, tag = model_seal(subject.model), subject.tags.get(MODEL_TAG)
    link = equal("model folder", found, tag, "the model's folder", "the version's tag", REBUILD)
    recorded = subject.artifacts / RECORDED if subject.artifacts is not None else None
    if link.holds is False and tag is not None and recorded is not None and recorded.is_file():
        before, now = read_json(recorded)["model"], file_hashes(subject.model)
        differ = [
            f"{name} ({'not registered' if name not in before else 'edited' if name in now else 'missing'})"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        said = named(differ) or "as recorded, but the tag says otherwise"
        stale = [name for name in now if name not in before and "__pycache__" in name]
        remedy = f"bytecode may be executed: `rm -r {(subject.model / stale[0]).parent}`; " if stale else ""
        link = replace(link, detail=said, remedy=remedy + REBUILD)
    yield link
    yield _mlmodel(subject, subject.model / "MLmodel")


def _mlmodel(subject: Subject, path: Path) -> Link:
    """What MLflow is told to load: the registered code, from the registered router, and nothing else."""
    if not path.is_file():
        return Link("MLmodel", False, "the model has no MLmodel", REBUILD)
    try:
        told = load_yaml(path, str(path))
        flavours, metadata = told["flavors"], told["metadata"] or {}
        function = flavours["python_function"]
        found = {
            "flavors": sorted(flavours),
            "loader_module": function["loader_module"],
            "code": function["code"],
            "python_model": (function["model_code_path"] or "").rpartition("/")[2],
            "artifacts": {name: entry["path"] for name, entry in function["artifacts"].items()},
            "dvc_lock_sha256": metadata.get("dvc_lock_sha256"),
        }
    except (UserError, KeyError, TypeError, AttributeError) as error:
        return Link("MLmodel", False, f"MLmodel is not what MLflow wrote: {error!r}", REBUILD)
    wanted = {
        "flavors": ["python_function"],
        "loader_module": "mlflow.pyfunc.loaders.code_model",
        "code": "code",
        "python_model": "pyfunc.py",
        "artifacts": {"router": "artifacts/router"},
        "dvc_lock_sha256": subject.tags.get("dvc_lock_sha256"),
    }
    differ = [key for key in wanted if found[key] != wanted[key]]
    if differ:
        first = differ[0]
        return Link("MLmodel", False, f"{first} is {found[first]!r}, should be {wanted[first]!r}", REBUILD)
    return Link("MLmodel", True, "it loads the registered code and router, of the version's dvc.lock")


def _checkpoints(subject: Subject) -> Iterator[Link]:
    description = read_json(subject.router / "router.json")
    recorded = read_json(subject.router / "provenance.json")["checkpoints"]
    arms = {name: description[name] for name in ("weak", "strong")}
    for arm, reference in arm_references(arms).items():
        name = f"{arm} checkpoint"
        if recorded.get(arm, {}).get("sha256") != reference.sha256:
            yield Link(name, False, "router.json and provenance.json name different weights", REBUILD)
            continue
        if (subject.router / WEIGHTS).is_dir():
            yield Link(name, None, "embedded; the Router checks them as it loads")
            continue
        try:
            found = find_checkpoint(reference.model)
        except UserError as error:
            yield Link(name, None, f"{reference.model} is not available here: {error}")
            continue
        remedy = f"put the checkpoint with SHA-256 {reference.sha256} in place of {found.path}"
        yield equal(name, found.sha256, reference.sha256, f"{reference.model} here", "router.json", remedy)


def _commit(subject: Subject) -> Iterator[Link]:
    commit, recorded = commit_of(subject), subject.tags.get("git_commit")
    if commit is None or commit == "none":
        yield Link(
            "git commit",
            False,
            "no commit is recorded: it was registered by hand, or outside of git",
            "commit the project and register its next state; a version without a commit cannot be traced",
        )
        return
    if git.ask("cat-file", "-e", f"{commit}^{{commit}}") is None:
        detail = f"{commit[:12]} is not in this repository"
        yield Link("git commit", False, detail, f"`git fetch`; if it is nowhere any more: {HISTORY}")
        return
    on = git.text("for-each-ref", "--contains", commit, "--count=1", "--format=%(refname:short)")
    if not on and git.ask("merge-base", "--is-ancestor", commit, "HEAD") is None:
        detail = f"{commit[:12]} is on no branch or tag: it was amended or rewritten after the registration"
        yield Link("git commit", False, detail, f"`git branch audited {commit[:12]}` keeps it; {HISTORY}")
    else:
        late = "" if commit == recorded else ": it took in what was not committed at the registration"
        yield Link("git commit", True, f"{commit[:12]} is on {on or 'HEAD'}{late}")
    for path, link in _parts_of(subject, commit):
        yield _not_yet(subject, link) if link.holds is False and path in uncommitted(subject) else link


def _parts_of(subject: Subject, commit: str) -> Iterator[tuple[str, Link]]:
    """Each path of the repository that the version came from, and its link."""
    again = f"`git checkout {commit[:12]}` has the one that was registered; do not serve this one"
    lock = git.ask("show", f"{commit}:dvc.lock")
    yield (
        "dvc.lock",
        equal(
            "dvc.lock of the commit",
            None if lock is None else sha256(lock),
            subject.tags.get("dvc_lock_sha256"),
            "dvc.lock of the commit",
            "the version's tag",
            again,
        ),
    )
    environment = git.ask("show", f"{commit}:requirements.lock")
    provenance = read_json(subject.router / "provenance.json")["sha256"]
    link = equal(
        "environment",
        None if environment is None else sha256(environment),
        provenance.get("requirements.lock"),
        "requirements.lock of the commit",
        "provenance.json",
        again,
    )
    yield "requirements.lock", link
    if subject.model is not None:
        yield "requirements.lock", _pins(subject.model, environment or b"", again)
        differ = code_differences(subject.model, commit)
        said = named(differ) or "all that may be executed is as the commit has it"
        yield code_record(commit), Link("code", not differ, said, again if differ else "")
    for name in ("params.yaml", "dvc.yaml"):
        if subject.artifacts is None:
            continue
        path, committed = subject.artifacts / name, git.ask("show", f"{commit}:{name}")
        link = equal(
            name,
            file_sha256(path) if path.is_file() else None,
            None if committed is None else sha256(committed),
            f"{name} of the run",
            "the commit",
            again,
        )
        yield name, link


def _pins(model: Path, environment: bytes, remedy: str) -> Link:
    """What serving installs, against the commit's environment."""
    path, name = model / "requirements.txt", "requirements.txt"
    if not path.is_file():
        return Link(name, False, "the model has no requirements.txt", remedy)
    known = {line.split(";")[0].split("+")[0].strip().lower() for line in environment.decode().splitlines()}
    pins = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    differ = [pin for pin in pins if pin.lower() not in known]
    if differ:
        return Link(name, False, f"{named(differ)}: not in requirements.lock of the commit", remedy)
    return Link(name, True, f"{len(pins)} pins are those of requirements.lock of the commit")


def _not_yet(subject: Subject, link: Link) -> Link:
    """A link to what was not committed when the version was registered, and still is not."""
    others = [path for path in uncommitted(subject) if path not in ("dvc.lock", "params.yaml")]
    commit = f"`git add {' '.join(others)} && git commit`, then " if others else ""
    wanted = subject.tags.get("dvc_lock_sha256")
    if LOCK.is_file() and file_sha256(LOCK) == wanted:
        remedy = f"{commit}`whisper-router register --commit`"
    else:
        files = f"{subject.artifacts}/dvc.lock {subject.artifacts}/params.yaml"
        remedy = (
            f"{commit}`cp {files} . && git add dvc.lock params.yaml && git commit -m 'dvc.lock of version "
            f"{subject.version}' -- dvc.lock params.yaml`"
        )
    detail = f"not committed when it was registered, nor since: {link.detail}"
    return Link(link.name, None, detail, remedy, UNCOMMITTED)


def statement_of(subject: Subject) -> bytes:
    """What a signature of this version says: the hashes of what is found now, none that a tag claims.

    Raises
    ------
    UserError
        It has no commit, or its run's artifacts are gone.
    """
    commit = commit_of(subject)
    if subject.model is None or subject.version is None or commit is None or subject.artifacts is None:
        raise UserError(
            f"{subject.title} cannot be signed: it takes a registered version with a commit and a run"
        )
    lock = sha256(git.ask("show", f"{commit}:dvc.lock") or b"")
    artifacts, gate = artifacts_seal(subject.artifacts), gate_seal(subject.artifacts)
    return statement(MODEL, subject.version, commit, lock, model_seal(subject.model), artifacts, gate)


def signature_of(subject: Subject, allowed: Path | None, demanded: bool) -> tuple[Link | None, str]:
    """The link of a signature, if there is one or one is demanded; and its state in a sentence."""
    if subject.version is None:
        said = "not signed: a folder carries no signature, a registered version may"
        return (Link("signature", False, said, "audit the version") if demanded else None), said
    sign = f"`whisper-router sign {subject.version} --key FILE`, by somebody who does not write the registry"
    signature = subject.tags.get(SIGNATURE)
    if signature is None:
        said = "not signed: whoever can write registry and repository could have rewritten all of it together"
        return (Link("signature", False, said, sign) if demanded else None), said
    if allowed is None:
        said = "signed, but no trusted keys are known here"
        return Link(
            "signature", None, said, "`--allowed-signers FILE`, or git's gpg.ssh.allowedSignersFile"
        ), said
    try:
        holds, said = verify(statement_of(subject), signature, allowed)
    except UserError as error:
        holds, said = False, str(error)
    if holds is None:
        return Link("signature", False if demanded else None, said, "install OpenSSH"), said
    remedy = f"do not serve it; what is right again is signed by {sign}"
    return Link("signature", holds, said, "" if holds else remedy), said

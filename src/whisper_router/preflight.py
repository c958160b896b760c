"""Whether a retraining can go through to its end: checked in its first seconds, not after its work."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from whisper_router import git
from whisper_router.errors import UserError, without_passwords
from whisper_router.intake import (
    IntakeError,
    complete_batches,
    corpus_folder,
    dvc_file,
    require_trackable,
    within_project,
)
from whisper_router.params import Params, ParamsError, load_params
from whisper_router.retrain_options import WEBHOOK, webhook
from whisper_router.retrain_state import BRANCH, RetrainError, foreign_changes, own_files

LIMIT_S = 10.0  # for all checks together: a mount or a name server may not answer
FILES = ("credentialpath", "configpath", "keyfile", "cert_path", "key_path")  # that a remote's settings name


class NotReadyError(UserError):
    """One check does not hold; the message says what to do."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    holds: bool
    detail: str  # with the remedy, where it does not hold

    def __str__(self) -> str:
        return f"{'ok  ' if self.holds else 'FAIL'}  {self.name:<8}  {self.detail}"


def check() -> list[Finding]:
    """Everything that a retraining needs besides its audio: one finding per check, all of them."""
    try:
        params = load_params()
    except ParamsError as error:
        refused = Finding("params", False, _one_line(error))
        return [refused, *_look({"identity": _identity, "webhook": _webhook})]
    return _look(
        {
            "branch": partial(_branch, params.retrain.branch),
            "identity": _identity,
            "tree": partial(_tree, params),
            "drop": partial(_drop, params.retrain.drop),
            "corpus": partial(_corpus, params),
            "remote": partial(_remote, params.retrain.remote),
            "webhook": _webhook,
        }
    )


def require_ready() -> None:
    """Check, and refuse where something does not hold.

    Raises
    ------
    RetrainError
        With all that does not hold.
    """
    failed = [f"  {finding.name}: {finding.detail}" for finding in check() if not finding.holds]
    if failed:
        raise RetrainError("\n".join(["a retraining would not get through:", *failed]))


def _one_line(error: object) -> str:
    return " ".join(without_passwords(str(error)).split())


def _look(checks: dict[str, Callable[[], str]]) -> list[Finding]:
    """Run checks beside each other, none of them longer than ``LIMIT_S``."""
    found: dict[str, Finding] = {}

    def look(name: str, run: Callable[[], str]) -> None:
        try:
            found[name] = Finding(name, True, without_passwords(run()))
        except (UserError, OSError) as error:
            found[name] = Finding(name, False, _one_line(error))

    threads = [Thread(target=look, args=item, daemon=True) for item in checks.items()]
    deadline = time.monotonic() + LIMIT_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = (
        f"no answer within {LIMIT_S:g} s: see that the disk or host behind it is reachable, and check again"
    )
    return [found.get(name, Finding(name, False, silent)) for name in checks]


def _branch(trunk: str) -> str:
    if not git.text("rev-parse", "--absolute-git-dir"):
        raise NotReadyError(f"{Path.cwd()} is not in a git repository: `git init -b {trunk}`, and commit")
    if not git.text("rev-parse", "HEAD", "--"):
        raise NotReadyError(
            "the repository has no commit, which a version must come from: commit the project"
        )
    branch = git.text("branch", "--show-current")
    if not git.text("rev-parse", "--verify", f"refs/heads/{trunk}"):
        raise NotReadyError(
            f"there is no branch {trunk}, which retrain.branch in params.yaml names: `git branch {trunk}`, "
            "or name another there"
        )
    if branch.startswith(BRANCH):
        return f"{branch}: a retraining that did not end is continued"
    if branch != trunk:
        raise NotReadyError(
            f"the project is on {branch or 'no branch'}, a retraining starts from {trunk}: "
            f"`git switch {trunk}`, or name another as retrain.branch in params.yaml"
        )
    return f"{trunk}; a retraining commits on {BRANCH}<hash of dvc.lock> and merges here what passes the gate"


def _identity() -> str:
    for kind in ("COMMITTER", "AUTHOR"):
        try:
            said = git.do("var", f"GIT_{kind}_IDENT")
        except UserError as error:
            raise NotReadyError(
                "git does not know who commits: `git config user.name NAME` and "
                "`git config user.email ADDRESS`, for the user that retrains"
            ) from error
    return said.rpartition(">")[0] + ">"


def _tree(params: Params) -> str:
    if not git.text("rev-parse", "HEAD", "--"):
        raise NotReadyError("nothing is committed: commit the project, dvc.lock and params.yaml among it")
    changed = foreign_changes(own_files(_tracked(params)))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise NotReadyError(
            f"not committed: {', '.join(changed[:3])}{more}; a version must come from a commit: commit them, "
            "or undo them (`git restore`)"
        )
    return "clean"


def _tracked(params: Params) -> Path | None:
    """The .dvc file of the corpus that grows; None where there is no such corpus in the project."""
    try:
        folder = corpus_folder(params)
    except IntakeError:
        return None
    return dvc_file(folder) if within_project(folder) else None


def _drop(drop: str | None) -> str:
    if drop is None:
        return "retrain.drop is not set: no new audio is taken in"
    folder = Path(drop)
    if folder.is_dir() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise NotReadyError(
            f"{drop} cannot be read and written by this user, and batches are moved out of it: "
            "`chmod u+rwx` or `chown` it"
        )
    count = len(complete_batches(folder))
    return f"{drop}; {'1 batch waits' if count == 1 else f'{count} batches wait'}"


def _corpus(params: Params) -> str:
    if params.retrain.corpus is None and params.retrain.drop is None:
        said = "retrain.corpus is not set: none grows"
    else:
        folder = corpus_folder(params)
        require_trackable(folder)
        _require_untracked_by_git(folder)
        said = f"{folder}; tracked as {dvc_file(folder)}"
    root = Path(params.ingest.root)
    others = [corpus for corpus in params.ingest.corpora if corpus.name != params.retrain.corpus]
    outside = [corpus.name for corpus in others if not within_project(root / corpus.path)]
    return f"{said}; outside of the project, so on no remote: {', '.join(outside)}" if outside else said


def _require_untracked_by_git(folder: Path) -> None:
    """Git must have the corpus's .dvc file, and nothing of the corpus itself."""
    if git.text("ls-files", "--", str(folder)):
        raise NotReadyError(
            f"git tracks files of {folder}, so that DVC cannot: `git rm -rq --cached {folder}`, and commit"
        )
    tracked = str(dvc_file(folder))
    if git.ask("check-ignore", "--quiet", "--", tracked) is not None:
        rule = git.text("check-ignore", "--verbose", "--", tracked).partition("\t")[0]
        raise NotReadyError(f"git ignores {tracked} by {rule}: add !{Path(tracked).name} below that line")


def _remote(wanted: str | None) -> str:
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.fs import get_cloud_fs, get_fs_config

    if not Path(".dvc/config").is_file():
        raise NotReadyError(f"{Path.cwd()} is not a DVC project: `dvc init`, and commit")
    try:
        config = Config(".dvc")
    except DvcException as error:
        raise NotReadyError(f"DVC cannot read its configuration: {error}; correct .dvc/config") from error
    known, name = sorted(config["remote"]), wanted or config["core"].get("remote")
    if not known and not name:
        return "none is configured: data stays in this project's cache; `dvc remote add -d NAME URL` adds one"
    if name is None:
        raise NotReadyError(
            f"none of the DVC remotes ({', '.join(known)}) is the default: `dvc remote default {known[0]}`, "
            "or name one as retrain.remote in params.yaml"
        )
    if name.lower() not in known:
        raise NotReadyError(
            f"there is no DVC remote {name} (there is {', '.join(known) or 'none'}): "
            f"`dvc remote add {name} URL`, or name another as retrain.remote in params.yaml"
        )
    url = config["remote"][name.lower()]["url"]
    _require_unattended(name, get_fs_config(config, name=name))
    try:
        kind, settings, path = get_cloud_fs(config, name=name)
        if kind.protocol == "local":
            _require_folder(name, Path(path))
        else:
            kind(**settings).fs_args  # noqa: B018  asks for what this kind of remote needs to log in
            if kind.protocol == "s3":
                _require_aws_credentials(name, settings)
    except UserError:
        raise
    except Exception as error:  # of whatever plugin of DVC
        raise NotReadyError(f"DVC cannot use remote {name} ({url}): {error}{_plugin(url, error)}") from error
    return f"{name}: {url}"


def _plugin(url: str, error: Exception) -> str:
    if not isinstance(error, ImportError):
        return "; `dvc remote modify` sets it right"
    return f"; `pip install 'dvc[{urlsplit(url).scheme.replace('webdavs', 'webdav')}]'`"


def _require_unattended(name: str, settings: dict[str, Any]) -> None:
    """Whether a remote's settings name files that are there, and no question to a person."""
    modify = f"`dvc remote modify --local {name}"
    for asks in ("ask_password", "ask_passphrase"):
        secret = asks.removeprefix("ask_")
        if settings.get(asks):
            raise NotReadyError(
                f"DVC remote {name} asks for its {secret}, and nobody is there to type it: "
                f"{modify} {secret} ...`, and `dvc remote modify {name} {asks} false`"
            )
    for key in FILES:
        if settings.get(key) and not Path(settings[key]).expanduser().is_file():
            raise NotReadyError(
                f"DVC remote {name}: {settings[key]} is no file: put it there, or {modify} {key} FILE`"
            )


def _require_folder(name: str, folder: Path) -> None:
    if not folder.is_dir():
        raise NotReadyError(f"DVC remote {name}: {folder} is not a folder: mount it, or `mkdir -p {folder}`")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise NotReadyError(
            f"DVC remote {name}: {folder} cannot be written by this user: `chmod u+rwx` or `chown` it"
        )


def _require_aws_credentials(name: str, settings: dict[str, Any]) -> None:
    if not _has_aws_credentials(settings):
        raise NotReadyError(
            f"DVC remote {name} has no AWS credentials: `dvc remote modify --local {name} profile NAME`, "
            "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def _has_aws_credentials(settings: dict[str, Any]) -> bool:
    """Whether boto finds some: in the settings, the environment, its files, or as the machine's role."""
    from botocore.session import Session

    if settings.get("allow_anonymous_login"):
        return True
    if settings.get("access_key_id"):
        return bool(settings.get("secret_access_key"))
    session = Session(profile=settings.get("profile"))
    if settings.get("credentialpath"):
        session.set_config_variable("credentials_file", settings["credentialpath"])
    return session.get_credentials() is not None


def _webhook() -> str:
    secret = webhook()
    if secret is None:
        return f"{WEBHOOK} is not set: nobody is told"
    try:
        url = urlsplit(secret.get_secret_value())
        host, port = url.hostname, url.port
    except ValueError:
        host = None
    if not host:
        raise NotReadyError(f"{WEBHOOK} is not a valid URL: it has no host, or no port that is a number")
    proxy = None if proxy_bypass(host) else getproxies().get(url.scheme)
    if proxy:
        through = urlsplit(proxy if "://" in proxy else f"//{proxy}")
        host, port = through.hostname or "", through.port
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError):
        what = f"the proxy in front of {WEBHOOK}" if proxy else f"the host of {WEBHOOK}"
        raise NotReadyError(
            f"{what} has no address: correct the URL, or this machine's name server"
        ) from None
    return f"{WEBHOOK} is set, and its host has an address"

"""Which version serves: champion, its history, promotion, rollback, comparison.

The alias moves at once. Every move is kept as a tag ``champion.<number>`` of the registered model.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from whisper_router.errors import UserError
from whisper_router.serving.uri import use_registry

MODEL = "whisper-router"
CHAMPION = "champion"
VERDICT = "gate"  # tag of a version: passed, or failed
RULE = "gate."  # prefix of the tags with each rule's verdict
WORTH, LEANING, SAYS = "verdict", "verdict.leaning", "verdict.says"  # tags: whether routing is worth it
_MOVE = "champion."

Action = Literal["register", "promote", "rollback"]


@dataclass(frozen=True)
class Move:
    """One move of the alias."""

    at: str  # UTC, ISO 8601
    action: Action
    version: str
    previous: str | None
    reason: str


def registry() -> MlflowClient:
    """A client of the project's registry."""
    use_registry()
    return MlflowClient()


def champion(client: MlflowClient) -> str | None:
    """The version that serves; None before the first."""
    try:
        version = client.get_registered_model(MODEL).aliases.get(CHAMPION)
    except MlflowException:
        return None
    return None if version is None else str(version)


def history(client: MlflowClient) -> list[Move]:
    """All moves of the alias, the oldest first."""
    tags = client.get_registered_model(MODEL).tags
    numbers = sorted(int(key.removeprefix(_MOVE)) for key in tags if key.startswith(_MOVE))
    return [Move(**json.loads(tags[f"{_MOVE}{number}"])) for number in numbers]


def move_champion(client: MlflowClient, version: str, action: Action, reason: str) -> Move:
    """Move the alias and keep the move."""
    move = Move(datetime.now(UTC).isoformat(timespec="seconds"), action, version, champion(client), reason)
    number = len(history(client)) + 1
    client.set_registered_model_alias(MODEL, CHAMPION, version)
    client.set_registered_model_tag(MODEL, f"{_MOVE}{number}", json.dumps(asdict(move)))
    return move


def find_version(client: MlflowClient, version: str) -> ModelVersion:
    """A version by number or alias.

    Raises
    ------
    UserError
        There is none.
    """
    try:
        if version.isdecimal():
            return client.get_model_version(MODEL, version)
        return client.get_model_version_by_alias(MODEL, version)
    except MlflowException as error:
        known = ", ".join(str(row.version) for row in _versions(client)) or "none yet"
        raise UserError(
            f"{MODEL} has no version or alias {version!r}; versions: {known} (`whisper-router models`)"
        ) from error


def _versions(client: MlflowClient) -> list[ModelVersion]:
    found = client.search_model_versions(f"name='{MODEL}'")
    return sorted(found, key=lambda entry: int(entry.version))


def promote(version: str, reason: str, force: bool = False) -> Move | None:
    """Let a version serve; None where it serves already.

    Raises
    ------
    UserError
        No such version, or one that failed the gate or whose verdict is not to route, unless ``force``.
    """
    client = registry()
    found = find_version(client, version)
    number = str(found.version)
    if champion(client) == number:
        return None
    if found.tags.get(VERDICT) == "failed" and not force:
        failed = [
            f"{key.removeprefix(RULE)}: {value.removeprefix('failed: ')}"
            for key, value in sorted(found.tags.items())
            if key.startswith(RULE) and value.startswith("failed")
        ]
        raise UserError(
            f"{MODEL} version {number} failed the gate; --force promotes it all the same.\n  "
            + "\n  ".join(failed)
        )
    if found.tags.get(LEANING, "route") != "route" and not force:
        raise UserError(
            f"{MODEL} version {number} is not worth serving; --force promotes it all the same.\n  "
            f"VERDICT: {found.tags[SAYS]}"
        )
    return move_champion(client, number, "promote", reason)


def served_before(moves: Sequence[Move], current: str) -> list[str]:
    """Versions that a rollback from ``current`` goes back to, the nearest last.

    A rollback takes its version off; a move by hand, which left no record, counts as a promotion.
    """
    stack: list[str] = []
    for move in moves:
        if move.previous is not None and (not stack or stack[-1] != move.previous):
            stack.append(move.previous)
        if move.action == "rollback":
            while stack and stack[-1] != move.version:
                stack.pop()
        if not stack or stack[-1] != move.version:
            stack.append(move.version)
    if not stack or stack[-1] != current:
        stack.append(current)
    return stack[:-1]


def rollback(reason: str) -> Move:
    """Let the version serve that served before; the next rollback goes one further back.

    Raises
    ------
    UserError
        Nothing served before.
    """
    client = registry()
    current = champion(client)
    if current is None:
        raise UserError(f"{MODEL} has no {CHAMPION}; run `whisper-router register`")
    before = served_before(history(client), current)
    if not before:
        raise UserError(f"{MODEL} version {current} is the first {CHAMPION}: there is none to go back to")
    find_version(client, before[-1])
    return move_champion(client, before[-1], "rollback", reason)


KEY_FIGURES = ("wer_weak", "wer_strong", "wer_routed", "strong_share", "gap_recovered", "saving_macs")


def describe(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    """What `whisper-router models` shows of a version."""
    run = client.get_run(version.run_id) if version.run_id else None
    metrics = run.data.metrics if run else {}
    return {
        "version": str(version.version),
        "aliases": list(version.aliases),
        "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(
            timespec="seconds"
        ),
        "verdict": version.tags.get(WORTH),
        "verdict_says": version.tags.get(SAYS),
        "gate": version.tags.get(VERDICT),
        "rules": {
            key.removeprefix(RULE): value
            for key, value in sorted(version.tags.items())
            if key.startswith(RULE)
        },
        "policy": run.data.tags.get("policy") if run else None,
        "reference": run.data.tags.get("reference", "text") if run else None,
        "git_commit": version.tags.get("git_commit"),
        "weights": version.tags.get("weights"),
        **{name: metrics.get(name) for name in KEY_FIGURES},
    }


def models() -> list[dict[str, Any]]:
    """All versions with aliases, verdicts and key numbers; the newest last."""
    client = registry()
    current = champion(client)
    rows = [describe(client, version) for version in _versions(client)]
    for row in rows:  # a search does not fill in the aliases
        row["aliases"] = [CHAMPION] if row["version"] == current else row["aliases"]
    return rows


def compare(a: str, b: str) -> dict[str, list[tuple[str, Any, Any]]]:
    """What differs between two versions: (name, of a, of b) of verdicts, metrics and params.

    Metrics are all listed where the versions share them; params where they differ.
    """
    client = registry()
    runs, says = [], []
    for version in (a, b):
        found = find_version(client, version)
        if not found.run_id:
            raise UserError(f"{MODEL} version {found.version} has no run: it was registered by hand")
        runs.append(client.get_run(found.run_id).data)
        says.append(found.tags.get(SAYS))
    metrics, params = ([getattr(run, kind) for run in runs] for kind in ("metrics", "params"))
    return {"verdict": [("verdict", *says)]} | {
        kind: [
            (name, first.get(name), second.get(name))
            for name in sorted({*first, *second})
            if kind == "metrics" or first.get(name) != second.get(name)
        ]
        for kind, (first, second) in (("metrics", metrics), ("params", params))
    }

"""The flow of a retraining: new audio -> the DAG -> a version -> the gate -> the champion, or not."""

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Completed

from whisper_router import environment, intake, retraining, trigger
from whisper_router.files import read_json
from whisper_router.gate import Verdict
from whisper_router.params import Params, load_params
from whisper_router.paths import METRICS
from whisper_router.preflight import require_ready
from whisper_router.promotion import registry
from whisper_router.registry import known_version, register
from whisper_router.retrain_state import Outcome, alone, errors_kept, keep


@task(name="take-in", cache_policy=NO_CACHE)
def take_in(params: Params) -> Path | None:
    """New audio of the drop folder into its corpus; its .dvc file."""
    taken = intake.take_in(params)
    print(f"retrain: {len(taken)} new batches{': ' if taken else ''}{', '.join(taken)}")
    return retraining.track(params)


@task(name="stage", task_run_name="{stage}", cache_policy=NO_CACHE)
def run_stage(stage: str, fresh: bool) -> State[None]:
    """One stage of the DAG through DVC, unless all are fresh; shown as cached where nothing ran."""
    ran = not fresh and retraining.run_stage(stage)
    return Completed() if ran else Completed(name="Cached", message="up to date by dvc.lock")


@task(name="commit-and-push", cache_policy=NO_CACHE)
def commit_and_push(tracked: Path | None, params: Params) -> str | None:
    """dvc.lock on a branch of its own, data on the DVC remote."""
    branch = retraining.commit_lock(tracked)
    if branch is not None:
        print(f"retrain: {branch}: {retraining.push(params.retrain)}")
    return branch


@task(name="register", cache_policy=NO_CACHE)
def register_version() -> str:
    """The router as a version of the registry, once for each dvc.lock."""
    made = register(alias=False)
    print(f"retrain: version {made.version} {'registered' if made.new else 'was registered before'}")
    return made.version


@task(name="gate", cache_policy=NO_CACHE)
def gate(version: str, params: Params) -> list[Verdict]:
    """Champion and challenger on the same test utterances."""
    verdicts = retraining.apply_gate(registry(), version, params.gate)
    for verdict in verdicts:
        print(f"retrain: gate: {verdict.rule} {'passed' if verdict.passed else 'FAILED'}: {verdict.detail}")
    return verdicts


@task(name="finish", cache_policy=NO_CACHE)
def finish(version: str, verdicts: list[Verdict], params: Params) -> None:
    """Move the alias and merge, or go back; tell the webhook."""
    passed = all(verdict.passed for verdict in verdicts)
    retraining.finish(registry(), version, passed, params.retrain.branch)
    retraining.notify(registry(), version, params.retrain)
    print(f"retrain: version {version} {'serves' if passed else 'does not serve'}")


def _markdown(version: str, verdicts: list[Verdict]) -> str:
    figures = read_json(METRICS / "summary.json")
    rows = [f"| {name} | {'-' if value is None else value} |" for name, value in figures.items()]
    rules = [f"| {v.rule} | {'passed' if v.passed else '**failed**'} | {v.detail} |" for v in verdicts]
    lines = [f"## Version {version}", "", "| rule | verdict | figures |", "|---|---|---|", *rules, ""]
    return "\n".join([*lines, "| figure of the test split | value |", "|---|---|", *rows])


@flow(name="retrain", validate_parameters=False)
def retrain() -> Outcome:
    """One retraining; the same command goes on with one that was killed."""
    environment.prepare()
    with alone(), errors_kept() as began:
        outcome = _retrain()
        keep(began, outcome)
    return outcome


def _retrain() -> Outcome:
    require_ready()
    params = load_params()
    if not trigger.begin(params.retrain):
        return Outcome(ending="nothing to do")
    tracked = None if retraining.going_on() else take_in(params)
    fresh = retraining.up_to_date()
    for stage in retraining.stages():
        run_stage(stage, fresh)
    if commit_and_push(tracked, params) is None:
        print("retrain: nothing new: dvc.lock is that of the last commit, no version is registered")
        if known := known_version(registry()):  # that an earlier run was killed before it was told
            retraining.notify(registry(), str(known.version), params.retrain)
        trigger.end()
        return Outcome(ending="nothing new")
    version = register_version()
    verdicts = gate(version, params)
    create_markdown_artifact(_markdown(version, verdicts), key="retrain", description=f"version {version}")
    finish(version, verdicts, params)
    trigger.end()
    failed = {verdict.rule: verdict.detail for verdict in verdicts if not verdict.passed}
    return Outcome(ending="gate failed" if failed else "promoted", version=version, failed=failed)

"""Encoding and decoding in shards: a task run each, in this process or on the workers of Dask."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from prefect import Flow, State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from whisper_router.asr.arm import Arm, arm_key
from whisper_router.asr.reference import ArmReference
from whisper_router.errors import UserError
from whisper_router.labelling import WORKERS, Batch, Work, compute
from whisper_router.params import DaskRunner, Runner, load_params
from whisper_router.progress import bar
from whisper_router.store import ContentStore

SHARD_BATCHES = {"in_process": 32, "dask": 4}
RETRIES = 2

Shard = Sequence[Batch]
Outcome = dict[str, str] | BaseException  # reasons by id; or why there are none


@dataclass(frozen=True)
class Site:
    """What a shard must find where it runs."""

    project: Path  # from which audio and weights are named
    store: Path
    arm_key: str  # of the code, versions and options that the run expects
    threads: int
    quiet: bool  # whether the run, and not the shard, shows progress

    def enter(self, reference: ArmReference) -> None:
        """Go to the project's folder.

        Raises
        ------
        UserError
            This machine lacks the folder, or has other code or versions than the run.
        """
        host = socket.gethostname()
        if not self.project.is_dir():
            raise UserError(f"{host}: no folder {self.project}; Dask workers must share the project's folder")
        os.chdir(self.project)
        torch.set_num_threads(1)
        if arm_key(reference.sha256, reference.decode) != self.arm_key:
            raise UserError(f"{host}: other code or versions than the run's; install its requirements.lock")


@lru_cache(maxsize=2)
def load_once(reference: ArmReference) -> Arm:
    """An arm, loaded once a process."""
    return reference.load()


def _worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return not isinstance(state.result(raise_on_failure=False), UserError)


@task(
    name="shard",
    task_run_name="{title}",
    retries=RETRIES,
    retry_delay_seconds=2,
    retry_condition_fn=_worth_a_retry,
    cache_policy=NO_CACHE,
)
def run_shard(reference: ArmReference, shard: Shard, work: Work, title: str, site: Site) -> dict[str, str]:
    """Compute some batches into the content store."""
    site.enter(reference)
    return compute(
        load_once(reference), shard, work, ContentStore(site.store), title, site.threads, site.quiet
    )


def run_shards(
    reference: ArmReference, work: Work, title: str, runner: Runner, batches: Shard
) -> dict[str, str]:
    """Compute batches into the content store, a task run a shard; called in a ``sharded`` flow.

    Returns
    -------
    dict
        Reasons by id, for utterances whose audio could not be read.

    Raises
    ------
    UserError
        Shards that failed after their retries. All others are finished and in the store.
    """
    count = -(-len(batches) // SHARD_BATCHES[runner.kind])
    shards = [batches[start::count] for start in range(count)]  # batches are sorted by length: mix them
    afar = runner.kind == "dask"
    key = arm_key(reference.sha256, reference.decode)
    site = Site(Path.cwd(), ContentStore().root.absolute(), key, 1 if afar else WORKERS, afar)
    named = {f"{title} {number}/{len(shards)}": shard for number, shard in enumerate(shards, start=1)}
    outcomes = (_on_dask if afar else _in_process)(reference, named, work, site)
    errors: dict[str, str] = {}
    failed: list[str] = []
    for name, outcome in outcomes:
        if isinstance(outcome, BaseException):
            failed.append(f"{name}: {type(outcome).__name__}: {outcome}")
        else:
            errors |= outcome
    if failed:
        raise UserError(
            f"{len(failed)} of {len(shards)} shards failed; the others are finished and kept, "
            "the same command tries again:\n  " + "\n  ".join(sorted(failed))
        )
    return errors


def _in_process(
    reference: ArmReference, named: dict[str, Shard], work: Work, site: Site
) -> Iterator[tuple[str, Outcome]]:
    for name, shard in named.items():
        state = run_shard(reference, shard, work, name, site, return_state=True)
        yield name, state.result(raise_on_failure=False)


def _on_dask(
    reference: ArmReference, named: dict[str, Shard], work: Work, site: Site
) -> Iterator[tuple[str, Outcome]]:
    names = {run_shard.submit(reference, shard, work, name, site): name for name, shard in named.items()}
    sizes = {name: sum(len(batch.rows) for batch in shard) for name, shard in named.items()}
    with bar(sum(sizes.values()), "on Dask") as shown:
        for future in as_completed(list(names)):
            name = names[future]
            try:
                yield name, future.result()
            except Exception as error:  # whatever befell a worker is that shard's alone
                yield name, error
            shown.update(sizes[name])


def sharded(stage: Flow[[], None]) -> Callable[[], None]:
    """The stage on the task runner that params.yaml names."""

    def start() -> None:
        options = load_params().runtime.runner
        (stage.with_options(task_runner=_dask(options)) if options.kind == "dask" else stage)()

    start.name = stage.name  # type: ignore[attr-defined]
    return start


def _dask(options: DaskRunner) -> TaskRunner[Any]:
    logging.getLogger("distributed").setLevel(logging.WARNING)
    if options.address is not None:
        return DaskTaskRunner(address=options.address)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": options.workers or WORKERS,
            "threads_per_worker": 1,
            "processes": True,
            "dashboard_address": None,
        }
    )

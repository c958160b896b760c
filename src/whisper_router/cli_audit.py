"""The command of the auditor."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from whisper_router.cli_common import Json

MARK = {True: "[green]holds[/]", False: "[bold red]BROKEN[/]", None: "[yellow]not checked[/]"}


def audit(
    version: Annotated[
        str,
        typer.Argument(
            help="Number or alias of a registered version; or a packaged folder, no registry needed."
        ),
    ] = "champion",
    reproduce: Annotated[
        bool,
        typer.Option(
            "--reproduce", help="Run the commit's DAG again from its audio, in a folder of its own."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a version back to its commit, data, labels, decider, threshold, weights and environment.

    Exit code 1 if a link is broken. --reproduce takes as long as the run took; cost tables are measurements
    and are not compared.
    """
    from whisper_router.audit import chain, commit_of, lock_of, packaged, registered
    from whisper_router.reproduce import reproduce as run_again

    folder = Path(version)
    subject = packaged(folder) if folder.is_dir() else registered(version)
    links = chain(subject)
    console = Console(quiet=as_json)
    if reproduce:
        commit, lock = commit_of(subject), lock_of(subject)
        if commit is None or lock is None:
            console.print("[bold red]nothing to reproduce: no commit or no dvc.lock is recorded[/]")
        else:
            links += run_again(commit, lock)
    table = Table("link", "", "what was found", title=subject.title)
    for link in links:
        table.add_row(link.name, MARK[link.holds], link.detail)
    console.print(table)
    broken = [link for link in links if link.holds is False]
    open_ = sum(link.holds is None for link in links)
    unchecked = f", {open_} could not be checked here" if open_ else ""
    if broken:
        console.print(f"{len(broken)} of {len(links)} links are broken{unchecked}; first: {broken[0].name}")
    else:
        console.print(f"{len(links) - open_} of {len(links)} links hold{unchecked}")
    if as_json:
        print(json.dumps({"subject": subject.title, "links": [asdict(link) for link in links]}))
    if broken:
        raise SystemExit(1)

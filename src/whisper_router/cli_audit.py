"""The commands of the auditor."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whisper_router.cli_common import Json

if TYPE_CHECKING:
    from whisper_router.audited import Link

COLOUR = {"holds": "green", "BROKEN": "bold red"}  # else yellow


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
    allowed_signers: Annotated[
        Path | None,
        typer.Option(
            "--allowed-signers",
            help="Demand a signature by one of these keys (man ssh-keygen). "
            "Left out: git's gpg.ssh.allowedSignersFile, for a signature that is there.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a one-page certificate: .html or .md.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", "-v", help="List the links that hold, too.")] = False,
    as_json: Json = False,
) -> None:
    """Check a version back to its commit, data, labels, decider, threshold, weights and environment.

    --reproduce takes as long as the run took; cost tables are measurements and are not compared.

    \b
    Exit code: 0 no link is broken or uncommitted (some may not be checked here);
    1 a link is broken, or the audit cannot be made; 2 wrong usage;
    3 nothing is broken, but something is UNCOMMITTED: the command beside it mends it.
    """
    from whisper_router.audit import (
        BROKEN,
        UNCOMMITTED,
        chain,
        commit_of,
        lock_of,
        packaged,
        registered,
        signature_of,
        sorted_links,
    )
    from whisper_router.certificate import Audit, check_suffix, write_certificate
    from whisper_router.reproduce import reproduce as run_again
    from whisper_router.seal import allowed_signers as trusted

    if report is not None:
        check_suffix(report)
    folder = Path(version)
    subject = packaged(folder) if folder.is_dir() else registered(version)
    signature, signed = signature_of(subject, trusted(allowed_signers), allowed_signers is not None)
    links = [*chain(subject), *([signature] if signature else [])]
    console = Console(quiet=as_json)
    if reproduce:
        commit, lock = commit_of(subject), lock_of(subject)
        if commit is None or lock is None:
            console.print("[bold red]nothing to reproduce: no commit or no dvc.lock is recorded[/]")
        else:
            links += run_again(commit, lock)
    links = sorted_links(links)
    broken = [link for link in links if link.state == BROKEN]
    waiting = [link for link in links if link.state == UNCOMMITTED]
    verdict = BROKEN if broken else UNCOMMITTED if waiting else "holds"
    said = _sentence(links, broken, waiting)
    found = Audit(
        subject.title,
        verdict,
        said,
        datetime.now(UTC).isoformat(timespec="seconds"),
        commit_of(subject) or "none",
        {
            f"{name.removesuffix('_sha256')}, SHA-256 as registered": value
            for name, value in sorted(subject.tags.items())
            if name.endswith("_sha256")
        },
        signed,
        links,
    )
    _show(console, found.title, links, every)
    console.print(f"signature: {escape(signed)}", highlight=False)
    console.print(f"[{COLOUR.get(verdict, 'yellow')}]{verdict}[/]: {escape(said)}", highlight=False)
    if report is not None:
        write_certificate(report, found)
        console.print(f"{report}: the certificate", highlight=False)
    if as_json:
        rows = [asdict(link) | {"state": link.state} for link in links]
        print(json.dumps(asdict(found) | {"subject": found.title, "links": rows}))
    if broken or waiting:
        raise SystemExit(1 if broken else 3)


def _sentence(links: "Sequence[Link]", broken: "Sequence[Link]", waiting: "Sequence[Link]") -> str:
    """The verdict in a sentence."""
    states = Counter(link.state for link in links)
    unchecked = f", {states['not checked']} could not be checked here" if states["not checked"] else ""
    known = ("holds", "BROKEN", "UNCOMMITTED", "not checked")
    unchecked += "".join(f", {count} {state}" for state, count in states.items() if state not in known)
    if broken:
        names = f"{len(broken)} of {len(links)} links are broken, first: {broken[0].name}"
        return f"{names}{f', {len(waiting)} are uncommitted' if waiting else ''}{unchecked}"
    if waiting:
        return f"{len(waiting)} of {len(links)} links are uncommitted, none is broken{unchecked}"
    return f"{states['holds']} of {len(links)} links hold{unchecked}"


def _show(console: Console, title: str, links: "Sequence[Link]", every: bool) -> None:
    """What does not hold, each with what to do; what holds in a line."""
    listed = [link for link in links if every or link.state != "holds"]
    if listed:
        table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
        )
        table.add_column("link", max_width=22)
        table.add_column("", no_wrap=True)
        table.add_column("what was found", overflow="fold")
        for link in listed:
            state = f"[{COLOUR.get(link.state, 'yellow')}]{escape(link.state)}[/]"
            remedy = (
                f"\n[dim]To do: {escape(link.remedy)}[/]" if link.remedy and link.state != "holds" else ""
            )
            table.add_row(escape(link.name), state, escape(link.detail) + remedy)
        console.print(table)
    else:
        console.print(title, highlight=False)
    holding = sum(link.state == "holds" for link in links)
    if not every and holding:
        console.print(f"{holding} links hold (-v lists them)", highlight=False)


def sign(
    version: Annotated[str, typer.Argument(help="Number or alias of a registered version.")],
    key: Annotated[Path, typer.Option("--key", help="SSH private key; or a public one, with ssh-agent.")],
) -> None:
    """Sign a version whose audit holds, with a key that those who write the registry do not have.

    The signature covers model, version, commit and the hashes of dvc.lock, of the model's folder, of the
    run's artifacts and of what the gate judged by, as found now. `audit --allowed-signers FILE` verifies it;
    a line of FILE: NAME namespaces="whisper-router" ssh-ed25519 AAAA...
    """
    from whisper_router.audit import BROKEN, UNCOMMITTED, chain, registered, statement_of
    from whisper_router.errors import UserError
    from whisper_router.promotion import MODEL, registry
    from whisper_router.seal import SIGNATURE
    from whisper_router.seal import sign as sign_statement

    subject = registered(version)
    bad = [link for link in chain(subject) if link.state in (BROKEN, UNCOMMITTED)]
    if bad:
        first = f"{bad[0].name}: {bad[0].state}: {bad[0].detail}"
        raise UserError(f"{subject.title} is not signed, {len(bad)} links do not hold; first {first}")
    said = statement_of(subject)
    registry().set_model_version_tag(MODEL, str(subject.version), SIGNATURE, sign_statement(said, key))
    print(f"{subject.title}: signed\n{said.decode()}", end="")

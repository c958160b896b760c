"""Commands on registered versions."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from whisper_router.cli_common import Json

Version = Annotated[str, typer.Argument(help="Number or alias of a version.", show_default=False)]
OUTCOMES = {"route": "route", "weak": "weak only", "strong": "strong only", "open": "open"}
HEADINGS = ("weak", "strong", "routed", "to str.", "gap", "saved")
CAPTION = (
    "WER of the test split: always-weak, -strong, routed; share sent to strong; gap recovered; macs saved"
)
Reason = Annotated[str, typer.Option(help="Kept in the history.")]


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_uncommitted(paths: Sequence[str]) -> None:
    """Say on standard error what no commit holds, and what to do."""
    if not paths:
        return
    lines = [
        f"not committed: {', '.join(paths)}; an audit of this version says UNCOMMITTED until a commit has"
    ]
    lines[0] += " it."
    others = [path for path in paths if path not in ("dvc.lock", "params.yaml")]
    if others:
        lines.append(f"  First: git add {' '.join(others)} && git commit")
    lines.append("  whisper-router register --commit     commits dvc.lock and params.yaml, and nothing else")
    print("\n".join(lines), file=sys.stderr)


def models(as_json: Json = False) -> None:
    """List the registered versions: aliases, verdict, gate, key figures on the test split."""
    from whisper_router.promotion import KEY_FIGURES, MODEL
    from whisper_router.promotion import models as all_models

    rows = all_models()
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        print(f"{MODEL} has no version yet; `whisper-router register` makes one")
        return
    table = Table(title=MODEL, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("", "registered", "verdict", "gate", *HEADINGS):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        figures = ["-" if row[name] is None else f"{row[name]:.1%}" for name in KEY_FIGURES]
        name = " ".join([row["version"], *row["aliases"]])
        table.add_row(
            name, row["registered"][:10], OUTCOMES.get(row["verdict"], "-"), row["gate"] or "-", *figures
        )
    console = Console()
    console.print(table)
    if says := rows[-1]["verdict_says"]:
        console.print(f"version {rows[-1]['version']}: VERDICT: {says}", highlight=False)
    for row in rows:
        if row["reference"] == "strong":
            console.print(
                f"version {row['version']}: measured without transcripts: in place of WER, words that differ "
                "from the strong arm's text",
                highlight=False,
            )
        for rule, verdict in row["rules"].items():
            if verdict.startswith("failed"):
                console.print(f"version {row['version']}: {rule} {verdict}", highlight=False)


def promote(
    version: Version,
    reason: Reason = "by hand",
    force: Annotated[
        bool, typer.Option("--force", help="Even if it failed the gate or is not worth serving.")
    ] = False,
) -> None:
    """Let a version serve: move the alias champion to it."""
    from whisper_router.promotion import CHAMPION, MODEL
    from whisper_router.promotion import promote as promote_version

    move = promote_version(version, reason, force)
    if move is None:
        print(f"{MODEL} version {version} is the {CHAMPION} already")
    else:
        print(f"{CHAMPION}: {MODEL} version {move.version}, before it {move.previous or 'none'}")


def rollback(reason: Reason = "by hand") -> None:
    """Let the version serve that served before. Repeated, it goes one further back."""
    from whisper_router.promotion import CHAMPION, MODEL
    from whisper_router.promotion import rollback as roll_back

    move = roll_back(reason)
    print(f"{CHAMPION}: {MODEL} version {move.version} again, instead of {move.previous}")


def compare(a: Version, b: Version, as_json: Json = False) -> None:
    """Say what differs between two versions: figures, and params where they differ."""
    from whisper_router.promotion import compare as compare_versions

    made = compare_versions(a, b)
    if as_json:
        print(json.dumps(made))
        return
    console = Console()
    for version, says in zip((a, b), made.pop("verdict")[0][1:], strict=True):
        console.print(f"version {version}: VERDICT: {says or 'none was kept'}", highlight=False)
    for kind, rows in made.items():
        table = Table(kind, a, b, *(["difference"] if kind == "metrics" else []))
        for name, first, second in rows:
            both = isinstance(first, float) and isinstance(second, float)
            difference = [f"{second - first:+.4g}" if both else "-"] if kind == "metrics" else []
            table.add_row(name, _number(first), _number(second), *difference)
        console.print(table if rows else f"no {kind} differ")

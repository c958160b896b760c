"""The command that watches a served router."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from whisper_router.cli_common import Json, RouterOption

COLOUR = {"stable": "green", "watch": "yellow", "drift": "bold red", "not measured": "dim"}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def drift(
    log: Annotated[Path, typer.Argument(help="Folder of the prediction log.", show_default=False)],
    router: RouterOption = None,
    version: Annotated[
        list[str], typer.Option(help="Only rows of this version of the router; may be repeated.")
    ] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Say whether served audio is still like the calibration split. No labels are needed.

    With a shadow share (`serve --shadow 0.05`) it also estimates the WER, from how far both arms differ.
    Exit code 2 where something drifted: label new audio and retrain.
    """
    from whisper_router.drift import find_drift, read_baseline, read_log, read_shadow
    from whisper_router.serving.default import default_router
    from whisper_router.serving.uri import router_folder

    router = router or default_router()
    folder = router_folder(router) if router.startswith("models:/") else Path(router)
    rows = read_log(log, version)
    found = find_drift(read_baseline(folder), rows, read_shadow(log, version))
    if as_json:
        print(json.dumps({"rows": len(rows), "findings": [asdict(finding) for finding in found]}))
    else:
        table = Table(
            "figure", "calibration", "log", "PSI", "p", "verdict", title=f"{len(rows)} rows of {log}"
        )
        for finding in found:
            verdict = f"[{COLOUR[finding.verdict]}]{finding.verdict}[/]"
            numbers = [_number(value) for value in (finding.before, finding.now, finding.psi, finding.p)]
            table.add_row(finding.detail, *numbers, verdict)
        Console().print(table)
    if any(finding.verdict == "drift" for finding in found):
        raise SystemExit(2)

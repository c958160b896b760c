"""The report as one HTML page without external assets."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from whisper_router.findings import Finding
from whisper_router.params import Params
from whisper_router.policy.calibrate import Policy
from whisper_router.policy.names import KIND_NAMES, figure_names
from whisper_router.reference import TEXT, Reference
from whisper_router.report.style import DARK, Draw, png
from whisper_router.report.words import (
    CHOICE_NAMES,
    CHOICES,
    DEMO_NOTE,
    currencies_of,
    is_demo,
    parts,
    percent,
)
from whisper_router.report.wrong import Wrong
from whisper_router.slices import losing
from whisper_router.verdict import UNITS, Verdict


@dataclass(frozen=True)
class Chart:
    """A chart: the file of its light version is written by the stage, the dark one is drawn for the page."""

    title: str
    draw: Draw
    height: float  # inches


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _images(charts: Mapping[str, Chart], plots: Path) -> dict[str, dict[str, str]]:
    return {
        name: {
            "title": chart.title,
            "light": _uri((plots / f"{name}.png").read_bytes()),
            "dark": _uri(png(chart.draw, chart.height, DARK)),
        }
        for name, chart in charts.items()
    }


def held(target: Mapping[str, Any] | None) -> str:
    """Whether a policy's target is met on the test split, in a word."""
    if target is None or target["met"] is None:
        return ""
    return "yes" if target["met"] else "no"


def code(text: str) -> Markup:
    """Text in backquotes as HTML's code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(text.split("`"))
    )


def standing_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """The choices of a verdict in words and with the widths of their bars, the cheapest first."""
    highest = max(standing.wer for standing in verdict.standings) or 1.0
    dearest = max(standing.cost for standing in verdict.standings)
    answer = verdict.policy if verdict.outcome == "route" else verdict.outcome
    return [
        {
            "title": verdict.title(standing.name),
            "words": verdict.share_words(standing.name),
            "wer": "the reference"
            if standing.name == "strong" and verdict.reference != "text"
            else f"{standing.wer:.1%}",
            "cost": f"{standing.cost:.0%}",
            "wer_width": 100 * standing.wer / highest,
            "cost_width": 100 * standing.cost / dearest,
            "best": standing.name == answer,
        }
        for standing in sorted(verdict.standings, key=lambda standing: standing.cost)
    ]


def page(
    params: Params,
    manifest: pd.DataFrame,
    policies: Mapping[str, Policy],
    metrics: Mapping[str, Mapping[str, Any]],
    chosen: str,
    verdict: Verdict,
    models: Mapping[str, str],
    charts: Mapping[str, Chart],
    plots: Path,
    deciders: Path,
    slices: Mapping[str, Any],
    wrong: Sequence[Wrong],
    provenance: Mapping[str, Any],
    left_out: Sequence[Finding],
    warnings: Sequence[Mapping[str, Any]],
    long: Mapping[str, Any],
    reference: Reference = TEXT,
    untold: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """The report.

    Parameters
    ----------
    charts : mapping
        By the name of their PNG file in ``plots``.
    slices : mapping
        ``slices`` and ``confusion`` of the chosen policy, as in metrics/slices.json.
    reference : Reference
        What errors are counted against in all but ``untold``.
    untold : mapping
        Metrics of the chosen policy on test rows without transcripts, where others have them.
    """
    source = files("whisper_router").joinpath("report", "page.html").read_text()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    environment.filters["parts"] = parts
    environment.filters["held"] = held
    environment.filters["code"] = code
    made = metrics[chosen]
    few = made["wer_weak"]["interval"]
    currencies = currencies_of(made, verdict.currency)
    rows = [
        {
            "name": CHOICE_NAMES[choice],
            "wer": made[f"wer_{choice}"],
            "costs": [made[f"{currency}_{choice}"] for currency in currencies],
        }
        for choice in CHOICES
    ]
    return environment.from_string(source).render(
        demo_note=DEMO_NOTE if is_demo(params) else None,
        too_few=few if isinstance(few, str) else None,
        models=models,
        chosen=chosen,
        verdict=verdict,
        standings=standing_rows(verdict),
        next_steps=verdict.next_steps(chosen),
        measure=verdict.measure,
        unit=UNITS[verdict.currency],
        metrics=made,
        rows=rows,
        currencies=currencies,
        policies=policies,
        all_metrics=metrics,
        kinds=KIND_NAMES,
        names=figure_names(reference),
        reference=reference,
        wer=reference.wer,
        untold=untold,
        differ=replace(reference, kind="strong", **models),
        splits=manifest.groupby("split")
        .agg(utterances=("id", "size"), speakers=("speaker", "nunique"), seconds=("duration_s", "sum"))
        .to_dict("index"),
        charts=_images(charts, plots),
        curves={name: _uri((deciders / name / "curve.png").read_bytes()) for name in params.deciders},
        slices=slices["slices"],
        losing=losing(slices["slices"]),
        confusion=slices["confusion"],
        wrong=wrong,
        provenance=provenance,
        left_out=left_out,
        warnings=warnings,
        long=long,
    )

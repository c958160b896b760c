"""Charts, the summary and the self-contained report of an evaluation."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from whisper_router.cost import CURRENCIES
from whisper_router.evaluation import Pair, oracle_frontier
from whisper_router.findings import Finding
from whisper_router.params import Params
from whisper_router.policy.calibrate import Policy

CURRENCY_LABEL = {
    "macs": "cached decoder, all products counted, real contexts and retries",
    "macs_paper": "the paper's count: beam 8, no cache, no attention products, 30 s",
}
COLOURS = ("#1f77b4", "#d95f02", "#7570b3", "#1b9e77", "#e7298a")
CHOICES = ("weak", "strong", "routed", "random", "oracle", "posthoc")
CHOICE_NAMES = {
    "weak": "always weak",
    "strong": "always strong",
    "routed": "routed",
    "random": "random at the same share",
    "oracle": "oracle",
    "posthoc": "post-hoc (decode with both)",
}


DEMO_NOTE = "Synthetic speech: these figures demonstrate the plumbing, not the quality of a router."


def is_demo(params: Params) -> bool:
    """Whether any figure comes from synthetic speech."""
    return any(corpus.kind == "demo" for corpus in params.ingest.corpora)


def summary(metrics: Mapping[str, Any], verified: int) -> dict[str, Any]:
    """The figures that fit a screen and a `dvc metrics diff`."""
    names = (
        "accuracy",
        "auroc",
        "gap_recovered",
        *(f"wer_{choice}" for choice in CHOICES),
        "strong_share",
        "saving_macs",
        "saving_macs_paper",
    )
    return {
        **metrics["counts"],
        **{name: metrics[name]["value"] for name in names},
        "verified_with_router": verified,
    }


def draw_frontier(
    path: Path,
    pair: Pair,
    sweeps: Mapping[str, pd.DataFrame],
    metrics: Mapping[str, Mapping[str, Any]],
    chosen: str,
    currency: str,
    arms: Mapping[str, Mapping[str, Any]],
    note: str | None,
) -> None:
    """Chart WER against cost: each decider's sweep, the chosen policy, and the lines to compare them with."""
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots()
    made = metrics[chosen]

    def point(choice: str) -> tuple[float, float]:
        return made[f"{currency}_{choice}"]["value"] * 100, made[f"wer_{choice}"]["value"] * 100

    weak, strong = point("weak"), point("strong")
    axes.plot(
        *zip(weak, strong, strict=True), color="#999999", linestyle=":", label="random routing", zorder=1
    )
    x, y = oracle_frontier(pair, currency)
    axes.plot(x * 100, y * 100, color="#2ca02c", linestyle="--", label="oracle", zorder=2)
    for colour, (name, table) in zip(COLOURS, sweeps.items(), strict=False):
        axes.plot(
            table[f"{currency}_routed"] * 100,
            table["wer_routed"] * 100,
            color=colour,
            label=f"decider {name}",
        )
    for choice, marker, text in (
        ("weak", "v", f"always weak ({arms['weak']['model']})"),
        ("strong", "^", f"always strong ({arms['strong']['model']})"),
        ("posthoc", "X", "post-hoc: decode with both"),
    ):
        axes.plot(
            *point(choice), marker, color="#333333", markersize=8, linestyle="none", label=text, zorder=4
        )
    routed = point("routed")
    axes.plot(
        *routed, "*", color="#d62728", markersize=16, linestyle="none", label=f"policy {chosen}", zorder=5
    )
    interval = made["wer_routed"]["interval"]
    if isinstance(interval, list):
        low, high = (bound * 100 for bound in interval)
        error = [[routed[1] - low], [high - routed[1]]]
        axes.errorbar(*routed, yerr=error, color="#d62728", capsize=4, linewidth=1, zorder=3)
    axes.set_xlabel(f"cost, % of always-strong in {currency}\n({CURRENCY_LABEL[currency]})")
    axes.set_ylabel("WER on the test split, %")
    title = "WER against cost"
    if isinstance(interval, list):
        title += "; bar: 95 % over speakers"
    axes.set_title(f"{title}\n{note}" if note else title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)


def _image(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def percent(figure: Mapping[str, Any]) -> str:
    """A figure with its interval, or why there is none."""
    if figure["value"] is None:
        return f"none: {figure.get('reason', 'not defined')}"
    text = f"{figure['value']:.1%}"
    interval = figure.get("interval")
    return f"{text} ({interval[0]:.1%} to {interval[1]:.1%})" if isinstance(interval, list) else text


def page(
    params: Params,
    manifest: pd.DataFrame,
    policies: Mapping[str, Policy],
    metrics: Mapping[str, Mapping[str, Any]],
    chosen: str,
    arms: Mapping[str, Mapping[str, Any]],
    plots: Path,
    deciders: Path,
    provenance: Mapping[str, Any],
    left_out: Sequence[Finding],
    warnings: Sequence[Mapping[str, Any]],
    long: Mapping[str, Any],
) -> str:
    """The report as one HTML page without external assets."""
    source = files("whisper_router").joinpath("report.html").read_text()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    made = metrics[chosen]
    few = made["wer_weak"]["interval"]
    rows = [
        {
            "name": CHOICE_NAMES[choice],
            "wer": made[f"wer_{choice}"],
            "costs": [made[f"{currency}_{choice}"] for currency in CURRENCIES],
        }
        for choice in CHOICES
    ]
    return environment.from_string(source).render(
        demo_note=DEMO_NOTE if is_demo(params) else None,
        too_few=few if isinstance(few, str) else None,
        arms=arms,
        chosen=chosen,
        metrics=made,
        rows=rows,
        currencies=CURRENCIES,
        policies=policies,
        all_metrics=metrics,
        splits=manifest.groupby("split")
        .agg(utterances=("id", "size"), speakers=("speaker", "nunique"), seconds=("duration_s", "sum"))
        .to_dict("index"),
        frontiers={currency: _image(plots / f"frontier_{currency}.png") for currency in CURRENCIES},
        curves={name: _image(deciders / name / "curve.png") for name in params.deciders},
        provenance=provenance,
        left_out=left_out,
        warnings=warnings,
        long=long,
    )

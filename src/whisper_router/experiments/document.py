"""The figures as JSON, table, chart, and an MLflow run a configuration."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from whisper_router.cost import CURRENCIES
from whisper_router.cost_table import CURRENCY_LABEL
from whisper_router.evaluation import Pair, oracle_frontier
from whisper_router.files import read_json, write_json, write_text
from whisper_router.hashing import digest
from whisper_router.report.words import percent

DOCUMENT = Path("docs/experiments.md")
EXPERIMENT = "whisper-router-experiments"
COLOURS = ("#1f77b4", "#d62728", "#7570b3", "#e6ab02", "#1b9e77", "#e7298a")


def draw(path: Path, report: Mapping[str, Any], curves: Mapping[str, pd.DataFrame], pair: Pair) -> None:
    """WER over cost of the best decider of each group, beside the plain lines."""
    rows = report["candidates"]
    best: dict[str, str] = {}
    for name, row in rows.items():
        value = row["auroc"]["all"]["value"] or 0
        if row["group"] not in best or value > rows[best[row["group"]]]["auroc"]["all"]["value"]:
            best[row["group"]] = name
    lines, currency = report["lines"], next(iter(CURRENCIES))
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    axes = figure.subplots()
    ends = [(lines[name][currency] * 100, lines[name]["wer"] * 100) for name in ("weak", "strong")]
    axes.plot(*zip(*ends, strict=True), ":", color="#999999", label="random routing")
    x, y = oracle_frontier(pair, currency)
    axes.plot(x * 100, y * 100, "--", color="#2ca02c", label="oracle")
    for colour, (group, name) in zip(COLOURS, best.items(), strict=False):
        line = curves[name]
        axes.plot(line[currency] * 100, line["wer"] * 100, color=colour, label=f"{group}: {name.strip()}")
    for name, marker, text in (
        ("weak", "v", f"always weak ({report['arms']['weak']})"),
        ("strong", "^", f"always strong ({report['arms']['strong']})"),
        ("posthoc", "X", "post-hoc: decode with both"),
    ):
        point = lines[name][currency] * 100, lines[name]["wer"] * 100
        axes.plot(*point, marker, color="#333333", markersize=8, label=text)
    axes.set_xlabel(f"cost, % of always-strong in {currency}\n({CURRENCY_LABEL[currency]})")
    axes.set_ylabel("WER, %")
    axes.set_title("Deciders by cross-validation over speakers")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def write_document(report: Mapping[str, Any], curves: Mapping[str, pd.DataFrame], pair: Pair) -> None:
    """Write the figures as JSON, the document that is made from them, and its chart."""
    write_json(DOCUMENT.with_suffix(".json"), report)
    draw(DOCUMENT.with_suffix(".png"), report, curves, pair)
    source = files("whisper_router").joinpath("experiments.md.jinja").read_text()
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    figures = read_json(DOCUMENT.with_suffix(".json"))
    rows = figures["candidates"]
    best_first = sorted(rows, key=lambda name: -(rows[name]["auroc"]["all"]["value"] or 0))
    text = environment.from_string(source).render(
        **figures | {"candidates": {name: rows[name] for name in best_first}}
    )
    write_text(DOCUMENT, text)


def log_runs(report: Mapping[str, Any]) -> int:
    """An MLflow run a configuration; the same figures are logged once. Returns how many are new."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    from whisper_router.serving.uri import use_registry

    use_registry()
    client = MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    artifacts = Path("mlruns/artifacts").absolute().as_uri()
    identity = (
        found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    )
    new = 0
    for name, row in report["candidates"].items():
        figures = {
            key: row[key] for key in ("auroc", "accuracy_best", "accuracy_half", "ece", "at", "options")
        }
        key = digest([name, figures, report["corpus"], report["arms"], report["folds"], report["seed"]])
        if client.search_runs([identity], f"tags.figures_sha256 = '{key}'"):
            continue
        new += 1
        run = client.create_run(identity, run_name=name, tags={"figures_sha256": key, "group": row["group"]})
        params = {**row["options"], **{f"arm_{arm}": model for arm, model in report["arms"].items()}}
        metrics = {
            **{f"auroc_{corpus}": figure["value"] for corpus, figure in row["auroc"].items()},
            **{key: row[key] for key in ("accuracy_best", "accuracy_half", "ece", "apgr", "parameters")},
            **{f"wer_at_{share.replace('.', '_')}": made["wer"] for share, made in row["at"].items()},
        }
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(key, float(value), 0, 0) for key, value in metrics.items() if value is not None],
            params=[Param(key, str(value)) for key, value in params.items()],
        )
        client.set_terminated(run.info.run_id)
    return new

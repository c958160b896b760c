"""The report's charts: each a function that draws on a figure in the colours of a theme."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from whisper_router.cost_table import CURRENCY_LABEL
from whisper_router.evaluation import Pair, oracle_frontier
from whisper_router.report.style import Draw, Theme, legend_below, write_chart
from whisper_router.report.words import CHOICE_NAMES

Array = np.ndarray
Metrics = Mapping[str, Mapping[str, Any]]

FRONTIER_HEIGHT = 6.2
BINS = 8  # of a reliability chart, of equally many utterances


def _bars(metrics: Mapping[str, Any], name: str) -> Array | None:
    """Lower and upper distance of a figure's interval, in percent; shape (2, 1)."""
    figure = metrics[name]
    if not isinstance(figure["interval"], list):
        return None
    low, high = figure["interval"]
    value = figure["value"]
    return np.array([[max(value - low, 0)], [max(high - value, 0)]]) * 100


def _room(made: Mapping[str, Any], curves: Sequence[pd.Series], oracle: Array) -> tuple[float, float]:
    """Limits of the axis of WER, in percent: all curves, and as much again for bars."""
    seen = np.concatenate([*curves, oracle, [made["wer_posthoc"]["value"]]]) * 100
    low, high = seen.min(), seen.max()
    return max(low - (high - low) / 2, 0), high + (high - low) / 2


def frontier(
    pair: Pair,
    sweeps: Mapping[str, pd.DataFrame],
    metrics: Metrics,
    chosen: str,
    currency: str,
    models: Mapping[str, str],
    note: str | None,
    wer: str = "WER",
) -> Draw:
    """WER against cost: each decider's sweep, the chosen policy, and the lines to compare them with."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        made = metrics[chosen]
        strong_name = f"always strong ({models['strong']}{'' if wer == 'WER' else ', the reference'})"

        def point(choice: str) -> tuple[float, float]:
            return made[f"{currency}_{choice}"]["value"] * 100, made[f"wer_{choice}"]["value"] * 100

        weak, strong = point("weak"), point("strong")
        axes.plot(*zip(weak, strong, strict=True), color=theme.faint, linestyle=":", label="random routing")
        x, y = oracle_frontier(pair, currency)
        axes.plot(x * 100, y * 100, color=theme.good, linestyle="--", label="oracle")
        for colour, (name, table) in zip(theme.deciders, sweeps.items(), strict=False):
            known = f"{currency}_routed" in table
            if known:
                costs = table[f"{currency}_routed"]
                axes.plot(costs * 100, table["wer_routed"] * 100, color=colour, label=f"decider {name}")
        drawn = (
            ("weak", "v", theme.ink, 8, f"always weak ({models['weak']})"),
            ("strong", "^", theme.ink, 8, strong_name),
            ("posthoc", "X", theme.ink, 8, CHOICE_NAMES["posthoc"]),
            ("random", "o", theme.faint, 6, CHOICE_NAMES["random"]),
            ("routed", "*", theme.bad, 15, f"policy {chosen}"),
        )
        for choice, marker, colour, size, text in drawn:
            axes.errorbar(
                *point(choice),
                xerr=_bars(made, f"{currency}_{choice}"),
                yerr=_bars(made, f"wer_{choice}"),
                fmt=marker,
                color=colour,
                markersize=size,
                linewidth=1.2 if choice == "routed" else 0.7,
                capsize=3 if choice == "routed" else 0,
                label=text,
                zorder=5 if choice == "routed" else 4,
            )
        axes.set_ylim(*_room(made, [table["wer_routed"] for table in sweeps.values()], y))
        axes.set_xlabel(f"cost, % of always-strong in {currency}\n({CURRENCY_LABEL[currency]})", fontsize=10)
        axes.set_ylabel(f"{wer} on test utterances, %")
        title = f"{wer} against cost"
        if isinstance(made["wer_routed"]["interval"], list):
            title += "; bars: 95 % over speakers, cut at the edge"
        axes.set_title(title)
        if note:
            figure.suptitle(note, fontsize=9, color=theme.faint, wrap=True)
        axes.grid()
        legend_below(figure, axes)

    return draw


def draw_frontier(
    path: Path,
    pair: Pair,
    sweeps: Mapping[str, pd.DataFrame],
    metrics: Metrics,
    chosen: str,
    currency: str,
    arms: Mapping[str, Mapping[str, Any]],
    note: str | None,
) -> None:
    """Write the frontier's chart as a PNG file."""
    models = {name: str(arm["model"]) for name, arm in arms.items()}
    write_chart(path, frontier(pair, sweeps, metrics, chosen, currency, models, note), FRONTIER_HEIGHT)


def threshold_sweep(
    table: pd.DataFrame,
    made: Mapping[str, Any],
    threshold: float,
    currency: str,
    chosen: str,
    wer: str = "WER",
) -> Draw:
    """Share to strong, WER and cost at every threshold, and where the policy stands."""
    shown = table[np.isfinite(table["threshold"])]
    parts = (
        ("strong_share", "to strong, %", None),
        ("wer_routed", "WER, %", ("weak", "strong"))
        if wer == "WER"
        else ("wer_routed", "words that differ, %", ("weak",)),
        (f"{currency}_routed", f"{currency},\n% of strong", None),
    )

    def draw(figure: Figure, theme: Theme) -> None:
        for axes, (column, text, lines) in zip(figure.subplots(3, sharex=True), parts, strict=True):
            axes.step(shown["threshold"], shown[column] * 100, where="post", color=theme.deciders[0])
            for choice, style in zip(lines or (), ("--", ":"), strict=False):
                value = made[f"wer_{choice}"]["value"] * 100
                axes.axhline(value, color=theme.faint, linestyle=style, linewidth=1)
                axes.annotate(f"always {choice}", (1, value), xycoords=("axes fraction", "data"),
                              ha="right", va="bottom", fontsize=9, color=theme.faint)  # fmt: skip
            axes.axvline(threshold, color=theme.bad, linewidth=1)
            axes.set_ylabel(text)
            axes.grid()
        axes.set_xlabel("threshold: scores from here on go to strong")
        figure.suptitle(f"Every threshold; the line is policy {chosen}", fontsize=12)

    return draw


def reliability(deciders: Mapping[str, tuple[Array, Array]]) -> Draw:
    """What share needs strong among utterances of about the same score; ``deciders``: scores and labels."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.plot(
            [0, 100], [0, 100], color=theme.faint, linestyle=":", label="a score that is the probability"
        )
        for colour, (name, (scores, labels)) in zip(theme.deciders, deciders.items(), strict=False):
            parts = [part for part in np.array_split(np.argsort(scores, kind="stable"), BINS) if part.size]
            x = [scores[part].mean() * 100 for part in parts]
            y = np.array([labels[part].mean() * 100 for part in parts])
            spans = [binomtest(int(labels[part].sum()), part.size).proportion_ci() for part in parts]
            low = np.maximum(y - np.array([span.low for span in spans]) * 100, 0)
            high = np.maximum(np.array([span.high for span in spans]) * 100 - y, 0)
            axes.errorbar(x, y, yerr=[low, high], fmt="o-", color=colour, capsize=3, label=f"decider {name}")
        axes.set_xlabel("mean score of an eighth of the utterances, %")
        axes.set_ylabel("of them need the strong arm, %")
        axes.set_title("Is a score a probability?")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.grid()
        legend_below(figure, axes)

    return draw


def roc(
    deciders: Mapping[str, tuple[Array, Array]],
    areas: Mapping[str, float | None],
    at: tuple[str, float | Array],
) -> Draw:
    """Share found of those that need strong, against share sent in vain; ``at``: decider and threshold(s)."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=theme.faint, linestyle=":", label="chance")
        for colour, (name, (scores, labels)) in zip(theme.deciders, deciders.items(), strict=False):
            area = areas[name]
            if area is None:
                continue
            false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
            axes.step(false * 100, true * 100, where="post", color=colour, label=f"{name}: AUROC {area:.1%}")
            if name == at[0]:
                sent = scores >= at[1]
                spot = sent[labels == 0].mean() * 100, sent[labels == 1].mean() * 100
                axes.plot(*spot, "*", color=theme.bad, markersize=15, linestyle="none", label="the policy")
        axes.set_xlabel("sent to strong in vain, % of those that weak does as well")
        axes.set_ylabel("sent to strong, % of those that need it")
        axes.set_title("How well deciders tell them apart")
        axes.grid()
        legend_below(figure, axes)

    return draw


def slices_height(table: Sequence[Mapping[str, Any]]) -> float:
    """Inches that a chart of slices takes."""
    return 1.4 + 0.3 * len(charted(table))


def charted(table: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The slices that a chart shows: all but single speakers."""
    return [row for row in table if row["by"] != "speaker"]


def slice_chart(table: Sequence[Mapping[str, Any]], wer: str = "WER") -> Draw:
    """WER above always-strong's in each slice, with its interval; or the ``wer`` where that has none."""

    def draw(figure: Figure, theme: Theme) -> None:
        axes = figure.subplots()
        colours = {"loses": theme.bad, "gains": theme.good, "open": theme.ink}
        rows = charted(table)
        for place, row in enumerate(rows):
            figure_ = row["wer_rise"]
            axes.errorbar(
                figure_["value"] * 100,
                place,
                xerr=_bars(row, "wer_rise"),
                fmt="o",
                color=colours[row["verdict"]],
                capsize=3,
            )
        axes.axvline(0, color=theme.faint, linewidth=1)
        axes.set_yticks(
            range(len(rows)), [f"{row['by']} {row['slice']} ({row['utterances']})" for row in rows]
        )
        axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        above = "WER above always-strong's, points\n(left of 0: the router is better)"
        axes.set_xlabel(above if wer == "WER" else f"{wer}, %")
        axes.grid(axis="x")

    return draw

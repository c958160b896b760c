"""A trained decider in charts: its curve, its reliability."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from whisper_router.decider.training import best_point


def draw_curve(path: Path, title: str, curve: Sequence[dict[str, float]], monitor: str) -> None:
    """Draw train and dev loss over the curve's first column and mark what was kept."""
    x_name = next(iter(curve[0]))
    x = [point[x_name] for point in curve]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, [point["train_loss"] for point in curve], label="train", color="#888888")
    axes.plot(x, [point["dev_loss"] for point in curve], label="dev", color="#1f77b4")
    best = curve[best_point(curve, monitor)]
    axes.plot(
        best[x_name],
        best["dev_loss"],
        "o",
        color="#1f77b4",
        label=f"kept: {x_name} {best[x_name]:g}, by dev {monitor}",
    )
    if x_name == "c":
        axes.set_xscale("log")
        axes.set_xlabel("c (inverse regularisation)")
    else:
        axes.set_xlabel(x_name)
    axes.set_ylabel("loss of the objective")
    axes.set_title(title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def draw_reliability(path: Path, title: str, lines: dict[str, list[dict[str, float]]]) -> None:
    """Chart share of positives over score, a line a set of bins."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ":", color="#999999", label="calibrated")
    for name, bins in lines.items():
        axes.plot([part["score"] for part in bins], [part["positive"] for part in bins], "o-", label=name)
    axes.set_xlabel("score")
    axes.set_ylabel("share that needs the strong arm")
    axes.set_title(title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)

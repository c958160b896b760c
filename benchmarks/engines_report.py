"""The table, the figures and the chart of benchmarks/engines.py."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from sample import Clip

from whisper_router.machine import describe_machine
from whisper_router.scoring import word_errors

COLOURS = {
    "openai-whisper": "#8c8c8c",
    "faster-whisper": "#d98c3f",
    "arm": "#2f6fb5",
    "router": "#3a8f5c",
}
Result = tuple[dict[str, Any], list[dict[str, Any]]]  # what was run, and each repeat


def figures(clips: Sequence[Clip], results: Sequence[Result]) -> list[dict[str, Any]]:
    """Medians of each contestant's repeats; WER of the first repeat, percent."""
    seconds = sum(clip.audio.size for clip in clips) / 16_000
    rows = []
    for run, repeats in results:
        counts = word_errors([clip.text for clip in clips], repeats[0]["texts"])
        wer = {}
        for corpus in sorted({clip.corpus for clip in clips}):
            mine = [count for count, clip in zip(counts, clips, strict=True) if clip.corpus == corpus]
            wer[corpus] = round(100 * sum(c.errors for c in mine) / sum(c.reference_words for c in mine), 2)
        speeds = [seconds / made["seconds"] for made in repeats]
        rows.append(
            {
                "contestant": run["contestant"],
                "name": run["name"],
                "model": run["model"],
                "rtfx": round(statistics.median(speeds), 2),
                "rtfx_repeats": [round(speed, 2) for speed in speeds],
                "wer": wer,
                "peak_mb": round(statistics.median(made["peak_bytes"] for made in repeats) / 1e6),
                "cold_start_s": round(statistics.median(made["cold_start_s"] for made in repeats), 2),
            }
        )
    return rows


def markdown(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page."""
    machine, corpora = facts["machine"], list(rows[0]["wer"])
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    lines = [
        "# Engines side by side",
        "",
        f"{facts['utterances']} utterances ({', '.join(corpora)}; {facts['audio_s'] / 60:.1f} minutes), the "
        "same weights, decoded audio handed over, greedy decoding. Each run is a process of its own; medians "
        "of interleaved repeats. Made by `make bench`; all repeats are in "
        "[benchmark-engines.json](benchmark-engines.json).",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB, "
        f"{machine['system']}, Python {machine['python']}; {libraries}. No GPU was used.",
        "",
        "![Speed of each contestant](benchmark-engines.png)",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        slow = next((row["rtfx"] for row in mine if row["contestant"] == "openai-whisper"), None)
        heads = ["contestant", "RTFx", "times openai-whisper", *(f"WER % {corpus}" for corpus in corpora)]
        heads += ["peak memory, MB", "cold start, s", "repeats"]
        lines += ["", f"## {model}", "", f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        for row in mine:
            times = f"{row['rtfx'] / slow:.1f}" if slow else ""
            cells = [row["name"], f"{row['rtfx']:.1f}", times, *(f"{row['wer'][c]:.1f}" for c in corpora)]
            cells += [str(row["peak_mb"]), f"{row['cold_start_s']:.1f}", str(len(row["rtfx_repeats"]))]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "- RTFx: seconds of audio transcribed in a second, models loaded and warm.",
        "- WER: after Whisper's English normaliser, errors over reference words of a whole corpus.",
        "- Peak memory: of the whole process, with the audio of all utterances in it.",
        "- Cold start: from the start of the process to the first transcript, weights on the disk.",
        "- openai-whisper and faster-whisper pad every utterance to 30 s. faster-whisper's batched pipeline",
        "  has no fallback for repetitions; the others decode what failed again, at rising temperatures.",
        "",
    ]
    return "\n".join(lines)


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A bar a contestant, a panel a model; the repeats as dots."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    counts = [sum(row["model"] == model for row in rows) for model in models]
    height = 0.34 * sum(counts) + 0.9 * len(models) + 0.4
    figure, axes = plt.subplots(
        len(models),
        1,
        figsize=(9, height),
        height_ratios=counts,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    most = max(max(row["rtfx_repeats"]) for row in rows)
    for axis, model in zip(axes[:, 0], models, strict=True):
        mine = [row for row in rows if row["model"] == model][::-1]
        for i, row in enumerate(mine):
            axis.barh(i, row["rtfx"], color=COLOURS[row["contestant"]], height=0.7)
            axis.plot(row["rtfx_repeats"], [i] * len(row["rtfx_repeats"]), ".", color="black", markersize=4)
            wer = " / ".join(f"{value:.1f}" for value in row["wer"].values())
            axis.text(
                max(row["rtfx_repeats"]) + most * 0.012,
                i,
                f"{row['rtfx']:.1f}   WER {wer} %",
                va="center",
                fontsize=8,
            )
        axis.set_yticks(range(len(mine)), [row["name"] for row in mine], fontsize=8)
        axis.set_title(model, loc="left", fontsize=10, fontweight="bold")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, most * 1.35)
    corpora = " / ".join(rows[0]["wer"])
    figure.supxlabel(
        "RTFx: seconds of audio transcribed in a second (bars: medians, dots: repeats)\n"
        f"WER: {corpora}, after Whisper's normaliser",
        fontsize=8,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_report(document: Path, clips: Sequence[Clip], results: Sequence[Result]) -> None:
    """Write the page, the figures and the chart."""
    rows = figures(clips, results)
    facts = {
        "machine": describe_machine(),
        "utterances": len(clips),
        "audio_s": round(sum(clip.audio.size for clip in clips) / 16_000, 1),
        "contestants": rows,
    }
    document.parent.mkdir(exist_ok=True)
    document.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    document.write_text(markdown(rows, facts))
    draw(document.with_suffix(".png"), rows)

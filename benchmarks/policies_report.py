"""The tables of docs/policies-measured.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binom

from whisper_router.report.words import percent


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def _risk(row: Mapping[str, Any]) -> str:
    return f"{row['risk']}, by {row['unit']}"


def document(made: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    draws = made["simulation"][0]["draws"]
    allowed = int(binom.ppf(0.999, draws, 0.1))
    project = made["project"]
    corpora = ", ".join(f"{count} of {name}" for name, count in project["corpora"].items())
    lines = [
        "# Policies as measured",
        "",
        "Made by `benchmarks/policies.py`; what the words mean is in [policies.md](policies.md).",
        "",
        "## Simulated populations",
        "",
        f"{draws} calibration sets of 40 speakers with 10 utterances each; alpha = delta = 10 %. A guarantee "
        "that is right may fail in at most 10 % of them, with the noise of so many draws in at most "
        f"{allowed} (99.9 %). "
        "`mean_loss` bounds the mean of the last column but one, not a share of sets.",
        "",
        *_table(
            [
                "guarantee",
                "population",
                f"sets of {draws} with a risk above alpha",
                "mean risk",
                "mean share to weak",
            ],
            [
                [
                    _risk(row),
                    row["population"],
                    "-" if row["risk"] == "mean_loss" else row["fails"],
                    f"{row['mean_risk']:.1%}",
                    f"{row['mean_weak_share']:.0%}",
                ]
                for row in made["simulation"]
            ],
        ),
        "## Real speech: every kind side by side",
        "",
        f"{project['arms']['weak']} -> {project['arms']['strong']}, decider "
        f"{project['decider']}. Chosen on the calibration split, measured on the test split (other "
        "speakers). 95 % intervals over speakers.",
        "",
        *_table(
            [
                "policy",
                "about",
                "target",
                "on calibration",
                "on test",
                "met",
                "to strong",
                "WER",
                "saving in macs",
            ],
            [
                [
                    row["policy"] + ("" if row["promise"] is not False else " (no promise: always strong)"),
                    f"`{row['figure']}`",
                    f"{row['target']:.2%}" if row["figure"] != "threshold" else "-",
                    percent(row["calibration"]) if row["calibration"] else "-",
                    percent(row["test"]) if row["test"] else "-",
                    {True: "yes", False: "no", None: "-"}[row["met"]],
                    percent(row["strong_share"]),
                    percent(row["wer_routed"]),
                    percent(row["saving_macs"]),
                ]
                for row in made["side_by_side"]
            ],
        ),
        f"Always {project['arms']['weak']}: WER {percent(made['side_by_side'][0]['wer_weak'])}; always "
        f"{project['arms']['strong']}: {percent(made['side_by_side'][0]['wer_strong'])}.",
        "",
        "## Real speech: random speaker splits",
        "",
        f"{project['utterances']} utterances of {project['speakers']} speakers ({corpora}) "
        f"that the decider was not trained on. {made['splits'][0]['splits']} times half of the speakers "
        "calibrate and the others are "
        "observed. An observed rate has the noise of its own half, so it may be above alpha more often than "
        "delta (10 %) while the true rate is not.",
        "",
        *_table(
            [
                "guarantee",
                "alpha",
                "observed rate: mean (95 % of splits)",
                "splits above alpha",
                "with a promise",
                "share to weak",
            ],
            [
                [
                    _risk(row),
                    f"{row['alpha']:.0%}",
                    f"{row['rate']:.1%} ({row['interval'][0]:.1%} to {row['interval'][1]:.1%})",
                    f"{row['above']} of {row['splits']}",
                    row["promised"],
                    f"{row['weak_share']:.0%}",
                ]
                for row in made["splits"]
            ],
        ),
    ]
    if made["across"]:
        lines += [
            "## Another domain",
            "",
            "Calibrated on the one corpus, used on the other; then calibrated anew on 100 utterances of the "
            f"other and observed on its remaining speakers, {made['splits'][0]['splits']} times. The "
            "decider was trained on both corpora: only the threshold is foreign.",
            "",
            *_table(
                ["guarantee", "alpha", "calibrated on", "rate there", "rate on the other", "to weak there",
                 "to weak on the other", "calibrated anew: rate (95 % of draws)", "draws above alpha",
                 "with a promise", "share to weak"],
                [
                    [
                        _risk(row),
                        f"{row['alpha']:.0%}",
                        row["from"],
                        f"{row['home'][0]:.1%}",
                        f"{row['away'][0]:.1%}",
                        f"{row['home'][1]:.0%}",
                        f"{row['away'][1]:.0%}",
                        f"{again['rate']:.1%} ({again['interval'][0]:.1%} to {again['interval'][1]:.1%})",
                        f"{again['above']} of {again['splits']}",
                        again["promised"],
                        f"{again['weak_share']:.0%}",
                    ]
                    for row in made["across"]
                    for again in [row["recalibrated"]]
                ],
            ),
        ]  # fmt: skip
    return "\n".join(lines)

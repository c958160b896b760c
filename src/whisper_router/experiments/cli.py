"""whisper-router experiments."""

from typing import Annotated

import typer

Folds = Annotated[int, typer.Option(min=3, help="Parts of the speakers; one a fold is the test.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the division into folds.")]


def experiments(folds: Folds = 5, seed: Seed = 0) -> None:
    """Compare deciders on the audio of the last run and write docs/experiments.md.

    Floors, the paper's design, deciders before decoding and cascades, cross-validated over speakers on the
    labels and transcripts in data/; nothing is decoded again. Takes minutes to an hour on a CPU; killed,
    it goes on where it was. Each configuration is an MLflow run. Example:

    whisper-router run && whisper-router experiments
    """
    from whisper_router.experiments.document import DOCUMENT, log_runs, write_document
    from whisper_router.experiments.run import experiment

    report, curves, pair = experiment(folds, seed)
    write_document(report, curves, pair)
    new = log_runs(report)
    compute = report["compute"]
    print(
        f"{compute['configurations']} configurations, {compute['trainings']} trainings; {new} new MLflow runs"
    )
    for choice, row in report["best"].items():
        made = row["auroc"]["all"]
        print(f"{choice}: AUROC {made['value']:.3f} {made['interval']}; in hindsight {row['hindsight']}")
    print(f"{DOCUMENT.absolute()}, .json and .png beside it")

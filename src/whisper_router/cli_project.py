"""The commands on a project as a whole."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="A folder that is empty or not there yet.", metavar="DIR")]


def init(folder: Folder) -> None:
    """Make a project's folder: params.yaml, dvc.yaml, flows, git and DVC initialised.

    Your corpora, figures and models go there, apart from the product's source; what it needs of that is the
    installed package. Example:

    whisper-router init calls && cd calls && whisper-router run
    """
    from whisper_router.init import init as lay_out

    committed = lay_out(folder)
    print(f"{folder.absolute()}: a project of whisper-router {version('whisper-router')}")
    print("  params.yaml  corpora, models, deciders, policies; as it is, the demo's synthetic speech")
    print("  dvc.yaml     the stages, each a Prefect flow of flows/")
    if not committed:
        print(
            "  not committed, because git knows no user.name and user.email; set them with "
            "`git config --global`, then `git add -A && git commit -m init`"
        )
    print(f"Next: cd {folder} && whisper-router run")
    print("`whisper-router ingest --help` shows how to name your own audio.")


def ui() -> None:
    """Show the project in a browser: Prefect's runs, MLflow's versions, the report. Ctrl-C stops all.

    On this machine only, at ports 4200, 5000 and 8080 where they are free.
    """
    from whisper_router.ui import show

    show()

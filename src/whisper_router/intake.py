"""New audio: complete batches of the drop folder go into the corpus that grows, each once."""

import os
import shutil
from pathlib import Path

from whisper_router.errors import UserError
from whisper_router.params import Params

METADATA = ("metadata.csv", "metadata.jsonl")
CLAIMED = ".taken-"  # prefix, in the drop folder, of a batch that is being moved


class IntakeError(UserError):
    """Batches cannot be taken in."""


def corpus_folder(params: Params) -> Path:
    """The folder of the corpus that grows.

    Raises
    ------
    IntakeError
        ``retrain.corpus`` is not an audiofolder of params.yaml.
    """
    name = params.retrain.corpus
    found = [corpus for corpus in params.ingest.corpora if corpus.name == name]
    if not found or found[0].kind != "audiofolder":
        raise IntakeError(
            f"params.yaml: retrain.corpus: {name!r} is not a corpus of kind audiofolder under "
            "ingest.corpora; batches of retrain.drop need one to go to"
        )
    return Path(params.ingest.root) / found[0].path


def dvc_file(folder: Path) -> Path:
    """The file by which DVC tracks a corpus."""
    return folder.with_name(f"{folder.name}.dvc")


def within_project(folder: Path) -> bool:
    """Whether a corpus lies in the project; DVC tracks no other."""
    return folder.resolve().is_relative_to(Path.cwd())


def require_trackable(folder: Path) -> None:
    """Refuse a corpus that DVC cannot track: its audio would be in no commit and on no remote.

    Raises
    ------
    IntakeError
        It lies outside of the project, or behind a link.
    """
    real = folder.resolve()
    if real == Path(os.path.abspath(folder)) and within_project(folder):
        return
    if folder.is_symlink() or within_project(folder):
        raise IntakeError(
            f"params.yaml: retrain.corpus: {folder} lies behind a link, at {real}, and DVC follows none: "
            "put the folder itself, or a copy, in the place of the link"
        )
    copy = Path("data/corpora") / folder.name
    raise IntakeError(
        f"params.yaml: retrain.corpus: {folder} is outside of the project, where DVC cannot track it: "
        f"`mkdir -p {copy.parent} && cp -a {folder} {copy}`, and set ingest.root to {copy.parent}"
    )


def complete_batches(drop: Path) -> list[Path]:
    """The batches of the drop folder that have their metadata and no leading dot.

    Raises
    ------
    IntakeError
        There is no such folder.
    """
    if not drop.is_dir():
        raise IntakeError(
            f"params.yaml: retrain.drop: {drop} is not a folder; is it mounted? `mkdir -p {drop}` makes it"
        )
    found = [batch for batch in sorted(drop.iterdir()) if not batch.name.startswith(".")]
    return [batch for batch in found if any((batch / name).is_file() for name in METADATA)]


def take_in(params: Params) -> list[str]:
    """Move complete batches of the drop folder into their corpus; their names.

    A batch is a folder with metadata.csv or metadata.jsonl. Write it under a name with a leading dot and
    rename it when it is complete. A batch is renamed before it is copied: after a kill, what was begun is
    finished under the same name.

    Raises
    ------
    IntakeError
        There is no drop folder, or no corpus to go to.
    """
    if params.retrain.drop is None:
        return []
    drop, corpus = Path(params.retrain.drop), corpus_folder(params)
    for batch in complete_batches(drop):
        batch.rename(drop / f"{CLAIMED}{_free_name(batch.name, drop, corpus)}")
    claimed = sorted(drop.glob(f"{CLAIMED}*"))
    for batch in claimed:
        place = corpus / batch.name.removeprefix(CLAIMED)
        if not place.exists():
            temporary = place.with_name(f".{place.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(batch, temporary)
            temporary.rename(place)
        shutil.rmtree(batch)
    return [batch.name.removeprefix(CLAIMED) for batch in claimed]


def _free_name(name: str, drop: Path, corpus: Path) -> str:
    """A name that no batch has, here or there."""
    free, number = name, 1
    while (corpus / free).exists() or (drop / f"{CLAIMED}{free}").exists():
        number += 1
        free = f"{name}-{number}"
    return free

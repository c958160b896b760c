"""`dvc repro` of a run: DVC's stages and errors, without its hints; then links instead of copies.

python -m whisper_router.repro [STAGE ...]
"""

import logging
import sys
from collections.abc import Sequence

FAILED, INTERRUPTED = 1, 130  # exit codes, the second as of a shell's command
HINTS = ("dvc.repo.scm_context", "dvc.dvcfile")  # loggers: what to add to git, which lock file was written


def repro(stages: Sequence[str]) -> int:
    """Run what is not up to date of some stages and all before them, or of all; the exit code."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageCmdFailedError

    for name in HINTS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with Repo() as repo:
            ran = repo.reproduce(list(stages) or None)
            if ran:  # `dvc repro` links lone files to its cache, but leaves folders as copies
                repo.checkout([stage.addressing for stage in ran], relink=True)
    except DvcException as error:
        if not isinstance(error.__cause__, StageCmdFailedError):  # such a stage has said why
            logging.getLogger("dvc").exception("")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(repro(sys.argv[1:]))

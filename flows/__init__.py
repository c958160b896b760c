"""One Prefect flow a stage of dvc.yaml, thin over the package."""

import os
import sys

from whisper_router import environment

environment.prepare()
if sys.argv[0] == "-m" and "PREFECT_API_URL" not in os.environ:  # `python -m flows.STAGE` is on its way
    from whisper_router.stage_server import stage_server

    if url := stage_server():  # it starts while the stage's modules are imported
        os.environ["PREFECT_API_URL"] = url

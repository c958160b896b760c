"""One Prefect flow a stage of dvc.yaml, thin over the package."""

from whisper_router import environment

environment.prepare()

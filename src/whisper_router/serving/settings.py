"""Settings of the HTTP service, from the environment: WHISPER_ROUTER_SERVE_HOST and so on."""

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from whisper_router.machine import cores

PREFIX = "WHISPER_ROUTER_SERVE_"


class Settings(BaseSettings):
    """Safe defaults: this machine only, OpenAI's size of a file, bounded memory and time."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    router: str = Field("models:/whisper-router@champion", description="a packaged folder, or a models:/ URI")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: SecretStr | None = Field(None, description="asked for as a bearer token on /v1")
    workers: int = Field(default_factory=cores, ge=1, le=256, description="threads that run the arms")
    reload_s: float = Field(
        0.5, ge=0, description="how often a new champion is looked for; 0: on SIGHUP only"
    )

    max_bytes: int = Field(25 << 20, ge=1 << 10, description="of a request's body")
    max_seconds: float = Field(1800, gt=0, description="of sound in a file")
    max_requests: int = Field(32, ge=1, description="at a time; more are answered 429")
    max_queue_s: float = Field(3600, gt=0, description="seconds of sound that wait; more are answered 429")
    upload_s: float = Field(60, gt=0, description="for a body to arrive")
    decode_s: float = Field(20, gt=0, description="for a file to be decoded")
    request_s: float = Field(300, gt=0, description="from the arrival of the audio to the answer")

    log: Path | None = Field(None, description="folder of the prediction log; null: none is kept")
    log_text: bool = Field(False, description="texts go into the prediction log too")
    log_rows: int = Field(1000, ge=1, description="rows of a file of the log")
    log_s: float = Field(600, gt=0, description="a file of the log is written at least so often")
    shadow: float = Field(
        0, ge=0, le=1, description="share of routed windows that the other arm transcribes too, for the log"
    )

    @field_validator("shadow")
    @classmethod
    def _needs_a_log(cls, share: float, info: ValidationInfo) -> float:
        if share and info.data.get("log") is None:
            raise ValueError(
                "shadow transcripts are for the prediction log: set log to a folder, or shadow to 0"
            )
        return share

"""Settings of the HTTP service, from the environment: WHISPER_ROUTER_SERVE_HOST and so on."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from whisper_router.environment import cores

PREFIX = "WHISPER_ROUTER_SERVE_"
LOCAL = "localhost"
ANY = "*"


class Settings(BaseSettings):
    """Safe defaults: this machine only, OpenAI's size of a file, bounded memory and time."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    router: str = Field("models:/whisper-router@champion", description="a packaged folder, or a models:/ URI")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: SecretStr | None = Field(None, description="asked for as a bearer token on /v1")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names in the Host header, separated by commas; *: any; none: by the host"
    )
    workers: int = Field(default_factory=cores, ge=1, le=256, description="threads that run the arms")
    reload_s: float = Field(
        0.5, ge=0, description="how often a new champion is looked for; 0: on SIGHUP only"
    )

    max_bytes: int = Field(25 << 20, ge=1 << 10, description="of a request's body")
    max_seconds: float = Field(1800, gt=0, description="of sound in a file")
    max_connections: int = Field(
        1024, ge=1, le=1 << 20, description="at a time; idle ones make room for new ones"
    )
    max_requests: int = Field(32, ge=1, description="at a time whose body has arrived; more are answered 429")
    max_uploads: int = Field(64, ge=1, description="bodies that arrive at a time; the slowest makes room")
    max_queue_s: float = Field(3600, gt=0, description="seconds of sound that wait; more are answered 429")
    header_s: float = Field(
        10, gt=0, description="for a request's headers to arrive, or the next one to begin"
    )
    upload_s: float = Field(60, gt=0, description="for a body to arrive, or an answer to be read")
    min_rate: float = Field(1000, ge=0, description="bytes a second of a body, over 5 s")
    decode_s: float = Field(20, gt=0, description="for a file to be decoded")
    request_s: float = Field(300, gt=0, description="from the arrival of the audio to the answer")
    stop_s: float = Field(20, ge=0, description="that requests may still take after SIGTERM")

    log: Path | None = Field(None, description="folder of the prediction log; null: none is kept")
    log_text: bool = Field(False, description="texts go into the prediction log too")
    log_rows: int = Field(1000, ge=1, description="rows of a file of the log")
    log_s: float = Field(600, gt=0, description="a file of the log is written at least so often")
    shadow: float = Field(
        0, ge=0, le=1, description="share of routed windows that the other arm transcribes too, for the log"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if isinstance(value, SecretStr):
            cls._not_empty(value.get_secret_value())
        elif isinstance(value, str) and not value.strip():
            raise ValueError("is empty: give it a value, or do not set it")
        return value

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[!-~]+", key.get_secret_value()):
            raise ValueError("may only hold printable ASCII without spaces or line ends")
        return key

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        names = value.split(",") if isinstance(value, str) else value
        made = tuple(name.strip().strip("[]").lower().rstrip(".") for name in names)
        for name in made:
            if name != ANY and not _is_ip(name) and not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(
                    f"{name!r} is no host: write names or addresses without a port, or {ANY} for any"
                )
        return made

    def allows(self, host: str) -> bool:
        """Whether a request may name this host, a ``Host`` header with or without a port.

        Where ``allowed_hosts`` is empty, a service that listens on the loopback interface takes the names of
        that interface, so that no page on the web can reach it under a name of its own; any other service
        takes every name.
        """
        name = re.sub(r":\d*$", "", host.strip()) if not host.endswith("]") else host.strip()
        name = name.strip("[]").lower().rstrip(".")
        if self.allowed_hosts:
            return ANY in self.allowed_hosts or name in self.allowed_hosts
        return not _is_loopback(self.host) or _is_loopback(name) or name == self.host.lower()

    @field_validator("shadow")
    @classmethod
    def _needs_a_log(cls, share: float, info: ValidationInfo) -> float:
        if share and info.data.get("log") is None:
            raise ValueError(
                "shadow transcripts are for the prediction log: set log to a folder, or shadow to 0"
            )
        return share


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return ipaddress.ip_address(name).is_loopback if _is_ip(name) else name.lower() == LOCAL

"""The command that serves."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from whisper_router.errors import UserError


def serve(
    router: Annotated[
        str | None, typer.Option(help="A packaged folder, or [models:/whisper-router@champion].")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="[8000]; 0: any that is free.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that run the arms [one a core].")] = None,
    log: Annotated[
        Path | None, typer.Option(help="Folder of the prediction log (Parquet; no audio, no text) [none].")
    ] = None,
    shadow: Annotated[
        float | None,
        typer.Option(help="Share of routed windows that the other arm transcribes too, for the log [0]."),
    ] = None,
) -> None:
    """Serve the router behind OpenAI's transcription API, with a page to try it at /.

    \b
    curl -F file=@call.wav http://127.0.0.1:8000/v1/audio/transcriptions
    SIGTERM finishes what was taken on; SIGHUP looks for a new champion now.

    Every setting may also come from the environment: WHISPER_ROUTER_SERVE_PORT and so on, among them
    WHISPER_ROUTER_SERVE_API_KEY. docs/serving.md lists them all.
    """
    from whisper_router.serving.settings import PREFIX, Settings

    given: dict[str, Any] = {"router": router, "host": host, "port": port, "workers": workers}
    given |= {"log": log, "shadow": shadow}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc']))} (or {PREFIX}{str(problem['loc'][0]).upper()}): "
            f"{problem['msg']} (value: {problem['input']!r})"
            for problem in error.errors()
        ]
        raise UserError("settings are refused:\n" + "\n".join(lines)) from error
    run(settings)


def run(settings: Any) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    from whisper_router.serving.app import create_app

    class Server(uvicorn.Server):
        """Says where it listens, and takes SIGHUP."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if not self.started:
                return
            port = self.servers[0].sockets[0].getsockname()[1]
            service = app.state.service
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.champion.wake)
            version = service.champion.current.version
            where = f"http://{settings.host}:{port}"
            print(f"serving {settings.router} version {version} at {where}", flush=True)

    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=round(settings.request_s),
        server_header=False,
    )
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: None)  # uvicorn raises it again when all is finished
    Server(config).run()

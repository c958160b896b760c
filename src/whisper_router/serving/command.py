"""The command that serves."""

import asyncio
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from whisper_router.cli_common import RouterOption
from whisper_router.errors import UserError

LAST_S = 8.0  # after the requests' time, until a service that does not end is ended


def serve(
    router: RouterOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="0: any that is free.", show_default="8000")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that run the arms.", show_default="one per core")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the prediction log (Parquet; no audio, no text).", show_default="no log is kept"
        ),
    ] = None,
    shadow: Annotated[
        float | None,
        typer.Option(
            help="Share of routed windows that the other arm transcribes too, for the log.", show_default="0"
        ),
    ] = None,
) -> None:
    """Serve the router behind OpenAI's transcription API, with a page to try it at /.

    \b
    curl -F file=@call.wav http://127.0.0.1:8000/v1/audio/transcriptions
    SIGTERM finishes what was taken on; SIGHUP looks for a new champion now.

    Every setting may also come from the environment: WHISPER_ROUTER_SERVE_PORT and so on, among them
    WHISPER_ROUTER_SERVE_API_KEY. docs/serving.md lists them all.
    """
    from whisper_router.serving.default import default_router
    from whisper_router.serving.settings import PREFIX, Settings

    given: dict[str, Any] = {"router": router, "host": host, "port": port, "workers": workers}
    given |= {"log": log, "shadow": shadow}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc']))} (or {PREFIX}{str(problem['loc'][0]).upper()}): "
            f"{problem['msg']}{_shown(problem)}"
            for problem in error.errors()
        ]
        raise UserError("settings are refused:\n" + "\n".join(lines)) from error
    if "router" not in settings.model_fields_set:
        settings = settings.model_copy(update={"router": default_router()})
    run(settings)


def _shown(problem: Any) -> str:
    secret = problem["loc"] == ("api_key",)
    return "" if secret else f" (value: {problem['input']!r})"


def run(settings: Any) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    from whisper_router.serving.app import create_app
    from whisper_router.serving.connections import ACCEPTED, QUEUED, Connections, affordable

    class Server(uvicorn.Server):
        """Says where it listens, takes SIGHUP, watches its connections and ends in bounded time."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if not self.started:
                return
            port = self.servers[0].sockets[0].getsockname()[1]
            for listener in self.servers[0].sockets:
                with listener.dup() as same:
                    same.listen(QUEUED)
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(connections.on_loop_error)
            self.watching = loop.create_task(connections.watch())
            if hasattr(signal, "SIGHUP"):  # Windows has none
                loop.add_signal_handler(signal.SIGHUP, service.champion.wake)
            version = service.champion.current.version
            where = f"http://{settings.host}:{port}"
            print(f"serving {settings.router} version {version} at {where}", flush=True)

        async def shutdown(self, sockets: Any = None) -> None:
            last.start()
            connections.stop()
            service.uploads.stop()
            asyncio.get_running_loop().call_later(settings.stop_s, service.give_up)
            await super().shutdown(sockets)
            self.watching.cancel()

    app = create_app(settings)
    service = app.state.service
    connections = Connections(settings, service.metrics, affordable(settings))
    last = threading.Timer(settings.stop_s + LAST_S, _exit_now)
    last.daemon = True
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=connections.protocol(),
        ws="none",
        backlog=ACCEPTED,
        log_level="error",  # a warning a request that is no HTTP would let clients fill the log
        access_log=False,
        timeout_keep_alive=max(1, round(settings.header_s)),
        timeout_graceful_shutdown=round(settings.stop_s) + 2,
        server_header=False,
    )
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: None)  # uvicorn raises it again when all is finished
    Server(config).run()
    last.cancel()
    if not app.state.ended:  # a worker is in the middle of a batch that nobody waits for any more
        sys.stdout.flush()
        os._exit(0)


def _exit_now() -> None:
    logging.getLogger(__name__).error("the service did not end in time: it is ended now")
    os._exit(1)

"""`sama serve` and `sama studio`: the service, and the same with its page opened."""

import socket
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..system.errors import UserError
from . import options
from .console import say

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    folder: Annotated[Path, typer.Option(help="Where jobs and their files are kept.")] = Path("sama-jobs"),
    host: Annotated[str, typer.Option(help="Address to listen at; others than this need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[str | None, typer.Option(help="What requests must bring.", envvar="SAMA_TOKEN")] = None,
    model: Annotated[list[str] | None, typer.Option(help="As of sama edit; again for more to choose from.")] = None,
    lora: options.Lora = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    memory: options.Memory = "auto",
    offload: options.Offload = "none",
    storage_dtype: options.StorageDtype = "same",
    vae_tiling: options.VaeTiling = False,
    max_upload: Annotated[int, typer.Option(min=1, help="MiB of a request.")] = 2048,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Of a source's part that is edited.")] = 600.0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of a source's frame.")] = 2**25,
    max_queue: Annotated[int, typer.Option(min=1, help="Jobs that wait.")] = 200,
    *,
    opens: Annotated[
        bool | None, typer.Option("--open/--no-open", help="Open the page; default: by 'studio' alone.")
    ] = None,
    context: typer.Context,
) -> None:
    """Take edits from a page and over HTTP, one after the other; /docs shows the interface."""
    given = locals()
    try:
        import uvicorn
        from filelock import FileLock, Timeout

        from ..service.web import Limits, create_app
    except ImportError as error:
        raise UserError(f"the service needs {error.name}: pip install 'sama-video[studio]'") from error
    from ..pipelines.selection import Loading, find_model
    from ..service.store import JobStore
    from ..service.supervisor import Supervisor

    if token is None and host not in _LOOPBACK:
        raise UserError(
            f"anybody who reaches {host} could edit here; give a --token (or SAMA_TOKEN), or listen at 127.0.0.1"
        )
    models = _named(model or ["nano"])
    if lora and len(models) > 1:
        raise UserError("a LoRA belongs to one model; give --lora with a single --model")
    # Before anything is started
    loadings = [options.made_of(given, Loading, model=find_model(name)) for name in models.values()]
    limits = Limits(upload=max_upload * 2**20, seconds=max_seconds, pixels=max_pixels, queue=max_queue)
    store = JobStore(folder)
    listener = _listen(host, port)
    lock = FileLock(folder / "server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another service uses {folder}; stop it, or give another --folder") from error
    arguments = {name: getattr(loadings[0], name) for name in _PASSED} | {"models": models, "lora": lora}
    with lock, Supervisor(store, arguments) as supervisor:
        store.sweep(older_than=3600)
        app = create_app(store, list(models), supervisor.descriptions, limits, token)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        say(f"sama serves at {address} (its interface: /docs); Ctrl-C stops it")
        if opens or (opens is None and context.command.name == "studio"):
            webbrowser.open(f"{address}/?token={token}" if token else address)
        # Pages keep a connection open for as long as they are: a server that stops does not wait for them.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


def _named(models: list[str]) -> dict[str, str]:
    """What models are called -> where they are. Raises UserError for two of one name."""
    named = {Path(model).name: model for model in models}
    if len(named) < len(models):
        raise UserError(f"models are called by the last part of their names, and two of {', '.join(models)} share it")
    return named


_PASSED = ("device", "dtype", "memory", "offload", "storage_dtype", "vae_tiling")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        raise UserError(f"cannot listen at {host}:{port} ({error.strerror or error}); choose another --port") from error
    return listener

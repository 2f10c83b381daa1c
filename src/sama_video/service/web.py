"""The service over HTTP: jobs in, progress and results out. Answers name no path of the server."""

import asyncio
import json
import mimetypes
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, File, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from ..editing import EditSettings
from ..system.errors import UserError
from ..video import VIDEO_SUFFIXES, VideoReader
from .store import JobStore, QueueFullError, StoredJob
from .worker import PREVIEW, told

# Of `EditSettings`, what only the one who starts the server may say, or what is sent as a file.
_NOT_ASKED = {"mask", "max_source_pixels"}
SETTINGS = tuple(field.name for field in fields(EditSettings) if field.name not in _NOT_ASKED)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_POLL_SECONDS = 0.2
_MOST_SEEDS = 16
_PAGE = Path(__file__).parent / "page"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address may hold the token
    "Cache-Control": "no-cache",
}
_ONLY_SHOWN = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a service takes.

    Args:
        upload: bytes of a request.
        seconds: of a source's part that is edited.
        pixels: of a source's frame.
        queue: jobs that wait.
    """

    upload: int = 2 * 2**30
    seconds: float = 600.0
    pixels: int = 2**25
    queue: int = 200


class Gate:
    """Lets through what may come in: from this machine's own pages or with the token, and not too large.

    A page of another site can make a browser send requests here, and a name of its own can point here: so the
    request's host must be this one, and its origin, if it has one, too.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, most_bytes: int):
        self.app, self.token, self.most_bytes = app, token, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refusal(request)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most_bytes:
                raise HTTPException(413, self._too_large)
            return message

        await self.app(scope, counted, send)

    @property
    def _too_large(self) -> str:
        return f"the upload is larger than {self.most_bytes / 2**20:.0f} MiB, which this service takes at most"

    def _refusal(self, request: Request) -> JSONResponse | None:
        host = request.url.hostname or ""
        origin = request.headers.get("origin")
        if self.token is None and host not in _LOOPBACK:
            return _error(403, "this service answers to localhost alone")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return _error(403, "requests from pages of other sites are refused")
        if self.token is not None and not self._knows_token(request):
            return _error(401, "the token is missing or wrong; send it as 'Authorization: Bearer TOKEN'")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most_bytes:
            return _error(413, self._too_large)
        return None

    def _knows_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.query_params.get("token") or request.cookies.get("sama_token", "")
        return secrets.compare_digest(given.encode(), str(self.token).encode())


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"detail": message}, status_code=status)


def create_app(
    store: JobStore,
    models: Sequence[str],
    descriptions: Callable[[], list[dict[str, Any]]],
    limits: Limits | None = None,
    token: str | None = None,
) -> FastAPI:
    """The service of a store.

    Args:
        models: names that a job may ask for; the first is for those that ask for none.
        descriptions: what its worker says of them, nothing while the first one loads.
        token: that requests must bring; None for none, from this machine alone.
    """
    limits = limits or Limits()
    app = FastAPI(title="SAMA", version=__version__, summary="Edit videos by instruction.")
    app.add_middleware(Gate, token=token, most_bytes=limits.upload)

    @app.exception_handler(UserError)
    async def refused(_request: Request, error: UserError) -> JSONResponse:
        return _error(422, str(error).replace("`", ""))

    @app.exception_handler(QueueFullError)
    async def busy(_request: Request, error: QueueFullError) -> JSONResponse:
        return _error(429, str(error))

    @app.exception_handler(OSError)
    async def full(_request: Request, _error_here: OSError) -> JSONResponse:
        return _error(507, "the server's disk is full, or cannot be written")

    def found(job_id: str) -> StoredJob:
        try:
            return store.get(job_id)
        except KeyError as error:
            raise HTTPException(404, "there is no such job") from error

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> FileResponse:
        """The studio; a token in its address is kept for what it asks."""
        answer = FileResponse(_PAGE / "index.html", headers=_PAGE_HEADERS)
        if token is not None and request.query_params.get("token"):
            answer.set_cookie("sama_token", token, httponly=True, samesite="strict")
        return answer

    app.mount("/page", StaticFiles(directory=_PAGE), name="page")

    @app.get("/api/service")
    def service() -> dict[str, Any]:
        """Its models, the usual one first (none while it loads), its limits, how many jobs wait."""
        return {
            "version": __version__,
            "models": descriptions(),
            "limits": asdict(limits),
            "waiting": store.num_waiting(),
            "settings": SETTINGS,
            "suffixes": sorted(VIDEO_SUFFIXES),
        }

    @app.post("/api/jobs", status_code=201)
    async def add(
        video: Annotated[UploadFile, File(description="A video or picture.")],
        prompt: Annotated[str, Form(description="What to change.", min_length=1, max_length=2000)],
        settings: Annotated[str, Form(description="A JSON object of settings, see /api/service.")] = "{}",
        mask: Annotated[UploadFile | None, File(description="White where the source is edited.")] = None,
        seeds: Annotated[int, Form(ge=1, le=_MOST_SEEDS)] = 1,
        priority: Annotated[int, Form(ge=-100, le=100)] = 0,
        suffix: Annotated[str, Form(description="Of the result, such as .webm; empty: the usual one.")] = "",
        model: Annotated[str, Form(description="One of the service's; empty: its first.")] = "",
    ) -> dict[str, Any]:
        """Queue an edit."""
        if model and model not in models:
            raise UserError(f"there is no model {model!r} here; ask for one of {', '.join(models)}")
        if suffix and suffix not in VIDEO_SUFFIXES:
            raise UserError(f"results are not written as {suffix}; use one of {', '.join(sorted(VIDEO_SUFFIXES))}")
        request = {
            "prompt": prompt,
            "name": _shown_name(video.filename),
            "source": f"source{_safe_suffix(video.filename)}",
            "mask": None if mask is None else f"mask{_safe_suffix(mask.filename)}",
            "settings": _settings(settings, limits) | {"max_source_pixels": limits.pixels},
            "seeds": seeds,
            "suffix": suffix,
            "model": model or models[0],
        }
        job_id, folder = store.new_folder()
        try:
            await run_in_threadpool(_keep, video, folder / request["source"])
            if mask is not None:
                await run_in_threadpool(_keep, mask, folder / request["mask"])
            await run_in_threadpool(_check, folder, request, limits)
            job = await run_in_threadpool(
                lambda: store.add(job_id, request, priority=priority, longest_queue=limits.queue)
            )
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, UserError) and not isinstance(error, QueueFullError):
                raise HTTPException(422, told(error, folder)) from error
            raise
        return shown(job)

    @app.get("/api/jobs")
    def jobs(limit: Annotated[int, Query(ge=1, le=500)] = 100, before: int | None = None) -> list[dict[str, Any]]:
        """The newest first; those before a number."""
        return [shown(job) for job in store.list(limit=limit, before=before)]

    @app.get("/api/jobs/{job_id}")
    def job(job_id: str) -> dict[str, Any]:
        return shown(found(job_id))

    @app.get("/api/jobs/{job_id}/events")
    async def events(job_id: str, request: Request) -> StreamingResponse:
        """Server-sent events: the job whenever it changes, until it has ended."""
        found(job_id)

        async def changes() -> AsyncIterator[str]:
            said = None
            while not await request.is_disconnected():
                try:
                    job = await run_in_threadpool(store.get, job_id)
                except KeyError:
                    return
                current = shown(job)
                if current != said:
                    said = current
                    yield f"data: {json.dumps(current)}\n\n"
                if job.has_ended:
                    return
                await asyncio.sleep(_POLL_SECONDS)

        return StreamingResponse(changes(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.post("/api/jobs/{job_id}/cancel")
    def cancel(job_id: str) -> dict[str, Any]:
        """Stop it, now or at the next step."""
        found(job_id)
        return shown(store.stop(job_id))

    @app.post("/api/jobs/{job_id}/retry", status_code=201)
    def retry(job_id: str) -> dict[str, Any]:
        """Queue the same again, as a new job."""
        before = found(job_id)
        if not before.has_ended:
            raise HTTPException(409, "this job has not ended")
        new_id, folder = store.new_folder()
        for name in filter(None, (before.request["source"], before.request["mask"])):
            shutil.copyfile(store.folder_of(job_id) / name, folder / name)
        return shown(store.add(new_id, before.request, priority=before.priority, longest_queue=limits.queue))

    @app.put("/api/jobs/{job_id}/priority")
    def set_priority(job_id: str, value: Annotated[int, Query(ge=-100, le=100)]) -> dict[str, Any]:
        found(job_id)
        return shown(store.set_priority(job_id, value))

    @app.delete("/api/jobs/{job_id}", status_code=204)
    def remove(job_id: str) -> None:
        """Forget it, with its files."""
        if not found(job_id).has_ended:
            raise HTTPException(409, "this job has not ended; cancel it first")
        store.remove(job_id)

    @app.get("/api/jobs/{job_id}/files/{name}", response_model=None)
    def file(job_id: str, name: str, download: bool = False) -> Response:
        """A file of a job, by a name that the job lists."""
        job = found(job_id)
        if name not in _names(job):
            raise HTTPException(404, "there is no such file")
        path = store.folder_of(job_id) / name
        if not path.is_file():
            raise HTTPException(404, "there is no such file")
        if path.suffix == ".json":
            return JSONResponse(_public(json.loads(path.read_text(encoding="utf-8"))))
        stem = Path(job.request["name"]).stem
        given = f"{stem}_{name.removeprefix('result_')}" if "_seed" in name else f"{stem}_edited{path.suffix}"
        return FileResponse(
            path,
            media_type=_media_type(name),
            filename=given if download else None,
            headers=_ONLY_SHOWN | {"Cache-Control": "no-cache"},
        )

    return app


def shown(job: StoredJob) -> dict[str, Any]:
    """A job as answers have it."""
    hidden = {"source", "mask"}
    return {
        **{name: getattr(job, name) for name in ("id", "number", "state", "priority", "created", "started", "ended")},
        **{name: getattr(job, name) for name in ("phase", "done", "total", "claims")},
        "request": {name: value for name, value in job.request.items() if name not in hidden},
        "preview": PREVIEW if job.preview and not job.has_ended else None,
        "previews": job.preview,
        **job.outcome,
    }


def _media_type(name: str) -> str:
    """Of what a browser may show; an upload that calls itself a page is only downloaded."""
    kind = mimetypes.guess_type(name)[0] or ""
    return kind if kind.startswith(("image/", "video/")) and "xml" not in kind else "application/octet-stream"


def _names(job: StoredJob) -> set[str]:
    outcome = job.outcome
    results = outcome.get("results", [])
    names = [*results, *(f"{name}.json" for name in results), *outcome.get("after", [])]
    return {*names, job.request["source"], PREVIEW} | {outcome.get("before") or "", outcome.get("sheet") or ""}


def _public(record: dict[str, Any]) -> dict[str, Any]:
    """A result's record without the server's folders."""
    model = record["model"]
    loras = [{**one, "path": Path(one["path"]).name} for one in model.get("lora", [])]
    return record | {"model": model | {"name": Path(str(model.get("name"))).name, "lora": loras}, "command": None}


def _settings(text: str, limits: Limits) -> dict[str, Any]:
    """Raises UserError for what no edit takes."""
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise UserError(f"settings are not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise UserError("settings must be a JSON object")
    if unknown := sorted(settings.keys() - set(SETTINGS)):
        raise UserError(f"there is no setting {unknown[0]!r}; known are {', '.join(SETTINGS)}")
    try:
        EditSettings(**settings, max_source_pixels=limits.pixels)
    except TypeError as error:
        raise UserError(f"a setting is of the wrong kind ({error})") from error
    return settings


def _keep(upload: UploadFile, path: Path) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(upload.file, file, 2**20)


def _check(folder: Path, request: dict[str, Any], limits: Limits) -> None:
    """What can be known of a request without the model. Raises UserError."""
    reader = VideoReader(folder / request["source"], limits.pixels)
    info, settings = reader.info, request["settings"]
    if not info.is_image and info.fps:
        frames = min(info.num_frames, settings.get("num_frames") or info.num_frames)
        seconds = min(frames / float(info.fps), settings.get("end") or float("inf")) - settings.get("start", 0.0)
        if seconds > limits.seconds:
            raise UserError(f"{seconds:.0f} s are to be edited, and this service takes at most {limits.seconds:g} s")
    if request["mask"] is not None:
        VideoReader(folder / request["mask"], limits.pixels)


def _safe_suffix(name: str | None) -> str:
    found = re.search(r"\.[A-Za-z0-9]{1,5}$", name or "")
    return found[0].lower() if found else ""


def _shown_name(name: str | None) -> str:
    """The name of an upload as people see it: no folders, no control characters, not endless."""
    last = re.split(r"[/\\]", name or "")[-1]
    return "".join(letter for letter in last if letter.isprintable())[:120].strip(". ") or "source"

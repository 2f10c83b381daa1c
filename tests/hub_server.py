"""A stand-in of the Hugging Face hub's HTTP API on the loopback interface: repositories, branches, commits, files.

It takes what huggingface_hub sends for `create_repo`, `create_branch` and `create_commit` (small files in the commit,
weights by Git LFS's basic transfer), and answers what it asks for files and snapshots. Xet, the hub's other transfer,
is off: `Hub.environment` says so to the client.
"""

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

TOKEN = "hf_secret"


class Hub:
    """What the stand-in holds: repository -> branch -> commit, and commit -> name -> bytes."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.address = ""

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        branches = self.repositories.get(repository)
        commit = None if branches is None else branches.get(revision, revision)
        if commit not in self.commits:
            raise HTTPException(404, headers={"X-Error-Code": "RevisionNotFound" if branches else "RepoNotFound"})
        return self.commits[commit]

    def commit_of(self, repository: str, revision: str) -> str:
        self.files(repository, revision)
        return self.repositories[repository].get(revision, revision)

    def add_commit(self, repository: str, branch: str, changes: dict[str, bytes]) -> str:
        branches = self.repositories[repository]
        files = {**self.commits.get(branches.get(branch, ""), {}), **changes}
        told = json.dumps([repository, len(self.commits), *sorted(files)])
        commit = hashlib.sha1(told.encode()).hexdigest()
        self.commits[commit], branches[branch] = files, commit
        return commit

    def environment(self, folder: Any, token: str | None = TOKEN) -> dict[str, str]:
        """Of a process that talks to it, with caches of its own in a folder."""
        settings = {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return settings | ({} if token is None else {"HF_TOKEN": token})


def _app(hub: Hub) -> FastAPI:
    app = FastAPI()

    def may_write(request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise HTTPException(401, "Invalid credentials")

    @app.post("/api/repos/create")
    async def create(request: Request) -> Response:
        may_write(request)
        asked = await request.json()
        name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
        made = {"url": f"{hub.address}/{name}", "name": name}
        if name in hub.repositories:
            return JSONResponse(made, 409)
        hub.repositories[name] = {}
        hub.add_commit(name, "main", {".gitattributes": b""})
        if asked.get("private") or asked.get("visibility") == "private":
            hub.private.add(name)
        return JSONResponse(made)

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> dict[str, list[str]]:
        named = (await request.json())["content"].startswith("---\n")
        return {"errors": [] if named else ["no metadata"], "warnings": []}

    @app.post("/api/models/{owner}/{name}/branch/{branch:path}")
    async def branch(owner: str, name: str, branch: str, request: Request) -> dict[str, Any]:
        may_write(request)
        branches = hub.repositories[f"{owner}/{name}"]
        if branch in branches:
            raise HTTPException(409, "Reference already exists")
        branches[branch] = branches["main"]
        return {}

    @app.post("/api/models/{owner}/{name}/preupload/{revision:path}")
    async def preupload(owner: str, name: str, revision: str, request: Request) -> dict[str, Any]:
        may_write(request)
        hub.files(f"{owner}/{name}", revision)

        def answer(file: dict[str, Any]) -> dict[str, Any]:
            mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
            return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

        return {"files": [answer(file) for file in (await request.json())["files"]]}

    @app.post("/{owner}/{name}.git/info/lfs/objects/batch")
    async def batch(request: Request) -> dict[str, Any]:
        may_write(request)

        def answer(one: dict[str, Any]) -> dict[str, Any]:
            known = one["oid"] in hub.objects
            upload = {"href": f"{hub.address}/objects/{one['oid']}", "header": {}}
            return {**one, "authenticated": True, **({} if known else {"actions": {"upload": upload}})}

        return {"transfer": "basic", "objects": [answer(one) for one in (await request.json())["objects"]]}

    @app.put("/objects/{oid}")
    async def put(oid: str, request: Request) -> Response:
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise HTTPException(400, "another object")
        hub.objects[oid] = content
        return Response()

    @app.post("/api/models/{owner}/{name}/commit/{revision:path}")
    async def commit(owner: str, name: str, revision: str, request: Request) -> dict[str, str]:
        may_write(request)
        changes = {}
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                changes[value["path"]] = hub.objects[value["oid"]]
        oid = hub.add_commit(f"{owner}/{name}", revision, changes)
        return {"commitUrl": f"{hub.address}/{owner}/{name}/commit/{oid}", "commitOid": oid, "hookOutput": ""}

    @app.get("/api/models/{owner}/{name}")
    @app.get("/api/models/{owner}/{name}/revision/{revision:path}")
    async def info(owner: str, name: str, revision: str = "main") -> dict[str, Any]:
        repository = f"{owner}/{name}"
        files = hub.files(repository, revision)
        siblings = [{"rfilename": file} for file in files]
        return {"id": repository, "sha": hub.commit_of(repository, revision), "siblings": siblings, "private": False}

    @app.get("/api/models/{owner}/{name}/tree/{revision:path}")
    async def tree(owner: str, name: str, revision: str) -> list[dict[str, Any]]:
        files = hub.files(f"{owner}/{name}", revision)
        entries = ((path, content, hashlib.sha1(content).hexdigest()) for path, content in files.items())
        return [{"type": "file", "path": path, "size": len(content), "oid": oid} for path, content, oid in entries]

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(owner: str, name: str, revision: str, path: str) -> Response:
        repository = f"{owner}/{name}"
        files = hub.files(repository, revision)
        if path not in files:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {
            "X-Repo-Commit": hub.commit_of(repository, revision),
            "ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"',
        }
        return Response(files[path], headers=headers, media_type="application/octet-stream")

    return app


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = uvicorn.Server(uvicorn.Config(_app(hub), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    hub.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join()

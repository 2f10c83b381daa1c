"""A client of `sama serve`, for programs: jobs in, results out.

    client = Client("http://127.0.0.1:8000")
    job = client.edit("clip.mp4", "make it black and white", seed=3)
    client.save(client.wait(job["id"]), "gray.mp4")

Jobs are dictionaries, as the service answers them.
"""

import json
import mimetypes
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from .system.errors import UserError
from .system.files import written_aside

_ENDED = ("done", "failed", "cancelled")


class Client:
    """Speaks to one service. Use it as a context, or `close` it.

    Args:
        url: of the service.
        token: that it asks for, if it does.
        timeout: seconds without an answer, of a request.

    Raises:
        UserError: in every call, for a service that is not there, and for what it refuses.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, *, timeout: float = 60.0):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def service(self) -> dict[str, Any]:
        """The service's models, the usual one first (none while it loads), its limits, how many jobs wait."""
        return self._ask("GET", "/api/service")

    def edit(
        self,
        video: str | Path,
        prompt: str,
        *,
        mask: str | Path | None = None,
        seeds: int = 1,
        priority: int = 0,
        suffix: str = "",
        model: str = "",
        **settings: Any,
    ) -> dict[str, Any]:
        """Queue an edit; `settings` are those of `EditSettings`, `model` one of the service's."""
        form = {"prompt": prompt, "settings": json.dumps(settings), "suffix": suffix, "model": model}
        form |= {"seeds": str(seeds), "priority": str(priority)}
        with ExitStack() as stack:
            files = {}
            for name, path in (("video", video), ("mask", mask)):
                if path is not None:
                    kind = mimetypes.guess_type(str(path))[0] or "application/octet-stream"
                    files[name] = (Path(path).name, stack.enter_context(open(path, "rb")), kind)
            return self._ask("POST", "/api/jobs", data=form, files=files)

    def jobs(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest first."""
        return self._ask("GET", "/api/jobs", params={"limit": limit})

    def job(self, job_id: str) -> dict[str, Any]:
        return self._ask("GET", f"/api/jobs/{job_id}")

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self._ask("POST", f"/api/jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> dict[str, Any]:
        """Queue the same again, as a new job."""
        return self._ask("POST", f"/api/jobs/{job_id}/retry")

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended, with its files."""
        self._ask("DELETE", f"/api/jobs/{job_id}")

    def events(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job whenever it changes, until it has ended."""
        try:
            with self._http.stream("GET", f"/api/jobs/{job_id}/events", timeout=None) as answer:
                _check(answer)
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line.removeprefix("data: "))
        except httpx.TransportError as error:
            raise UserError(
                f"the service at {self._http.base_url} went away ({error}); the job continues there"
            ) from error

    def wait(self, job_id: str) -> dict[str, Any]:
        """The job when it has ended."""
        job = self.job(job_id)
        for job in self.events(job_id):
            if job["state"] in _ENDED:
                break
        return job

    def save(self, job: dict[str, Any], output: str | Path, *, which: int = 0) -> Path:
        """Write a result of a job that is done to a file.

        Raises:
            UserError: if it is not done, with the reason of its failure.
        """
        if job["state"] != "done":
            raise UserError(f"job {job['number']} is {job['state']}" + (f": {job['error']}" if "error" in job else ""))
        output = Path(output)
        with written_aside(output) as aside, open(aside, "wb") as file:
            try:
                with self._http.stream("GET", f"/api/jobs/{job['id']}/files/{job['results'][which]}") as answer:
                    _check(answer)
                    for block in answer.iter_bytes(2**20):
                        file.write(block)
            except httpx.TransportError as error:
                raise UserError(f"the service at {self._http.base_url} went away ({error}); try again") from error
        return output

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise UserError(f"no service at {self._http.base_url} ({error}); start it with 'sama serve'") from error
        _check(answer)
        return answer.json() if answer.content else None


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    answer.read()
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    if isinstance(detail, list):  # FastAPI's own checks
        detail = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in detail)
    raise UserError(f"the service refused ({answer.status_code}): {detail}")

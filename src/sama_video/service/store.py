"""Jobs on disk: a table in SQLite, and a folder for each with its source and what was made of it.

Any number of processes may use a store at once. Only `claim` makes a job run, and only who claimed it can end it, so
that a job ends once whatever dies.

    queued --claim--> running --end--> done | failed | cancelled
       ^                 |                      |
       +----release------+       again: a new job of the same source and settings
"""

import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..system.errors import UserError

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
_BUSY_SECONDS = 30  # that a process waits while another one writes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    number INTEGER UNIQUE,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    request TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    phase TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    preview INTEGER NOT NULL DEFAULT 0,
    claims INTEGER NOT NULL DEFAULT 0,
    claim TEXT,
    stop INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS waiting ON jobs (state, priority DESC, number);
"""


class QueueFullError(UserError):
    """So many jobs wait that no more are taken."""


@dataclass(frozen=True, kw_only=True)
class StoredJob:
    """One edit that was asked for.

    Args:
        id: 16 letters and digits that nobody can guess.
        number: counts all jobs of a store from 1.
        priority: the highest is taken first, of equal ones the oldest.
        request: "prompt", "name" (of the source, as it was sent), "source" (its file in the job's folder), "settings"
            (of `EditSettings`), "seeds", "model" (as the service calls it).
        created, started, ended: seconds since 1970.
        phase, done, total: how far it is, as `Progress` says it.
        preview: counts the pictures that show it while it runs.
        claims: how often it was taken; more than once where a worker died.
        claim: who runs it; None for nobody.
        stop: somebody wants it to end.
        outcome: "error", or "results" (files in its folder) and "notes".
    """

    id: str
    number: int
    state: State
    priority: int
    request: dict[str, Any]
    created: float
    started: float | None
    ended: float | None
    phase: str
    done: int
    total: int
    preview: int
    claims: int
    claim: str | None
    stop: bool
    outcome: dict[str, Any]

    @classmethod
    def of(cls, row: sqlite3.Row) -> "StoredJob":
        values: dict[str, Any] = dict(row)
        values |= {name: json.loads(values[name]) for name in ("request", "outcome")}
        values["stop"] = bool(values["stop"])
        return cls(**values)

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


class JobStore:
    """The jobs of a folder, which is made if it is not there.

    Raises:
        UserError: for a folder that cannot be written, or a table that is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.table = folder / "jobs.sqlite3"
        try:
            (folder / "jobs").mkdir(parents=True, exist_ok=True)
            with self._open() as table:
                table.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cannot keep jobs in {folder} ({error}); choose another `folder`") from error

    @contextmanager
    def _open(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction; one that writes has the table to itself from its beginning."""
        table = sqlite3.connect(self.table, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            table.row_factory = sqlite3.Row
            table.execute("PRAGMA journal_mode=WAL")
            table.execute("PRAGMA synchronous=FULL")
            if not writes:
                yield table
                return
            table.execute("BEGIN IMMEDIATE")
            try:
                yield table
            except BaseException:
                table.execute("ROLLBACK")
                raise
            table.execute("COMMIT")
        finally:
            table.close()

    def folder_of(self, job_id: str) -> Path:
        """Where a job's files are."""
        return self.folder / "jobs" / job_id

    def new_folder(self) -> tuple[str, Path]:
        """An id for a job that is to be added, and its folder, for its source to be put into."""
        job_id = secrets.token_hex(8)
        folder = self.folder_of(job_id)
        folder.mkdir()
        return job_id, folder

    def add(
        self, job_id: str, request: dict[str, Any], *, priority: int = 0, longest_queue: int | None = None
    ) -> StoredJob:
        """Queue a job whose folder holds its source.

        Raises:
            QueueFullError: if so many wait already; nothing is queued then.
        """
        with self._open(writes=True) as table:
            if longest_queue is not None and self._count(table, "queued") >= longest_queue:
                raise QueueFullError(f"{longest_queue} jobs wait already; try again when some of them are done")
            number = table.execute("SELECT coalesce(max(number), 0) + 1 FROM jobs").fetchone()[0]
            table.execute(
                "INSERT INTO jobs (id, number, state, priority, request, created) VALUES (?, ?, 'queued', ?, ?, ?)",
                (job_id, number, priority, json.dumps(request), time.time()),
            )
        return self.get(job_id)

    def get(self, job_id: str) -> StoredJob:
        """Raises KeyError if there is none."""
        with self._open() as table:
            row = table.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise KeyError(job_id)
        return StoredJob.of(row)

    def list(self, *, limit: int = 100, before: int | None = None) -> "list[StoredJob]":
        """The newest first; those before a number."""
        with self._open() as table:
            rows = table.execute(
                "SELECT * FROM jobs WHERE ? IS NULL OR number < ? ORDER BY number DESC LIMIT ?", (before, before, limit)
            ).fetchall()
        return [StoredJob.of(row) for row in rows]

    def num_waiting(self) -> int:
        with self._open() as table:
            return self._count(table, "queued")

    @staticmethod
    def _count(table: sqlite3.Connection, state: State) -> int:
        return table.execute("SELECT count(*) FROM jobs WHERE state = ?", (state,)).fetchone()[0]

    def claim(self, claim: str) -> StoredJob | None:
        """The next job, which runs from now on for who claims it; None if none waits."""
        with self._open(writes=True) as table:
            row = table.execute(
                "SELECT id FROM jobs WHERE state = 'queued' ORDER BY priority DESC, number LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            table.execute(
                "UPDATE jobs SET state = 'running', claim = ?, claims = claims + 1, started = ?, phase = '', done = 0, "
                "total = 0, preview = 0 WHERE id = ?",
                (claim, time.time(), row["id"]),
            )
            return StoredJob.of(table.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone())

    def tell(self, job: StoredJob, phase: str, done: int, total: int, preview: int) -> bool:
        """Say how far a job is; whether it shall go on: it shall not if somebody stopped it, or others run it now."""
        with self._open(writes=True) as table:
            table.execute(
                "UPDATE jobs SET phase = ?, done = ?, total = ?, preview = ? "
                "WHERE id = ? AND claim = ? AND state = 'running'",
                (phase, done, total, preview, job.id, job.claim),
            )
            goes_on = table.execute(
                "SELECT 1 FROM jobs WHERE id = ? AND claim = ? AND state = 'running' AND NOT stop", (job.id, job.claim)
            ).fetchone()
        return goes_on is not None

    def end(self, job: StoredJob, state: State, outcome: dict[str, Any]) -> bool:
        """End a job that is run by who says so; False if it is not any more."""
        with self._open(writes=True) as table:
            changed = table.execute(
                "UPDATE jobs SET state = ?, outcome = ?, ended = ?, claim = NULL "
                "WHERE id = ? AND claim = ? AND state = 'running'",
                (state, json.dumps(outcome), time.time(), job.id, job.claim),
            ).rowcount
        return changed == 1

    def release(self, *, most_claims: int) -> None:
        """Queue again what ran when the one worker of this store died; with so many claims it has failed."""
        with self._open(writes=True) as table:
            given_up = json.dumps(
                {"error": f"the worker died {most_claims} times in this edit; is there memory enough?"}
            )
            table.execute(
                "UPDATE jobs SET state = 'cancelled', ended = ?, claim = NULL WHERE state = 'running' AND stop",
                (time.time(),),
            )
            table.execute(
                "UPDATE jobs SET state = 'failed', outcome = ?, ended = ?, claim = NULL "
                "WHERE state = 'running' AND claims >= ?",
                (given_up, time.time(), most_claims),
            )
            table.execute("UPDATE jobs SET state = 'queued', claim = NULL WHERE state = 'running'")

    def stop(self, job_id: str) -> StoredJob:
        """Cancel a job that waits, or ask the one who runs it to stop. Raises KeyError if there is none."""
        with self._open(writes=True) as table:
            table.execute(
                "UPDATE jobs SET state = 'cancelled', ended = ? WHERE id = ? AND state = 'queued'",
                (time.time(), job_id),
            )
            table.execute("UPDATE jobs SET stop = 1 WHERE id = ? AND state = 'running'", (job_id,))
        return self.get(job_id)

    def set_priority(self, job_id: str, priority: int) -> StoredJob:
        """Of a job that waits; of others without effect. Raises KeyError if there is none."""
        with self._open(writes=True) as table:
            table.execute("UPDATE jobs SET priority = ? WHERE id = ?", (priority, job_id))
        return self.get(job_id)

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended, and remove its files.

        Raises:
            KeyError: if there is none.
            UserError: if it has not ended.
        """
        if not self.get(job_id).has_ended:
            raise UserError("this job has not ended; cancel it first")
        with self._open(writes=True) as table:
            table.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        shutil.rmtree(self.folder_of(job_id), ignore_errors=True)

    def sweep(self, older_than: float) -> None:
        """Remove folders of uploads that never became a job, made more than so many seconds ago."""
        with self._open() as table:
            known = {row["id"] for row in table.execute("SELECT id FROM jobs")}
        for folder in (self.folder / "jobs").iterdir():
            if folder.name not in known and time.time() - folder.stat().st_mtime > older_than:
                shutil.rmtree(folder, ignore_errors=True)

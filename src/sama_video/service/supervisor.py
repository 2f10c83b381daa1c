"""Keeps the one worker of a store alive."""

import json
import logging
import subprocess
import sys
import threading
import time
from typing import Any

from .store import JobStore
from .worker import READY

_log = logging.getLogger("sama.service")
_LONGEST_PAUSE = 30.0  # seconds before a worker that keeps dying is started again


class Supervisor:
    """Starts a worker, and another one whenever it dies. Use it as a context.

    Args:
        options: for the worker: "models" that it offers, and how they are loaded.
    """

    def __init__(self, store: JobStore, options: dict[str, Any]):
        self.store, self.options = store, options
        self.ready_file = store.folder / READY
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> "Supervisor":
        self.ready_file.unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # which ends it
        self._thread.join()

    def _watch(self) -> None:
        pause = 0.5
        while not self._closing.is_set():
            command = [
                sys.executable, "-m", "sama_video.service.worker", str(self.store.folder), json.dumps(self.options)
            ]  # fmt: skip
            started = time.monotonic()
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
            code = self._process.wait()
            if self._closing.is_set():
                return
            _log.warning("the worker ended (%d) after %.0f s; starting another", code, time.monotonic() - started)
            self.ready_file.unlink(missing_ok=True)
            pause = 0.5 if time.monotonic() - started > 60 else min(2 * pause, _LONGEST_PAUSE)
            self._closing.wait(pause)

    def descriptions(self) -> list[dict[str, Any]]:
        """What the worker says of its models; nothing while the first one loads."""
        try:
            return json.loads(self.ready_file.read_text(encoding="utf-8"))["models"]
        except (OSError, ValueError):
            return []

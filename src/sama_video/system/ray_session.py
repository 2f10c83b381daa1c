"""Ray, quietly: a running cluster if RAY_ADDRESS names one, else this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import UserError


@contextmanager
def ray_session(what: str, init: dict[str, Any] | None = None) -> Iterator[Any]:
    """The package `ray`, connected while the context lasts.

    Args:
        what: needs it, for the error where it is missing.
        init: arguments of `ray.init` beyond the quiet defaults.

    Raises:
        UserError: if ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"{what} needs ray: pip install 'sama-video[ray]'") from error
    ray.init(**{"log_to_driver": False, "include_dashboard": False, "logging_level": "error", **(init or {})})
    try:
        yield ray
    finally:
        ray.shutdown()

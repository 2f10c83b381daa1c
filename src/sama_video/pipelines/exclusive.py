"""Calls of one pipeline, or of pipelines that share a part, queue: each has all of them to itself.

A call leaves traces in what it runs on: the pipeline's `_guidance_scale` and `_interrupt`, the VAE's cache of frames,
the scale of LoRA layers, where offloading has put the weights.
"""

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from torch import nn

Call = TypeVar("Call", bound=Callable[..., Any])


class _Turn:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: int | None = None


# Beside the objects, not in them: a pipeline with a lock could be neither copied nor pickled.
_turns: "weakref.WeakKeyDictionary[object, _Turn]" = weakref.WeakKeyDictionary()
_making = threading.Lock()


@contextmanager
def exclusive(*owners: object) -> Iterator[None]:
    """Wait until no other thread is in here with one of these objects.

    Raises:
        RuntimeError: if this thread itself is, as it would wait for ever.
    """
    with _making:
        turns = [_turns.setdefault(owner, _Turn()) for owner in owners]
    here = threading.get_ident()
    if any(turn.thread == here for turn in turns):
        raise RuntimeError(
            "a pipeline was called from within its own call (or one that shares a part); "
            "return from the callback first, or use a copy of the pipeline"
        )
    with ExitStack() as held:
        for turn in sorted(turns, key=id):  # in one order, so that no two calls wait for each other
            held.enter_context(turn.lock)
            turn.thread = here
            held.callback(setattr, turn, "thread", None)
        yield


def one_call_at_a_time(call: Call) -> Call:
    """Decorates a pipeline's `__call__`: see `exclusive`."""

    @functools.wraps(call)
    def queued(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
        with exclusive(pipeline, *parts):
            return call(pipeline, *args, **kwargs)

    return queued  # pyright: ignore[reportReturnType] (as `functools.wraps` is typed)

"""A queue of edits over several devices by Ray: each actor holds a model of its own, and takes the next when free."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pipelines.selection import Loading
from ..system.errors import UserError
from ..system.files import folder_made
from ..system.ray_session import ray_session
from .settings import EditSettings


@dataclass(frozen=True, kw_only=True)
class EditTask:
    """One edit, as `edit_video` takes it."""

    video: Path
    prompt: str
    output: Path
    settings: EditSettings
    compare: Path | None = None


class _Replica:
    """An actor: a model, and one edit after the other."""

    def __init__(self, loading: Loading, num_threads: int, folder: Path):
        self.loading, self.num_threads, self.folder, self.pipe = loading, num_threads, folder, None

    def load(self) -> UserError | None:
        """Why the model cannot be loaded, if so."""
        import torch

        from ..pipelines.loading import load

        torch.set_num_threads(self.num_threads)
        try:
            os.chdir(self.folder)  # paths, and records of them, are as the command has them
        except OSError as error:
            return UserError(f"a replica cannot work in {self.folder} ({error.strerror}); all machines must see it")
        try:
            self.pipe = load(self.loading)
        except UserError as error:
            return error
        return None

    def edit(self, index: int, task: EditTask) -> tuple[int, Exception | None]:
        """What went wrong, if something did."""
        from .editor import edit_video

        assert self.pipe is not None
        try:
            with folder_made(task.output.parent):
                edit_video(self.pipe, task.video, task.prompt, task.output, task.settings, compare=task.compare)
        except (UserError, OSError) as error:  # as they are: a full disk ends the whole queue
            return index, error
        except Exception as error:  # of a library's own class, perhaps, that does not travel
            return index, RuntimeError(f"{type(error).__name__}: {error}")
        return index, None


def edit_on_replicas(
    tasks: Sequence[EditTask], loading: Loading, replicas: int
) -> Iterator[tuple[int, Exception | None]]:
    """Edit on `replicas` devices of a running Ray cluster (RAY_ADDRESS), else of this machine.

    Files must be visible to all machines. An actor has a GPU to itself where there are some, else some of the cores.

    Yields:
        The index of a task and what went wrong with it, in the order in which they are done.

    Raises:
        UserError: if ray is missing, there are fewer GPUs than replicas, or a model cannot be loaded.
    """
    with ray_session("a queue over several devices") as ray:
        from ray.util import ActorPool

        gpus = 0 if loading.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        if 0 < gpus < replicas:
            raise UserError(f"there are {gpus} GPUs for {replicas} replicas; give `replicas` {gpus}")
        cores = max(1, int(ray.cluster_resources()["CPU"]) // replicas)
        actor: Any = ray.remote(num_gpus=1 if gpus else 0, num_cpus=cores)(_Replica)
        actors = [actor.remote(loading, cores, Path.cwd()) for _ in range(min(replicas, len(tasks)))]
        for error in ray.get([one.load.remote() for one in actors]):
            if error is not None:
                raise error
        pool: Any = ActorPool(actors)
        yield from pool.map_unordered(lambda one, given: one.edit.remote(*given), list(enumerate(tasks)))

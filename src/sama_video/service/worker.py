"""The one process that owns the models: it takes a store's jobs, one after the other, and edits them.

    python -m sama_video.service.worker FOLDER OPTIONS

It ends with the process that started it: its standard input closes then.
"""

import contextlib
import gc
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import numpy as np
import PIL.Image
from filelock import FileLock

from ..editing import EditSettings, check_edit, differences, edit_video, read_sidecar, seeded, write_seeds_sheet
from ..pipelines.loading import load
from ..pipelines.selection import Loading, Model, find_model
from ..system.errors import UserError
from ..system.files import written_aside
from ..video import VideoReader, result_suffix, write_playable
from .store import JobStore, StoredJob

if TYPE_CHECKING:
    from ..pipelines.pipeline_sama import SamaPipeline

_log = logging.getLogger("sama.worker")
LOCK = "worker.lock"
READY = "worker.json"  # what the models can do, written when the first is loaded
MOST_CLAIMS = 10  # of a job whose workers die
_POLL_SECONDS, _REPORT_SECONDS = 0.2, 0.2
_SHOWN_SIDE = 720  # pixels of the longer side of what a page plays
RESULT, BEFORE, AFTER, PREVIEW, SHEET = "result", "before", "after", "preview.webp", "result_seeds.png"


class Stopped(Exception):
    """Somebody wants a job to end, or it runs elsewhere by now."""


class Reporter:
    """Tells the store how far a job is, a few times a second, and raises `Stopped` when it shall not go on."""

    def __init__(self, store: JobStore, job: StoredJob, folder: Path, *, runs: int):
        self.store, self.job, self.folder, self.runs = store, job, folder, runs
        self.run, self.previews = 0, 0
        self._said = ("", 0.0)

    def progress(self, phase: str, done: int, total: int) -> None:
        """Of one of `runs` edits, as `Progress`."""
        now = time.monotonic()
        if phase == self._said[0] and now - self._said[1] < _REPORT_SECONDS and done < total:
            return
        self._said = (phase, now)
        if not self.store.tell(self.job, phase, self.run * total + done, self.runs * total, self.previews):
            raise Stopped

    def preview(self, frames: np.ndarray) -> None:
        """Keep small frames `[f, h, w, 3]` as an animation."""
        pictures = [PIL.Image.fromarray(frame) for frame in frames]
        with written_aside(self.folder / PREVIEW) as aside:
            pictures[0].save(
                aside, format="WEBP", save_all=True, append_images=pictures[1:], duration=160, loop=0, quality=80
            )
        self.previews += 1


class OfferedModels:
    """The models that a service offers; one of them is in memory.

    Args:
        offered: what each is called -> preset, folder or hub id; the first is for jobs that name none.
        options: of `Loading`, for each of them.

    Raises:
        UserError: for a model that is not there.
    """

    def __init__(self, offered: Mapping[str, str], options: Mapping[str, Any]):
        self.first = next(iter(offered))
        self._offered = {name: _found(model) for name, model in offered.items()}
        self._options = options
        self._loaded: tuple[str, SamaPipeline] | None = None

    def get(self, name: str | None) -> "SamaPipeline":
        """The model of this name, loaded if another one was.

        Raises:
            UserError: for a name that is not offered, or a model that cannot be loaded.
        """
        name = self.first if name is None else name
        if name not in self._offered:
            raise UserError(
                f"this service has no model {name} any more; ask for one of {', '.join(self._offered)}, or start it "
                f"with that one"
            )
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # before the other one takes memory
            gc.collect()
            self._loaded = name, load(Loading(model=self._offered[name], **self._options))
        return self._loaded[1]

    def descriptions(self) -> list[dict[str, Any]]:
        """What a page has to know of each."""
        infos = {name: model.info(self._options.get("lora")) for name, model in self._offered.items()}
        return [
            {
                "model": name,
                "steps": info.default_num_inference_steps,
                "guidance_scale": info.default_guidance_scale,
                "num_frames": info.native_num_frames,
                "trained_for": {sort: list(names) for sort, names in (info.trained_for or {}).items()},
            }
            for name, info in infos.items()
        ]


def _found(model: str) -> Model:
    # Weights may be read from a folder while this process is in a job's.
    return find_model(Path(model).resolve() if Path(model).is_dir() else model)


def edit_job(store: JobStore, models: OfferedModels, job: StoredJob) -> dict[str, Any]:
    """Make what a job asks for, in its folder; what is there already, from the same, is not made again.

    Returns:
        The job's outcome.

    Raises:
        UserError: for what cannot be edited.
        Stopped: if it shall not go on.
    """
    with contextlib.chdir(store.folder_of(job.id)):  # so that records and errors name its files alone
        return _edit_here(store, models, job)


def _edit_here(store: JobStore, models: OfferedModels, job: StoredJob) -> dict[str, Any]:
    folder, request = Path(), job.request
    reporter = Reporter(store, job, folder, runs=request["seeds"])
    reporter.progress("loading the model", 0, 1)
    pipe = models.get(request.get("model"))
    assert pipe.loaded_as is not None
    model = pipe.loaded_as.provenance
    source, prompt = Path(request["source"]), request["prompt"]
    settings = EditSettings(**request["settings"], mask=request["mask"])
    output = Path(f"{RESULT}{request['suffix'] or result_suffix(source)}")
    plan = check_edit(VideoReader(source, settings.max_source_pixels), prompt, output, settings, pipe.model_info)
    count = request["seeds"]
    ways = seeded(output, settings, count) if count > 1 else [(output, settings)]
    notes: dict[str, None] = {}
    for reporter.run, (path, way) in enumerate(ways):
        record = read_sidecar(path) if path.exists() else None
        if record is None or differences(record, source, prompt, way.resolved(pipe.model_info), model):
            record = edit_video(
                pipe, source, prompt, path, way, progress=reporter.progress, show_preview=reporter.preview
            )
        notes |= dict.fromkeys(record["notes"])
    results = [path for path, _ in ways]
    if count > 1:
        write_seeds_sheet(plan, results, folder / SHEET)
    shown = [
        write_playable(result, folder / f"{AFTER}{index}", _SHOWN_SIDE, progress=reporter.progress)
        for index, result in enumerate(results)
    ]
    first = read_sidecar(results[0])
    assert first is not None
    frames = first["source"]["num_frames"]
    piece = {"start": settings.start, "num_frames": frames}
    before = write_playable(source, folder / BEFORE, _SHOWN_SIDE, **piece, progress=reporter.progress)
    return {
        "results": [path.name for path in results],
        "before": before.name,
        "after": [path.name for path in shown],
        "sheet": SHEET if count > 1 else None,
        "notes": list(notes),
        "frames": frames,
    }


def run_jobs(store: JobStore, models: OfferedModels) -> Never:
    """Take jobs for ever."""
    claim = f"{os.getpid()}-{time.time_ns()}"
    while True:
        job = store.claim(claim)
        if job is None:
            time.sleep(_POLL_SECONDS)
            continue
        _log.info("job %d: %s", job.number, job.request["prompt"])
        try:
            store.end(job, "done", edit_job(store, models, job))
        except Stopped:
            store.end(job, "cancelled", {})
        except Exception as error:  # whatever an edit ends in, the next one is tried
            if not isinstance(error, UserError):
                _log.exception("job %d failed", job.number)
            store.end(job, "failed", {"error": told(error, store.folder_of(job.id))})


def told(error: Exception, folder: Path) -> str:
    """An error in words that name files of a job without the server's folders."""
    text = str(error) if isinstance(error, UserError) else f"the edit failed: {str(error) or type(error).__name__}"
    for prefix in (f"{folder}{os.sep}", f"{folder.resolve()}{os.sep}", str(folder), str(folder.resolve())):
        text = text.replace(prefix, "")
    return text.replace("`", "")


def main() -> None:
    folder, options = Path(sys.argv[1]).resolve(), json.loads(sys.argv[2])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    store = JobStore(folder)

    def end_with_the_server() -> None:
        with contextlib.suppress(OSError, ValueError):
            while sys.stdin.buffer.read(1):
                pass
        os._exit(0)  # in the middle of whatever it does: that is what a kill does, too

    threading.Thread(target=end_with_the_server, daemon=True).start()
    with FileLock(folder / LOCK):  # another worker of this store may be ending
        store.release(most_claims=MOST_CLAIMS)
        models = OfferedModels(options.pop("models"), options)
        models.get(None)
        with written_aside(folder / READY) as aside:
            aside.write_text(json.dumps({"pid": os.getpid(), "models": models.descriptions()}), encoding="utf-8")
        run_jobs(store, models)


if __name__ == "__main__":
    main()

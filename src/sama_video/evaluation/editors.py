"""Editors: what makes a video of an item. A pipeline, any program, a folder of finished results, or a control.

An editor writes one file for one item or raises `EditFailedError`; `predict.py` does the rest. Controls are editors of
known worth: whoever scores them wrong cannot be trusted.
"""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from ..data.engine_set import find_draft, folder_of_set, read_engine_set
from ..judge.redact import redactor_of, secrets_in
from ..synth.engine import in_taught_drawings
from ..synth.looks import LOOKS
from ..system.errors import UserError
from ..system.platforms import kill_group, split_command
from ..video import Frame, VideoReader, VideoWriter, write_image, write_lossless
from .benchmark import Item

if TYPE_CHECKING:
    from ..editing import EditSettings
    from ..pipelines.pipeline_sama import SamaPipeline

# Name of a control.
KNOWN_DRAWING = "known-drawing"
# Unlike any edit of a benchmark's: what half of it scores is not by chance half of an answer.
_STRONG_LOOK = "thermal"
_LOSSLESS = 0  # as `EditSettings.crf`


class EditFailedError(Exception):
    """The editor made nothing of this item; the message says why. Other items may go well."""


class Editor(Protocol):
    """What `predict` asks for edits.

    `name` stands in tables; `settings` says all that its results depend on: a run resumes only with the same.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def __call__(self, item: Item, output: Path) -> None:
        """Edit `item.source` and write the result to `output`, whose folder exists.

        Raises:
            EditFailedError: if this item cannot be edited.
            UserError: if no item can.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PipelineEditor:
    """SAMA itself, loaded once, at the first edit. Where the exact answer is known its results lose nothing as files.

    Args:
        model: preset, folder or hub id.
        edit: how each file is edited.
        loading: further arguments of `pipelines.loading.load_pipeline`, such as `lora` and `device`.
    """

    model: str
    edit: "EditSettings"
    loading: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return Path(self.model).name

    @property
    def settings(self) -> dict[str, Any]:
        from ..pipelines.selection import find_model

        model = find_model(self.model)
        identity = {
            "model": self.model,
            "weights": model.weights_identity,
            "configuration": model.configuration_identity,
        }
        return {**identity, **self.loading, **asdict(self.edit), "crf_beside_target": _LOSSLESS}

    @cached_property
    def pipe(self) -> "SamaPipeline":
        from ..pipelines.loading import load_pipeline

        return load_pipeline(self.model, **self.loading)

    def __call__(self, item: Item, output: Path) -> None:
        from ..editing import edit_video

        pipe = self.pipe
        settings = self.edit
        if item.target is not None:
            # yuv420p's coarser colours would count as errors of the editor's; a target shows how much is asked.
            settings = replace(settings, crf=_LOSSLESS, strength=1.0)
        try:
            edit_video(pipe, item.source, item.instruction, output, settings)
        except (UserError, RuntimeError, MemoryError) as error:  # torch says RuntimeError where memory ends
            raise EditFailedError(_last_line(str(error)) or type(error).__name__) from error


@dataclass(frozen=True, kw_only=True)
class CommandEditor:
    """Any program, one process an item, without a shell.

    Args:
        template: its command line with `{source}` and `{output}`, and `{instruction}` or `{reference}` where it
            takes them, such as "myedit --in {source} --text {instruction} --out {output}".
        timeout: seconds for an item; None waits for ever.

    Raises:
        UserError: for a template without `{source}` or `{output}`, or with broken quotes.
    """

    template: str
    timeout: float | None = None

    def __post_init__(self) -> None:
        for placeholder in ("{source}", "{output}"):
            if placeholder not in self.template:
                raise UserError(
                    f"`editor` needs {placeholder} in its command line, for example 'cp {{source}} {{output}}'"
                )
        try:
            split_command(self.template)
        except ValueError as error:
            raise UserError(f"`editor` is no command line ({error}): {self.template}") from error

    @property
    def name(self) -> str:
        return Path(split_command(self.template)[0]).name

    @property
    def settings(self) -> dict[str, Any]:
        return {"command": self.template}

    def __call__(self, item: Item, output: Path) -> None:
        process = _start(self._arguments(item, output))
        try:
            _, messages = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired as error:
            raise EditFailedError(f"it took longer than {self.timeout:g} s") from error
        finally:
            _end(process)
        if process.returncode:
            said = redactor_of(secrets_in(self.template))(_last_line(messages.decode(errors="replace")))
            raise EditFailedError(f"exit code {process.returncode}" + (f": {said}" if said else ""))

    def _arguments(self, item: Item, output: Path) -> list[str]:
        if "{reference}" in self.template and item.reference is None:
            raise EditFailedError("the item has no reference picture")
        values = {
            "source": str(item.source),
            "instruction": item.instruction,
            "output": str(output),
            "reference": str(item.reference),
        }
        placeholder = re.compile(rf"\{{({'|'.join(values)})\}}")
        return [placeholder.sub(lambda found: values[found[1]], part) for part in split_command(self.template)]


def _start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    """In a group of its own, so that what it starts ends with it."""
    nothing = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            arguments, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise EditFailedError("its instruction is longer than a command line can be") from error
        raise UserError(f"cannot start {arguments[0]} ({error.strerror}); check `editor`") from error


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        kill_group(process)
        process.communicate()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


@dataclass(frozen=True, kw_only=True)
class FolderEditor:
    """Results made elsewhere: named as `sama eval predict` names them, in FOLDER/TASK/ or FOLDER/, or where the
    benchmark's authors keep them. A folder of frames becomes a video at the source's rate, without loss."""

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise UserError(f"no such folder: {self.folder}; give the one that holds the edited videos")

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def settings(self) -> dict[str, Any]:
        return {"folder": str(self.folder.resolve())}

    def __call__(self, item: Item, output: Path) -> None:
        for name in (f"{item.task}/{item.file_name}", item.file_name, *item.results):
            # Names come from a benchmark's lists, and these from the net: none may lead out of the folder.
            if os.path.normpath(name).startswith(("..", os.sep)):
                continue
            found = os.path.join(self.folder, name)
            if os.path.isfile(found):
                shutil.copyfile(found, output)
                return
            if os.path.isdir(found) and (frames := _pictures_in(Path(found))):
                _write_frames(frames, item.source, output)
                return
        raise EditFailedError(f"no {item.file_name} in {self.folder}")


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))


def _write_frames(pictures: Sequence[Path], source: Path, output: Path) -> None:
    """Pictures in the order of their names to a video."""
    frames = [next(VideoReader(picture).frames()).pixels for picture in pictures]
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise EditFailedError(f"the frames in {pictures[0].parent} have {len(sizes)} sizes; a video has one")
    write_lossless(output, np.stack(frames), VideoReader(source).info.fps)


# Controls


@dataclass(frozen=True, kw_only=True)
class ControlEditor:
    """An editor of known worth.

    Args:
        control: key of `CONTROLS`.
        items: of the whole run; "wrong-clip" takes its clips from them.

    Raises:
        UserError: for an unknown control, or "known-drawing" of items that the engine did not make.
    """

    control: str
    items: Sequence[Item]

    def __post_init__(self) -> None:
        if self.control not in self.CONTROLS:
            raise UserError(f"`control` must be one of {', '.join(self.CONTROLS)}, got {self.control!r}")
        if self.control == KNOWN_DRAWING:
            _check_engine_made(self.items)

    @property
    def name(self) -> str:
        return self.control

    @property
    def settings(self) -> dict[str, Any]:
        return {"control": self.control}

    def __call__(self, item: Item, output: Path) -> None:
        try:
            self.CONTROLS[self.control](self, item, output)
        except UserError as error:
            raise EditFailedError(str(error)) from error

    def identity(self, item: Item, output: Path) -> None:
        """The source, byte for byte."""
        shutil.copyfile(item.source, output)

    def perfect(self, item: Item, output: Path) -> None:
        """The target, byte for byte."""
        if item.target is None:
            raise EditFailedError("the item has no target: nobody knows a perfect edit of it")
        shutil.copyfile(item.target, output)

    def half(self, item: Item, output: Path) -> None:
        """The mean of source and target; of source and a strong look where there is no target."""
        reader = VideoReader(item.source)
        source = _pixels(reader)
        target = LOOKS[_STRONG_LOOK](source) if item.target is None else _pixels_like(item.target, source)
        _write_like(item, reader, ((source.astype(np.uint16) + target + 1) // 2).astype(np.uint8), output)

    def noise(self, item: Item, output: Path) -> None:
        """Every value drawn at random, the same for the same item."""
        reader = VideoReader(item.source)
        generator = np.random.default_rng(list(item.id.encode()))
        _write_like(item, reader, generator.integers(0, 256, _pixels(reader).shape, dtype=np.uint8), output)

    def wrong_clip(self, item: Item, output: Path) -> None:
        """The next source in the run that is another one, at this one's size and length."""
        index = self.items.index(item)
        others = (*self.items[index + 1 :], *self.items[:index])
        other = next((one.source for one in others if one.source != item.source), None)
        if other is None:
            raise EditFailedError("all items of this run have the same source: there is no wrong clip")
        reader = VideoReader(item.source)
        _write_like(item, reader, _pixels_like(other, _pixels(reader)), output)

    def known_drawing(self, item: Item, output: Path) -> None:
        """The target, but what the edit brings in is drawn as the train split draws it."""
        config, draft = find_draft(item.target or item.source, item.id)
        _write_like(item, VideoReader(item.source), config.render(in_taught_drawings(draft)).target, output)

    CONTROLS: ClassVar[dict[str, Callable[["ControlEditor", Item, Path], None]]] = {
        "identity": identity,
        "wrong-clip": wrong_clip,
        "noise": noise,
        "half": half,
        "perfect": perfect,
        KNOWN_DRAWING: known_drawing,
    }


CONTROLS = tuple(ControlEditor.CONTROLS)


def _check_engine_made(items: Sequence[Item]) -> None:
    for folder in {folder_of_set(item.target or item.source) for item in items}:
        try:
            read_engine_set(folder)
        except UserError as error:
            raise UserError(
                f"the control {KNOWN_DRAWING} is for items that the synthetic engine made: {error}"
            ) from error


def _pixels(reader: VideoReader) -> np.ndarray:
    """uint8 `[F, H, W, 3]`."""
    return np.stack([frame.pixels for frame in reader.frames()])


def _pixels_like(file: Path, other: np.ndarray) -> np.ndarray:
    """A file's frames at the size and length of `other`; one that is too short begins again."""
    frames = [frame.pixels for frame in VideoReader(file).frames(num_frames=len(other), size=other.shape[1:3])]
    return np.stack([frames[index % len(frames)] for index in range(len(other))])


def _write_like(item: Item, reader: VideoReader, frames: np.ndarray, output: Path) -> None:
    """uint8 `[F, H, W, 3]` to a file at the source's rate, or its first frame to a picture if the source is one.

    Where the target is known scores are exact, and H.264 in YUV would weigh more than half a small edit: no loss then.
    """
    fps, (height, width) = reader.info.fps, frames.shape[1:3]
    if reader.info.is_image:
        write_image(output, frames[0])
    elif item.target is not None:
        write_lossless(output, frames, fps)
    else:
        with VideoWriter(output, height, width, fps, time_base=1 / fps) as writer:
            for index, pixels in enumerate(frames):
                writer.write(Frame(pixels, index / fps, 1 / fps))

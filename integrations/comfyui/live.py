"""An edit's progress in ComfyUI: the node's bar, its picture, and the button that stops it."""

import numpy as np
import PIL.Image
from comfy import model_management  # pyright: ignore[reportMissingImports] (ComfyUI's own)
from comfy.utils import ProgressBar  # pyright: ignore[reportMissingImports]

_PREVIEW_SIDE = 512  # pixels, what ComfyUI shows of a sampler by itself


class Live:
    """Shows an edit of `num_frames` frames on the node that runs; its methods are what `edit_clip` calls.

    The bar counts the model's steps and the finished frames together.
    """

    def __init__(self, num_frames: int):
        self.steps, self.num_steps, self.written, self.num_frames = 0, 0, 0, num_frames
        self.bar = ProgressBar(num_frames)

    def progress(self, phase: str, done: int, of: int) -> None:
        """Raises ComfyUI's own exception once the user has asked to stop."""
        model_management.throw_exception_if_processing_interrupted()
        if phase == "editing":
            self.steps, self.num_steps = done, of
        else:
            self.written = done
        self._show(None)

    def show_preview(self, frames: np.ndarray) -> None:
        """The middle one of these frames, uint8 `[f, h, w, 3]`."""
        picture = PIL.Image.fromarray(frames[len(frames) // 2])
        self._show(("JPEG", picture, _PREVIEW_SIDE))

    def _show(self, preview: tuple[str, PIL.Image.Image, int] | None) -> None:
        self.bar.update_absolute(self.steps + self.written, self.num_steps + self.num_frames, preview)

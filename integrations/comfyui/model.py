"""What goes over a SAMA_MODEL connection: a loaded pipeline, and the LoRA files that an edit is to be made with."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sama_video import SamaPipeline
from sama_video.pipelines.loading import load, load_loras


@dataclass(frozen=True, kw_only=True)
class SamaModel:
    """A pipeline and LoRA files, that are put in for one edit at a time and taken out again.

    So several branches of a workflow share the weights, and none sees another's LoRA files.

    Args:
        pipe: without adapters, or with those that it was loaded with.
        loras: path and scale of each file.
        turn: held by the edit that runs; shared by all that share `pipe`.
    """

    pipe: SamaPipeline
    loras: tuple[tuple[str, float], ...] = ()
    turn: threading.Lock = field(default_factory=threading.Lock)

    def with_lora(self, path: str, scale: float) -> "SamaModel":
        """The model with one more LoRA file; this one stays as it is.

        Adapters must be in a model before it is offloaded (`SamaLoraLoaderMixin`): one that is, is loaded once more.

        Raises:
            UserError: for a file that is no LoRA of this model, naming it.
        """
        placed = self.pipe.loaded_as
        if placed is not None and placed.offload != "none":
            return SamaModel(pipe=load(replace(placed, lora=[*(placed.lora or []), f"{path}:{scale}"])))
        model = replace(self, loras=(*self.loras, (path, scale)))
        with model.ready():
            return model

    @contextmanager
    def ready(self) -> Iterator[SamaPipeline]:
        """The pipeline with these LoRA files, for as long as this is open."""
        with self.turn:
            if not self.loras:
                yield self.pipe
                return
            try:
                load_loras(self.pipe, list(self.loras))
                yield self.pipe
            finally:
                self.pipe.unload_lora_weights()

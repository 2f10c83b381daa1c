"""SAMA: instruction-guided video editing with factorized semantic anchoring and motion alignment.

The names below are imported at their first use, so that `import sama_video` stays fast.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from .pipelines.registration import register

if TYPE_CHECKING:
    from .editing import EditSettings, edit_video
    from .pipelines.loading import load_pipeline
    from .pipelines.pipeline_sama import SamaPipeline

__all__ = ["EditSettings", "SamaPipeline", "__version__", "edit_video", "load_pipeline"]

__version__ = metadata.version("sama-video")

_MODULES = {
    "EditSettings": "editing",
    "edit_video": "editing",
    "load_pipeline": "pipelines.loading",
    "SamaPipeline": "pipelines.pipeline_sama",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


# So that `DiffusionPipeline.from_pretrained(folder)` knows our class, whichever of the two is imported first.
register()

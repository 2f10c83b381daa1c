"""SAMA: instruction-guided video editing with factorized semantic anchoring and motion alignment.

The names below are imported at their first use, so that `import sama_video` stays fast.
"""

from importlib import metadata
from typing import TYPE_CHECKING

from .system.lazy import lazy_names

if TYPE_CHECKING:
    from .editing import EditSettings, edit_video
    from .pipelines.loading import load_pipeline
    from .pipelines.pipeline_sama import SamaPipeline

__all__ = ["EditSettings", "SamaPipeline", "__version__", "edit_video", "load_pipeline"]

__version__ = metadata.version("sama-video")

__getattr__ = lazy_names(__name__, __all__, "editing", "pipelines.pipeline_sama", "pipelines.loading")

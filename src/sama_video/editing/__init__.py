"""Editing files: settings -> plan -> the edit itself -> the record of it.

The names below are imported at their first use: plans and records need no torch.
"""

from typing import TYPE_CHECKING

from ..system.lazy import lazy_names

if TYPE_CHECKING:
    from .editor import draw_contact_sheet, edit_frames, edit_video
    from .plan import EditPlan, check_edit, check_names, check_outputs, plan_edit
    from .record import FileState, differences, knows_its_source, read_sidecar, sidecar_of
    from .settings import EditSettings
    from .source_stream import Survey, frames_at_model_size, survey
    from .windows import Window, plan_windows

__all__ = [
    "EditPlan",
    "EditSettings",
    "FileState",
    "Survey",
    "Window",
    "check_edit",
    "check_names",
    "check_outputs",
    "differences",
    "draw_contact_sheet",
    "edit_frames",
    "edit_video",
    "frames_at_model_size",
    "knows_its_source",
    "plan_edit",
    "plan_windows",
    "read_sidecar",
    "sidecar_of",
    "survey",
]

__getattr__ = lazy_names(__name__, __all__, "settings", "record", "plan", "windows", "source_stream", "editor")

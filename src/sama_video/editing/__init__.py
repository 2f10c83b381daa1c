"""Editing files: settings -> plan -> the edit itself -> the record of it.

The names below are imported at their first use: plans and records need no torch.
"""

from typing import TYPE_CHECKING

from ..system.lazy import lazy_names

if TYPE_CHECKING:
    from .editor import ReadClip, draw_contact_sheet, edit_frames, edit_video, read_at_model_size
    from .plan import EditPlan, check_edit, check_names, check_outputs, plan_edit, window_starts
    from .record import FileState, differences, knows_its_source, read_sidecar, sidecar_of
    from .settings import EditSettings

__all__ = [
    "EditPlan",
    "EditSettings",
    "FileState",
    "ReadClip",
    "check_edit",
    "check_names",
    "check_outputs",
    "differences",
    "draw_contact_sheet",
    "edit_frames",
    "edit_video",
    "knows_its_source",
    "plan_edit",
    "read_at_model_size",
    "read_sidecar",
    "sidecar_of",
    "window_starts",
]

__getattr__ = lazy_names(__name__, __all__, "settings", "record", "plan", "editor")

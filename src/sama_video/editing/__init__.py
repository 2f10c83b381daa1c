"""Editing files: settings -> plan -> the edit itself -> the record of it.

The names below are imported at their first use: plans and records need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .editor import ReadClip, draw_contact_sheet, edit_frames, edit_video, read_at_model_size
    from .plan import EditPlan, check_edit, check_names, check_outputs, plan_edit, window_starts
    from .record import FileState, differences, knows_its_source, read_sidecar, sidecar_of
    from .settings import EditSettings

_MODULES = {
    "editor": ("ReadClip", "draw_contact_sheet", "edit_frames", "edit_video", "read_at_model_size"),
    "plan": ("EditPlan", "check_edit", "check_names", "check_outputs", "plan_edit", "window_starts"),
    "record": ("FileState", "differences", "knows_its_source", "read_sidecar", "sidecar_of"),
    "settings": ("EditSettings",),
}

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


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Editing files: settings -> plan -> the edit itself -> the record of it.

The names below are imported at their first use: plans and records need no torch.
"""

from typing import TYPE_CHECKING

from ..system.lazy import lazy_names

if TYPE_CHECKING:
    from .editor import edit_frames, edit_video
    from .plan import EditPlan, check_edit, check_names, check_outputs, plan_edit, seeded, seeds_sheet_of
    from .record import FileState, differences, knows_its_source, read_sidecar, sidecar_of
    from .seeds import edit_seeds, write_seeds_sheet
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
    "edit_frames",
    "edit_seeds",
    "edit_video",
    "frames_at_model_size",
    "knows_its_source",
    "plan_edit",
    "plan_windows",
    "read_sidecar",
    "seeded",
    "seeds_sheet_of",
    "sidecar_of",
    "survey",
    "write_seeds_sheet",
]

__getattr__ = lazy_names(__name__, __all__, "settings", "record", "plan", "windows", "source_stream", "editor", "seeds")

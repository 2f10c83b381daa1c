"""`diffusers.SamaPipeline`: where `DiffusionPipeline.from_pretrained(folder)` looks for the class that a folder names.

diffusers has no register of other packages' pipelines; it takes the attribute of its own module. It is given that one
name, resolved when somebody asks for it, so that importing either package stays as fast as it was.
"""

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LIBRARY, NAME = "diffusers", "SamaPipeline"


def register() -> None:
    """Give diffusers the name, now if it is imported already, or else as soon as it is."""
    if _LIBRARY in sys.modules:
        _add_name(sys.modules[_LIBRARY])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _add_name(library: ModuleType) -> None:
    # A module's missing attributes are looked up by its class; diffusers' own class resolves its names in this way.
    base: Any = type(library)
    if hasattr(base, "_resolves_sama_pipeline"):
        return

    class WithSamaPipeline(base):
        _resolves_sama_pipeline = True

        def __getattr__(self, name: str) -> Any:
            if name != NAME:
                return super().__getattr__(name)
            from .pipeline_sama import SamaPipeline

            return SamaPipeline

    library.__class__ = WithSamaPipeline


class _AfterImport(MetaPathFinder):
    """Finds diffusers as the others do, once, and adds the name after its import."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        if fullname != _LIBRARY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, wrapped: Any):
        self.wrapped = wrapped

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.wrapped.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.wrapped.exec_module(module)
        _add_name(sys.modules.get(_LIBRARY, module))  # diffusers puts another module in its place

    def __getattr__(self, name: str) -> Any:  # for whoever reads the library's source or data through its loader
        return getattr(self.wrapped, name)

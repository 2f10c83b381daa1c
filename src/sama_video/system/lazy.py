"""Names of a package that are imported at their first use, so that importing the package stays fast."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def lazy_names(package: str, names: Sequence[str], *modules: str) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562).

    Args:
        names: its `__all__`.
        modules: that have them; the first that has a name gives it, so those that import much come last.
    """

    def get(name: str) -> Any:
        if name in names:
            for module in map(import_module, (f"{package}.{module}" for module in modules)):
                if hasattr(module, name):
                    return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get

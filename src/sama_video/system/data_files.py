"""Tables of data are YAML files beside the modules that use them: `containers.yaml` beside `containers.py`."""

from pathlib import Path
from typing import Any

import yaml


def table_beside(module_file: str) -> Any:
    """What the table of a module holds; `module_file` is its `__file__`."""
    return yaml.safe_load(Path(module_file).with_suffix(".yaml").read_text(encoding="utf-8"))

"""Dataclasses that pydantic reads from files."""

from typing import ClassVar


class Strict:
    """A dataclass that files may hold: pydantic takes no other names than its fields'."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

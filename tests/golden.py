"""Reader of the golden tensors in `tests/fixtures/golden`, recorded from the official release (see its README)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent / "fixtures" / "golden"


@cache
def index() -> dict:
    return json.loads((FOLDER / "index.json").read_text())


@dataclass(frozen=True)
class Case:
    tensors: dict[str, torch.Tensor]
    info: dict

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def get(self, name: str) -> torch.Tensor | None:
        return self.tensors.get(name)


def case(name: str) -> Case:
    return Case(load_file(FOLDER / f"{name}.safetensors"), index()["cases"][name])


def float_weights(name: str, folder: Path) -> Path:
    """The half-precision weights (exact in float32) written as float32 into `folder`."""
    path = folder / name
    if not path.exists():
        save_file({key: value.float() for key, value in load_file(FOLDER / name).items()}, path)
    return path


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    assert actual.shape == expected.shape
    return float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())

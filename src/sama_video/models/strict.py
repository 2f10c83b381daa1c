"""Weights into models, strictly: every name that does not fit is listed, and nothing is half loaded."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import init_empty_weights

from ..errors import UserError
from .checkpoint_files import StateDict, listed

# A damaged configuration must not have a billion layers made.
MOST_LAYERS = 1000


def made(model_class: Callable[..., Any], config: Mapping[str, Any], what: str) -> Any:
    """A model without storage.

    Raises:
        UserError: for settings that the class does not take.
    """
    counts = {name: value for name, value in config.items() if name.startswith("num_") or name.endswith("_layers")}
    if odd := [name for name, value in counts.items() if isinstance(value, int | float) and value > MOST_LAYERS]:
        raise UserError(f"the configuration does not fit {what}: {odd[0]} is {counts[odd[0]]}")
    try:
        with init_empty_weights():
            return model_class(**config)
    except Exception as error:  # whatever a library makes of values that cannot be
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the configuration does not fit {what} ({reason}); get it again") from error


def load_strictly(model: torch.nn.Module, state: StateDict, what: str, may_miss: tuple[str, ...] = ()) -> None:
    """Put `state` into a model without storage, as it is stored.

    Args:
        may_miss: beginnings of names that need not be there.

    Raises:
        UserError: listing all that is unknown, missing, misshapen, of an integer type, infinite or no number.
    """
    expected = model.state_dict()
    both = sorted(state.keys() & expected.keys())
    problems = {
        "unknown": state.keys() - expected.keys(),
        "missing": [key for key in expected.keys() - state.keys() if not key.startswith(may_miss or ("\0",))],
        "misshapen": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in both
            if state[key].shape != expected[key].shape
        ],
        "not floating point": [f"{key} ({state[key].dtype})" for key in both if not state[key].is_floating_point()],
        "not finite": [key for key in both if state[key].is_floating_point() and not is_finite(state[key])],
    }
    if found := [f"{label}: {listed(names)}" for label, names in problems.items() if names]:
        raise UserError(f"this is not {what}; nothing was converted. " + "; ".join(found))
    model.load_state_dict(state, strict=not may_miss, assign=True)


def is_finite(tensor: torch.Tensor) -> bool:
    # A sum is finite only if every term is; it needs no second tensor, and in float64 it cannot overflow.
    return math.isfinite(tensor.sum(dtype=torch.float64).item())


def rename_all(state: StateDict, rename: Callable[[str], str | None], what: str) -> StateDict:
    """Raises UserError for names that have no other."""
    renamed = {key: rename(key) for key in state}
    if unknown := [key for key, name in renamed.items() if name is None]:
        raise UserError(f"this is not {what}; nothing was converted. unknown: {listed(unknown)}")
    return {str(renamed[key]): value for key, value in state.items()}


def need(state: StateDict, what: str, dimensions: Mapping[str, int]) -> None:
    """Raises UserError unless the weights that tell sizes are there, with these numbers of dimensions."""
    if missing := dimensions.keys() - state.keys():
        raise UserError(f"this is not {what}; nothing was converted. missing: {listed(missing)}")
    shapes = {key: tuple(state[key].shape) for key in dimensions}
    if odd := [f"{key} {shape}" for key, shape in shapes.items() if len(shape) != dimensions[key] or 0 in shape]:
        raise UserError(f"this is not {what}; nothing was converted. misshapen: {listed(odd)}")

"""A state dict into a model, strictly and as it is stored: every name that does not fit is listed."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import init_empty_weights

from ..system.errors import UserError
from .checkpoint_files import StateDict
from .strict_loading import TensorSpec, is_finite, names_that_do_not_fit
from .weight_files import first_line, listed

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
        raise UserError(f"the configuration does not fit {what} ({first_line(error)}); get it again") from error


def load_strictly(model: torch.nn.Module, state: StateDict, what: str, may_miss: tuple[str, ...] = ()) -> None:
    """Put `state` into a model without storage, as it is stored.

    Args:
        may_miss: beginnings of names that may be missing, all together.

    Raises:
        UserError: listing all that is unknown, missing, misshapen, of whole numbers, or not finite.
    """
    specs = {key: TensorSpec.of(value) for key, value in state.items()}
    problems = [names_that_do_not_fit(model.state_dict(), specs, may_miss)]
    if odd := [key for key, value in state.items() if not is_finite(value)]:
        problems.append(f"not finite: {listed(odd)}")
    if any(problems):
        raise UserError(f"this is not {what}; nothing was converted. " + "; ".join(filter(None, problems)))
    model.load_state_dict(state, strict=not may_miss, assign=True)


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

"""Schedulers of this model's flow, each call with a copy of its own."""

import copy
import inspect
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

FLOW = "flow_prediction"


def shift_of(scheduler: Any, otherwise: float) -> float:
    """The shift that was set on a scheduler; a shift of 1, diffusers' default, says nothing."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        shift = scheduler.shift
    else:
        shift = scheduler.config.get("flow_shift", scheduler.config.get("shift", 1.0))
    return otherwise if shift == 1.0 else shift


def scheduled(scheduler: Any, num_inference_steps: int, flow_shift: float, device: torch.device) -> Any:
    """A copy of a scheduler with its timesteps set: the release's for flow-match Euler, the others' own.

    `sigma = shift * s / (1 + (shift - 1) * s)` for `s` evenly spaced from 1 to 0.

    Raises:
        ValueError: for a scheduler that does not follow this flow: those that do are flow-match Euler and Heun, and
            diffusers' multistep solvers (UniPC, DPM-Solver, DEIS, SA) with `use_flow_sigmas=True` and
            `prediction_type="flow_prediction"`, or made from the configuration of one that does.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        own = copy.deepcopy(scheduler)
        own.set_shift(flow_shift)
        sigmas = np.linspace(1.0, 0.0, num_inference_steps + 1)[:-1]
        own.set_timesteps(sigmas=sigmas.tolist(), device=device)
    elif isinstance(scheduler, FlowMatchHeunDiscreteScheduler):
        # Its smallest sigma, shifted when it was made, is shifted again with the others: make it without a shift.
        own = type(scheduler).from_config(scheduler.config, shift=1.0)
        own.register_to_config(shift=flow_shift)
        own.set_timesteps(num_inference_steps, device=device)
    elif _follows_flow(scheduler):
        own = copy.deepcopy(scheduler)
        own.register_to_config(flow_shift=flow_shift, use_flow_sigmas=True, prediction_type=FLOW)
        own.set_timesteps(num_inference_steps, device=device)
    else:
        raise ValueError(
            f"{type(scheduler).__name__} as it is set does not follow this model's flow: use flow-match Euler "
            f"or Heun, or UniPC, DPM-Solver, DEIS or SA with use_flow_sigmas=True and prediction_type='{FLOW}'"
        )
    # Without it a solver looks the first timestep up among its own, and these, rounded, can be there twice.
    own.set_begin_index(0)
    return own


def _follows_flow(scheduler: Any) -> bool:
    config = scheduler.config
    if config.get("use_flow_sigmas") and config.get("prediction_type") == FLOW:
        return True
    # `UniPCMultistepScheduler.from_config(pipe.scheduler.config)` keeps the flow-match scheduler's entry, and has no
    # way to know that sigmas and prediction follow from it.
    return "use_flow_sigmas" in config and "shift" in config


def takes_generator(scheduler: Any) -> bool:
    """Whether its steps draw noise that a generator can seed."""
    return "generator" in inspect.signature(scheduler.step).parameters

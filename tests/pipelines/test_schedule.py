import copy
import logging
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)

from sama_video.pipelines.schedule import scheduled, shift_of
from tests import tiny

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
VIDEO = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def latents(pipe, seed=0, **changes):
    settings = {"prompt": "make it red", "num_inference_steps": 5, "output_type": "latent"} | changes
    return pipe(video=VIDEO, generator=torch.Generator().manual_seed(seed), **settings).frames


@cache
def made():
    return tiny.pipeline()


def with_scheduler(scheduler):
    pipe = copy.deepcopy(made())
    pipe.scheduler = scheduler
    return pipe


@pytest.mark.parametrize("kind", [UniPCMultistepScheduler, DPMSolverMultistepScheduler])
def test_a_scheduler_made_from_the_pipelines_configuration_follows_its_flow(kind, tmp_path):
    made().scheduler.save_pretrained(tmp_path)
    for flow in (made().scheduler, FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)):
        swapped = latents(with_scheduler(kind.from_config(flow.config, flow_shift=3.0)))
        assert torch.equal(swapped, latents(with_scheduler(kind(**FLOW, flow_shift=3.0))))


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=2.0),
        FlowMatchHeunDiscreteScheduler(shift=2.0),
        UniPCMultistepScheduler(**FLOW, flow_shift=2.0),
    ],
    ids=["euler", "heun", "unipc"],
)
def test_the_shift_of_a_scheduler_holds_and_the_calls_comes_first(scheduler):
    pipe = with_scheduler(scheduler)
    own = latents(pipe)
    assert torch.equal(own, latents(pipe, flow_shift=2.0))
    assert not torch.equal(own, latents(pipe, flow_shift=5.0))


def test_a_scheduler_without_a_shift_takes_the_models():
    for scheduler in (
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchHeunDiscreteScheduler(),
        UniPCMultistepScheduler(**FLOW),
    ):
        assert shift_of(scheduler, 7.0) == 7.0
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_shift(4.0)
    assert shift_of(scheduler, 7.0) == 4.0


def test_the_schedule_is_a_copy():
    scheduler = UniPCMultistepScheduler(**FLOW)
    own = scheduled(scheduler, 5, 3.0, torch.device("cpu"))
    assert len(own.timesteps) == 5
    assert scheduler.num_inference_steps is None
    assert scheduler.config.flow_shift == 1.0


@pytest.mark.parametrize(
    "scheduler",
    [
        SASolverScheduler(**FLOW),
        DPMSolverMultistepScheduler(**FLOW, algorithm_type="sde-dpmsolver++"),
        FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    ],
    ids=["sa", "sde", "euler"],
)
def test_the_seed_covers_the_noise_of_stochastic_schedulers(scheduler):
    pipe = with_scheduler(scheduler)
    first, second = latents(pipe), latents(pipe)
    assert torch.equal(first, second)
    assert not torch.equal(first, latents(pipe, seed=1))


def test_a_scheduler_of_its_own_configuration_warns_of_nothing(caplog):
    pipe = with_scheduler(FlowMatchHeunDiscreteScheduler(shift=2.0))
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        latents(pipe)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records

"""Calls of one pipeline from several threads: each gives what it gives alone."""

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler

from sama_video.pipelines.pipeline_sama import SamaPipeline
from tests import tiny

VIDEO = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
CALLS = (
    {"prompt": "make it red", "num_inference_steps": 2, "flow_shift": 5.0, "guidance_scale": 5.0},
    {"prompt": "make it blue", "num_inference_steps": 5, "flow_shift": 2.0, "guidance_scale": 1.0},
    {"prompt": ["warmer", "colder"], "num_inference_steps": 3, "flow_shift": 8.0, "guidance_scale": 3.0},
)


@cache
def made():
    return tiny.pipeline()


@pytest.fixture
def pipe():
    return copy.deepcopy(made())


@pytest.fixture(autouse=True)
def _threads_change_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def run(pipe, **changes):
    return pipe(video=VIDEO, generator=torch.Generator().manual_seed(0), **changes).frames


def at_once(*calls):
    """Results of functions that start together in threads of their own."""
    start = threading.Barrier(len(calls))

    def started(call):
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(timeout=600) for future in [threads.submit(started, call) for call in calls]]


@pytest.mark.parametrize("kind", ["euler", "heun", "unipc"])
def test_calls_at_once_give_what_each_gives_alone(kind, pipe):
    pipe.scheduler = {
        "euler": pipe.scheduler,
        "heun": FlowMatchHeunDiscreteScheduler(),
        "unipc": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    }[kind]
    alone = [run(pipe, **changes) for changes in CALLS]
    for _ in range(2):
        together = at_once(*(lambda changes=changes: run(pipe, **changes) for changes in CALLS))
        for expected, result in zip(alone, together, strict=True):
            assert np.array_equal(expected, result)


def test_pipelines_that_share_parts_queue_too(pipe):
    other = SamaPipeline(**pipe.components, num_semantic_tokens=5, max_sequence_length=24)
    other.set_progress_bar_config(disable=True)
    alone = [run(one, **changes) for one, changes in zip((pipe, other), CALLS, strict=False)]
    together = at_once(lambda: run(pipe, **CALLS[0]), lambda: run(other, **CALLS[1]))
    for expected, result in zip(alone, together, strict=True):
        assert np.array_equal(expected, result)


def test_callbacks_see_their_own_call(pipe):
    """The pipeline's attributes and its LoRA scale are those of the call that runs."""
    pipe.load_lora_weights(
        {
            "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 48),
            "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.ones(48, 2),
        }
    )
    layer = pipe.transformer.blocks[0].attn1.to_q
    seen = {2: set(), 5: set()}

    def callback(pipe, _step, _timestep, _tensors):
        scale = next(iter(layer.scaling.values()))
        settings = (pipe.num_timesteps, pipe.guidance_scale, scale, len(pipe.scheduler.timesteps))
        seen[pipe.num_timesteps].add(settings)

    at_once(
        lambda: run(pipe, **CALLS[0], attention_kwargs={"scale": 0.25}, callback_on_step_end=callback),
        lambda: run(pipe, **CALLS[1], callback_on_step_end=callback),
    )
    assert seen == {2: {(2, 5.0, 0.25, 2)}, 5: {(5, 1.0, 1.0, 5)}}
    assert next(iter(layer.scaling.values())) == 1.0


def test_a_call_leaves_the_scheduler_as_it_was_configured(pipe):
    for scheduler in (pipe.scheduler, FlowMatchHeunDiscreteScheduler(shift=2.0)):
        pipe.scheduler = scheduler
        before = dict(scheduler.config)
        run(pipe, **CALLS[1])
        assert pipe.scheduler is scheduler
        assert dict(scheduler.config) == before
        assert scheduler.step_index is None

    def fail(*_):
        raise KeyError("stop")

    with pytest.raises(KeyError):
        run(pipe, **CALLS[0], callback_on_step_end=fail)
    assert pipe.scheduler is scheduler
    assert pipe.current_timestep is None
    assert run(pipe, **CALLS[0]).shape == (1, 5, 32, 32, 3)  # the turn was given back


def test_a_scheduler_that_is_chosen_during_a_call_holds_afterwards(pipe):
    chosen = FlowMatchHeunDiscreteScheduler()
    expected = run(pipe, **CALLS[1])

    def choose(pipe, *_):
        pipe.scheduler = chosen

    assert np.array_equal(run(pipe, **CALLS[1], callback_on_step_end=choose), expected)
    assert pipe.scheduler is chosen


def test_a_call_from_within_a_call_is_refused_and_a_copy_works(pipe):
    expected = run(pipe, **CALLS[0])
    other = copy.deepcopy(pipe)
    results = []

    def again(_pipe, *_):
        with pytest.raises(RuntimeError, match="from within its own call"):
            run(pipe, **CALLS[0])
        results.append(run(other, **CALLS[0]))

    assert np.array_equal(run(pipe, **CALLS[0], callback_on_step_end=again), expected)
    assert len(results) == 2
    assert all(np.array_equal(result, expected) for result in results)


def test_another_pipeline_does_not_wait(pipe):
    """A call that stands still in its callback holds up nothing but its own pipeline."""
    other, inside, release = copy.deepcopy(pipe), threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert release.wait(600)

    with ThreadPoolExecutor(2) as threads:
        held = threads.submit(run, pipe, **CALLS[0], callback_on_step_end=wait)
        assert inside.wait(600)
        assert run(other, **CALLS[0]).shape == (1, 5, 32, 32, 3)
        queued = threads.submit(run, pipe, **CALLS[0])
        assert not queued.done()
        release.set()
        assert np.array_equal(held.result(60), queued.result(60))


def test_another_thread_can_stop_a_call_and_the_next_runs_all_its_steps(pipe):
    inside, release, steps = threading.Event(), threading.Event(), []

    def wait(_pipe, step, *_):
        steps.append(step)
        inside.set()
        assert release.wait(600)

    with ThreadPoolExecutor(2) as threads:
        stopped = threads.submit(run, pipe, **CALLS[1], callback_on_step_end=wait)
        assert inside.wait(600)
        queued = threads.submit(run, pipe, **CALLS[1])
        pipe._interrupt = True
        release.set()
        stopped.result(60)
        after = queued.result(60)
    assert steps == [0]
    assert np.array_equal(after, run(pipe, **CALLS[1]))

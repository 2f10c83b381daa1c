"""What needs a CUDA device: `python -m pytest -m gpu`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sama_video.pipelines.loading import load_pipeline
from tests import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny.pipeline().save_pretrained(folder)
    return str(folder)


def edited(pipe) -> np.ndarray:
    clip = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "generator": torch.Generator().manual_seed(0)}
    return pipe(video=clip, prompt="make it red", **options).frames[0]


@pytest.mark.parametrize("offload", ["model", "sequential", "group", "disk"])
def test_offloading_leaves_the_picture_as_it_is(offload, folder):
    whole = load_pipeline(folder, device="cuda", dtype="float32", memory="full")
    np.testing.assert_allclose(
        edited(load_pipeline(folder, device="cuda", dtype="float32", offload=offload)), edited(whole), atol=1e-4
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_makes_the_picture_of_a_cpu(device, folder):
    gpu, cpu = (load_pipeline(folder, device=where, dtype="float32") for where in (device, "cpu"))
    np.testing.assert_allclose(edited(gpu), edited(cpu), atol=2e-3)


def test_matrices_in_float8_take_less_memory(folder):
    def held(**options) -> int:
        before = torch.cuda.memory_allocated()
        pipe = load_pipeline(folder, device="cuda", memory="full", **options)
        assert np.isfinite(edited(pipe)).all()
        return torch.cuda.memory_allocated() - before

    assert held(storage_dtype="float8") < held()


def test_the_benchmark_runs():
    script = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
    small = ["--preset", "nano", "--trained-preset", "nano", "--height", "64", "--width", "64", "--num-frames", "5"]
    result = subprocess.run([sys.executable, script, *small], capture_output=True, text=True, check=True)
    assert "| ours over stock |" in result.stdout

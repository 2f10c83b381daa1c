"""Memory from sizes."""

from dataclasses import replace

import pytest

from sama_video.models.peak_memory import PartSizes, Work, batches_guidance, block_work, demand_of
from sama_video.models.presets import PRESETS
from sama_video.models.shapes import VideoShape
from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.pipelines.selection import parts_of_preset

GIB = 2**30
FULL = Work(
    video=VideoShape(num_frames=81, height=480, width=832),
    spatial_factor=8,
    text_tokens=512,
    num_semantic_tokens=65,
    with_guidance=True,
    tiles=False,
    device_memory=80 * GIB,
)
B14 = PRESETS["wan2.1-14b"]
PARTS = PartSizes.of_wan(B14.transformer, B14.num_parameters, 8)


def peaks(work=FULL, on_host=False, **kinds):
    return demand_of(PARTS, work, dtype="bfloat16", **kinds).peaks(on_host=on_host)


def test_offloading_needs_less_on_the_device_and_from_disk_nothing_in_main_memory():
    device = {name: peak.device for name, peak in peaks().items()}
    assert device["none"] > device["model"] > 2 * device["disk"] > 2 * device["group"]
    host = {name: peak.host for name, peak in peaks().items()}
    assert host["none"] == host["disk"] == 0
    assert host["model"] == host["group"] > 35 * GIB  # 14B and UMT5-XXL


def test_weights_are_counted_once_each():
    """At a clip of one small frame, little else is there."""
    small = replace(FULL, video=VideoShape(num_frames=1, height=64, width=64), tiles=True)
    weights = (14_300_847_552 + 126_892_531 + 5_680_910_336) * 2
    assert weights < peaks(small)["none"].device < 1.05 * weights
    narrow = peaks(small, storage_dtype="float8")["none"].device
    assert 0.62 < narrow / peaks(small)["none"].device < 0.7  # the blocks' matrices alone


def test_on_the_cpu_weights_are_in_memory_or_on_disk():
    assert list(peaks(on_host=True)) == ["none", "disk"]


def test_tiles_bound_the_autoencoder():
    large = replace(FULL, video=VideoShape(num_frames=5, height=2160, width=3840))
    tiled = replace(large, tiles=True)
    in_tiles, whole = (demand_of(PARTS, work, dtype="bfloat16").work for work in (tiled, large))
    assert in_tiles["encode"] < 0.05 * whole["encode"]
    assert in_tiles["decode"] < whole["decode"]


def test_guidance_in_one_pass_takes_twice_a_block_where_there_is_room():
    one = demand_of(PARTS, replace(FULL, with_guidance=False), dtype="bfloat16").work["denoise"]
    assert demand_of(PARTS, FULL, dtype="bfloat16").work["denoise"] == one
    roomy = replace(FULL, device_memory=2**40)
    assert demand_of(PARTS, roomy, dtype="bfloat16").work["denoise"] == 2 * one
    assert batches_guidance(B14.transformer, 66_845, 2**40)
    assert not batches_guidance(B14.transformer, 66_845, 80 * GIB)


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "wan2.2-5b", "wan2.1-14b", "nano", "nano-narrow"])
def test_presets_have_parts(name):
    preset = PRESETS[name]
    parts = parts_of_preset(preset)
    assert parts.parameters["transformer"] == preset.num_parameters
    assert parts.parameters["vae"] > 0
    work = replace(FULL, spatial_factor=preset.spatial_factor, video=VideoShape(num_frames=5, height=64, width=64))
    assert demand_of(parts, work, dtype="float32").peaks(on_host=True)["none"].device > 4 * preset.num_parameters


def test_a_block_s_matrices_are_what_is_narrowed():
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = SamaTransformer3DModel(**B14.transformer | {"num_layers": 1})
    matrices = sum(
        weight.numel() for name, weight in model.blocks[0].named_parameters() if weight.ndim == 2 and "norm" not in name
    )
    width = 5120
    assert matrices == 8 * width**2 + 2 * width * 13824
    assert block_work(B14.transformer, 1, 2) > 2 * (width + 13824)
    assert block_work(B14.transformer, 1, 4) <= 2 * block_work(B14.transformer, 1, 2)

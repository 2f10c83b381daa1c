import dataclasses

import pytest

from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.layouts import read_items
from sama_video.evaluation.pairs import make_engine_set


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory):
    """A sample of every family of the `engine` benchmark, small and short."""
    folder = tmp_path_factory.mktemp("engine")
    settings = {"split": "test", "count": 8, "num_frames": 5, "height": 64, "width": 96}
    benchmark = dataclasses.replace(find_benchmark("engine"), engine=settings)
    assert make_engine_set(benchmark, folder) == folder / "manifest.csv"
    return folder


@pytest.fixture(scope="session")
def engine_items(engine_folder):
    return read_items(find_benchmark("engine"), engine_folder)

"""Under Ray Data the results are the local run's, and a killed run's shards are not lost."""

import pytest

from sama_video.curation.curate import ANSWERS, curate
from sama_video.curation.ray_backend import _SHARDS, RayConfig, curate_with_ray
from sama_video.data.manifest import read_manifest
from sama_video.judge.answers import read_answers
from sama_video.system.errors import UserError
from tests.curation.pairs import derived_files, quick_config, write_pairs
from tests.judge_server import JudgeServer, Mishap, error_body

pytestmark = pytest.mark.slow
SPREAD = RayConfig(actors=2, rows_per_batch=2, init={"num_cpus": 2, "object_store_memory": 80_000_000})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def test_the_files_are_the_local_runs(manifest, tmp_path):
    rows = read_manifest(manifest)
    with JudgeServer() as server:
        config = quick_config(server.base_url)
        local = curate(rows, tmp_path / "local", config)
        alone = server.sold.total()
        spread = curate_with_ray(rows, tmp_path / "ray", config, spread=SPREAD)
        assert server.sold.total() == 2 * alone
        assert spread == local
        assert derived_files(tmp_path / "ray") == derived_files(tmp_path / "local")
        assert set(read_answers(tmp_path / "ray" / ANSWERS)) == set(read_answers(tmp_path / "local" / ANSWERS))
        assert list((tmp_path / "ray" / _SHARDS).iterdir()) == []
        curate(rows, tmp_path / "ray", config)
        assert server.sold.total() == 2 * alone


def test_a_stop_is_one_sentence_and_what_was_bought_serves_the_next_start(manifest, tmp_path):
    rows = read_manifest(manifest)
    with JudgeServer([None] * 12, delay=0.02) as server:
        config = quick_config(server.base_url)
        server.then = Mishap(401, error_body("expired"))
        with pytest.raises(UserError, match="refuses the key"):
            curate_with_ray(rows, tmp_path, config, spread=SPREAD)
        bought = server.sold.total()
        assert bought == 12
        server.then = None
        curate_with_ray(rows, tmp_path, config, spread=SPREAD)
        assert set(server.sold.values()) == {1}

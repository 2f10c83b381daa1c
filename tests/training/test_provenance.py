import json
import shutil
from dataclasses import replace

import torch

from sama_video.training.config import DatasetConfig, ParallelConfig
from sama_video.training.logs.provenance import note_environment, write_provenance
from sama_video.training.parallel import Parallel
from sama_video.training.recipes import smoke


def provenance(run, folder):
    folder.mkdir()
    write_provenance(run, folder)
    return json.loads((folder / "provenance.json").read_text())


def with_manifest(run, manifest):
    return replace(run, data=replace(run.data, datasets=(DatasetConfig(name="pairs", manifest=str(manifest)),)))


def test_it_names_weights_data_and_program(tiny_init, tmp_path):
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("src_video,tgt_video,prompt\n")
    run = smoke()[0].started_from(str(tiny_init))
    found = provenance(with_manifest(run, manifest), tmp_path / "run")
    assert found["initial_weights"]["hash"].startswith("sha256:")
    assert found["semantic_encoder"]["hash"].startswith("sha256:")
    assert found["data"] == [{"name": "pairs", "manifest": str(manifest), "hash": found["data"][0]["hash"]}]
    assert [one["name"] for one in provenance(run, tmp_path / "engine")["data"]] == ["image edits", "captioned clips"]


def test_other_weights_and_other_rows_have_other_hashes(tiny_init, tmp_path):
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("src_video,tgt_video,prompt\n")
    run = with_manifest(smoke()[0].started_from(str(tiny_init)), manifest)
    found = provenance(run, tmp_path / "run")
    changed = shutil.copytree(tiny_init, tmp_path / "init")
    weights = changed / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    manifest.write_text("src_video,tgt_video,prompt\na.mp4,b.mp4,make it so\n")
    other = provenance(run.started_from(str(changed)), tmp_path / "other")
    assert other["initial_weights"]["hash"] != found["initial_weights"]["hash"]
    assert other["data"][0]["hash"] != found["data"][0]["hash"]
    assert other["package"] == found["package"]


def test_every_start_is_noted(tmp_path):
    parallel = Parallel(rank=0, world_size=2, device=torch.device("cpu"), config=ParallelConfig())
    for step in (0, 40):
        note_environment(parallel, tmp_path, step, "float32")
    starts = [json.loads(line) for line in (tmp_path / "environment.jsonl").read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 40]
    assert starts[1]["world_size"] == 2
    assert starts[1]["versions"]["torch"] == torch.__version__

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sama_video.data.manifest import Row, write_manifest
from sama_video.models.convert_checkpoint import load_official_transformer, official_transformer_state
from sama_video.pipelines.conversion import convert_files
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.scope import NOTHING_YET
from sama_video.pipelines.selection import find_model
from sama_video.synth.sprites import NANO_VOCABULARY
from sama_video.system.errors import UserError
from sama_video.training.caching import CacheJob, fill_cache
from sama_video.training.config import DatasetConfig
from sama_video.training.mixture import taught_by
from tests import tiny
from tests.clips import write_clip
from tests.training import processes, runs


def same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_trained_nano_goes_to_the_official_names_and_back(tmp_path):
    run = processes.config(
        "nano", model={"semantic_encoder": "nano", "train_text_encoder": True}, loop={"num_steps": 1}
    )
    trainer = runs.trained(run, tmp_path)
    trainer.export(tmp_path / "export")
    convert_files(tmp_path / "export", tmp_path / "official", to="official")
    loaded = load_official_transformer(tmp_path / "official" / "sama.safetensors")
    exported = load_pipeline(str(tmp_path / "export")).transformer
    same_weights(loaded.state_dict(), exported.state_dict())
    for name in ("num_attention_heads", "attention_head_dim", "semantic_rope", "semantic_prediction"):
        assert loaded.config[name] == exported.config[name]
    assert "sama.safetensors" in {path.name for path in (tmp_path / "official").iterdir()}


def test_a_file_without_a_header_is_the_release_s(tmp_path):
    model = tiny.transformer()
    save_file(official_transformer_state(model), tmp_path / "plain.safetensors")
    loaded = load_official_transformer(tmp_path / "plain.safetensors", model.config.num_attention_heads)
    assert loaded.config.semantic_rope == "zero"
    same_weights(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize("streams", [{"roles": "shifted_rope"}, {"source": "channel"}])
def test_other_streams_have_no_official_names(streams):
    with pytest.raises(UserError, match="keep its diffusers folder"):
        official_transformer_state(tiny.transformer(**streams))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, and four clips with a cache of them."""
    folder = tmp_path_factory.mktemp("export")
    runs.write_models(folder)
    clips = [write_clip(folder / f"{number}.mp4", 8 + number, gop=4, height=64, width=64) for number in range(4)]
    rows = [Row(id=str(n), tgt_video=str(clip), prompt=f"a bar moves {n} times") for n, clip in enumerate(clips)]
    write_manifest(folder / "clips.jsonl", rows)
    return folder


def cached_config(folder, cache):
    run = runs.config(folder)
    datasets = (DatasetConfig(name="clips", manifest=str(folder / "clips.jsonl")),)
    data = {"datasets": datasets, "pretext_variants": 1, "frame_counts": (5,), "cache": cache, "cache_dtype": "float32"}
    return processes.config(
        folder / "text_to_video",
        model={"semantic_encoder": run.model.semantic_encoder},
        data=data,
        objective={"text_dropout": 0.5},
        loop={"num_steps": 2, "precision": "float32"},  # what is cached is what is encoded on the way only in float32
    )


def test_training_from_a_cache_is_training_from_the_clips(folder, tmp_path):
    fill_cache(CacheJob(run=cached_config(folder, str(folder / "cache"))))
    weights = []
    for cache in (None, str(folder / "cache")):
        trainer = runs.trained(cached_config(folder, cache), tmp_path / str(cache is None))
        weights.append(trainer.pipe.transformer.state_dict())
    same_weights(*weights)


def test_an_engine_s_samples_are_in_no_cache(folder, tmp_path):
    run = processes.config(folder / "editor", data={"cache": str(tmp_path)})
    with pytest.raises(UserError, match="comes from the engine"):
        processes.trainer(run, tmp_path)


def test_an_export_is_a_pipeline_that_the_next_stage_starts_from(folder, tmp_path):
    runs.trained(runs.config(folder), tmp_path / "first").export(tmp_path / "first" / "export")
    second = processes.trainer(runs.config(tmp_path / "first", "export", semantic=False), tmp_path)
    exported = load_file(tmp_path / "first" / "export" / "transformer" / "diffusion_pytorch_model.safetensors")
    same_weights(second.pipe.transformer.state_dict(), exported)


def engine_run(folder, init, **engine):
    """One step on the engine's edits."""
    datasets = (replace(runs.EDITS, engine=replace(runs.EDITS.engine, **engine)), runs.CAPTIONED)
    run = runs.config(folder, init, num_steps=1, semantic=False)
    return run.changed(data={"datasets": datasets})


def test_an_export_says_what_its_stages_taught(folder, tmp_path):
    pipe = load_pipeline(str(folder / "editor"))
    pipe.register_to_config(trained_for=NOTHING_YET)
    pipe.save_pretrained(tmp_path / "init")
    stages = {
        "one": {"init": "init", "families": ("local_add",), "vocabulary": NANO_VOCABULARY[:10]},
        "two": {"init": "one", "families": ("local_remove", "global_style"), "vocabulary": NANO_VOCABULARY[5:20]},
    }
    for name, stage in stages.items():
        processes.trainer(engine_run(tmp_path, **stage), tmp_path / f"run-{name}").export(tmp_path / name)
    taught = find_model(tmp_path / "two").info().trained_for
    assert taught["families"] == ["local_add", "local_remove", "global_style"]
    assert sorted(taught["things"]) == sorted(NANO_VOCABULARY[:20])
    assert "sepia" in taught["looks"]
    assert "backgrounds" not in taught


def test_an_export_of_a_model_that_may_know_more_says_nothing(folder, tmp_path):
    trainer = processes.trainer(engine_run(folder, "editor"), tmp_path)
    trainer.export(tmp_path / "export")
    assert not find_model(tmp_path / "export").info().trained_for


def test_manifests_teach_what_nobody_knows(folder):
    clips = DatasetConfig(name="clips", manifest=str(folder / "clips.jsonl"))
    data = runs.config(folder).data
    assert taught_by(data)["families"]
    assert taught_by(replace(data, datasets=(runs.CAPTIONED,))) == NOTHING_YET
    assert taught_by(replace(data, datasets=(*data.datasets, clips))) == {}

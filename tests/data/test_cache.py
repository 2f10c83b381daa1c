import errno
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import SiglipVisionModel
from typer.testing import CliRunner

from sama_video.cli.app import app, normalise_arguments
from sama_video.data.buckets import Buckets
from sama_video.data.cache import EncoderIdentity, LatentCache, _key
from sama_video.data.datasets import EngineDataset, ManifestDataset
from sama_video.data.encoding import Encoder
from sama_video.data.epoch import BatchConfig, WeightedDataset, scheduled_variants, tabulate
from sama_video.data.loader import BatchLoader, load_sample, sample_recipe
from sama_video.data.manifest import Row, read_manifest, write_manifest
from sama_video.data.samples import Recipe
from sama_video.data.shards import StoreWriter, TensorStore
from sama_video.models.semantic_encoder import SemanticEncoder
from sama_video.pipelines.loading import load_pipeline
from sama_video.system.errors import UserError
from sama_video.training.caching import CacheJob, fill_cache
from sama_video.training.config import DatasetConfig
from sama_video.training.mixture import cache_precision
from tests import tiny
from tests.clips import write_clip
from tests.commands import ended_by, start_python
from tests.data.fakes import FakeEngine
from tests.models.test_semantic_encoder import vision_model
from tests.training import processes

BUCKETS = Buckets(area=32 * 32, frame_counts=(1, 5, 9))
CONFIG = BatchConfig(buckets=BUCKETS, image_batch_size=2, video_batch_size=3, seed=3, pretext_variants=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Clips with a manifest, a tiny pipeline, a tiny SigLIP model."""
    folder = tmp_path_factory.mktemp("cache")
    clips = [write_clip(folder / f"{number}.mp4", 10 + number, gop=4, height=48, width=64) for number in range(4)]
    rows = [Row(id=f"clip{n}", tgt_video=str(clip), prompt=f"a bar moves {n} times") for n, clip in enumerate(clips)]
    rows += [Row(id="pair", src_video=str(clips[0]), tgt_video=str(clips[1]), prompt="make it red")]
    write_manifest(folder / "clips.jsonl", rows)
    tiny.pipeline().save_pretrained(folder / "model")
    vision_model().save_pretrained(folder / "siglip")
    return folder


def job(workplace, out, *, model="model", manifest=None, frame_counts=(1, 5, 9), dtype="float32", **settings):
    clips = DatasetConfig(name="clips", manifest=str(manifest or workplace / "clips.jsonl"))
    run = processes.config(
        workplace / model,
        model={"semantic_encoder": str(workplace / "siglip")},
        data={
            "datasets": (clips,),
            "area": 32 * 32,
            "frame_counts": frame_counts,
            "pretext_variants": 2,
            "cache": str(out),
            "cache_dtype": dtype,
        },
        loop={"seed": 3},
    )
    return CacheJob(run=run, **settings)


def mixture(workplace):
    rows = read_manifest(workplace / "clips.jsonl")
    return [WeightedDataset(name="clips", dataset=ManifestDataset(rows))]


def identity(workplace, **changes):
    arguments = {"dtype": torch.float32, "siglip": workplace / "siglip"} | changes
    return EncoderIdentity.of_folders(workplace / "model", **arguments)


@pytest.fixture(scope="module")
def filled(workplace):
    out = workplace / "filled"
    return out, fill_cache(job(workplace, out))


def same_bits(a, b):
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def assert_same(found, expected):
    for name in ("target", "source", "text", "semantic"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        assert a is None or same_bits(a, b), name
    for name in ("prompts", "tasks", "names", "bucket", "num_global", "is_filler"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_from_the_cache_is_training_without_it(workplace, filled, num_workers):
    pipe = load_pipeline(str(workplace / "model"))
    encoder = Encoder(pipe, SemanticEncoder.from_pretrained(workplace / "siglip"))
    cache = LatentCache(filled[0], identity(workplace))
    pixels = BatchLoader(mixture(workplace), CONFIG)
    cached = BatchLoader(mixture(workplace), CONFIG, cache=cache, num_workers=num_workers)
    tasks = set()
    for _ in range(3):
        for batch, found in zip(pixels, cached, strict=True):
            assert found.is_encoded
            assert_same(found, encoder.encode_portion(batch, range(len(batch.names))))
            tasks |= set(batch.tasks)
    assert len(tasks) >= 3
    assert found.text.shape[1:] == (24, 16)
    assert found.semantic.shape[1:] == (65, 32)


@torch.no_grad()
def test_the_pipelines_own_text_and_latents(workplace):
    pipe = load_pipeline(str(workplace / "model"))
    encoder = Encoder(pipe)
    expected, _ = pipe.encode_prompt("make it red", do_classifier_free_guidance=False)
    assert torch.equal(encoder.text("make it red"), expected[0])
    assert encoder.latents(torch.zeros(3, 5, 32, 32, 3, dtype=torch.uint8)).shape == (3, 4, 2, 4, 4)
    assert encoder.semantic(torch.zeros(5, 32, 32, 3, dtype=torch.uint8)) is None


def test_anchors_follow_one_another(workplace):
    encoder = Encoder(
        load_pipeline(str(workplace / "model")), SemanticEncoder.from_pretrained(workplace / "siglip"), num_anchors=3
    )
    clip = torch.randint(0, 256, (5, 32, 32, 3)).byte()
    (tokens,) = encoder.semantic(clip[None])
    assert tokens.shape == (3 * 65, 32)
    torch.testing.assert_close(tokens[65:130], encoder.semantic_encoder(clip[2:3])[0])
    assert encoder.semantic(clip[None, :1]).shape == (1, 65, 32)


def entries_by_shard(out):
    return {shard.name: set(safe_open(shard, "pt").keys()) for shard in out.glob("shard-*.safetensors")}


def test_a_second_run_computes_nothing(workplace, filled):
    out, report = filled
    before = entries_by_shard(out)
    assert report.num_samples == 10
    assert report.num_new == report.num_entries == len(TensorStore(out))
    again = fill_cache(job(workplace, out))
    assert again.num_new == 0
    assert again.num_entries == report.num_entries
    assert entries_by_shard(out) == before


@pytest.mark.slow
def test_several_processes_fill_the_same(workplace, filled, tmp_path):
    done = []
    report = fill_cache(job(workplace, tmp_path / "many", workers=2), progress=lambda *step: done.append(step))
    assert done[-1] == ("encoding", 5, 5)
    one, many = TensorStore(filled[0]), TensorStore(tmp_path / "many")
    assert report.num_entries == len(many)
    assert set(one.shard_of) == set(many.shard_of)
    assert len(entries_by_shard(tmp_path / "many")) == 2
    for key in one.shard_of:
        torch.testing.assert_close(one[key], many[key])


def test_a_killed_run_goes_on_and_computes_nothing_twice(workplace, filled, tmp_path):
    out = tmp_path / "killed"
    # Every entry is a shard, and each sample waits, so that the kill comes in the middle.
    code = (
        "import time; from sama_video.training.config import *; from sama_video.training.caching import *; "
        f"fill_cache({job(workplace, out, shard_bytes=1)!r}, progress=lambda *_: time.sleep(0.3))"
    )
    process = start_python(code)
    while len([*out.glob("shard-*")]) < 3 and process.is_alive():
        time.sleep(0.05)
    ended_by(process)
    left = entries_by_shard(out)
    expected = set(TensorStore(filled[0]).shard_of)
    assert 3 <= len(left) < len(expected)
    report = fill_cache(job(workplace, out, shard_bytes=1))
    finished = entries_by_shard(out)
    assert left.items() <= finished.items()
    assert report.num_new == len(expected) - len(left)
    assert sum(map(len, finished.values())) == len(set().union(*finished.values())) == report.num_entries
    assert set(TensorStore(out).shard_of) == expected


def test_ctrl_c_keeps_what_was_encoded(workplace, filled, tmp_path):
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        fill_cache(job(workplace, out), progress=interrupt_after(3))
    left = set(TensorStore(out).shard_of)
    assert left
    assert not [*out.glob(".*part*")]
    report = fill_cache(job(workplace, out))
    assert report.num_new == report.num_entries - len(left)
    assert set(TensorStore(out).shard_of) == set(TensorStore(filled[0]).shard_of)


def interrupt_after(number):
    def progress(_, done, __):
        if done == number:
            signal.raise_signal(signal.SIGINT)

    return progress


def test_a_full_disk_is_one_sentence_and_keeps_what_was_written(workplace, tmp_path, monkeypatch):
    out = tmp_path / "full"
    write_bytes = Path.write_bytes

    def write_until_full(path, content):
        if len([*out.glob("shard-*")]) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_bytes(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_until_full)
        with pytest.raises(UserError, match="disk is full"):
            fill_cache(job(workplace, out, shard_bytes=1))
    assert len(TensorStore(out)) == 2
    assert not [*out.glob(".*part*")]
    report = fill_cache(job(workplace, out, shard_bytes=1))
    assert report.num_new == report.num_entries - 2


@pytest.mark.slow
def test_ten_kills_of_a_cache(workplace, filled, tmp_path):
    """Two processes each time, forked so that none waits for imports; a rerun ends as an undisturbed one, and nothing
    of a dead process stays."""
    out, dice = tmp_path / "killed", random.Random(0)
    expected = set(TensorStore(filled[0]).shard_of)
    code = (
        "import multiprocessing, time; from sama_video.training import caching; "
        "from sama_video.training.config import *; from sama_video.training.caching import *; "
        "caching.SPAWN = multiprocessing.get_context('fork'); "
        f"fill_cache({job(workplace, out, shard_bytes=1, workers=2)!r}, progress=lambda *_: time.sleep(0.1))"
    )
    for _ in range(10):
        before = len([*out.glob("shard-*")])
        process = start_python(code)
        while process.is_alive() and len([*out.glob("shard-*")]) <= before:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.1))
        ended_by(process)
        assert set(TensorStore(out).shard_of) <= expected
    fill_cache(job(workplace, out, shard_bytes=1))
    assert set(TensorStore(out).shard_of) == expected
    assert not [*out.glob(".*part*")]


def test_what_auto_became_stays_in_the_cache(workplace, tmp_path, monkeypatch):
    """Filled where bfloat16 is fast, filled again and read where it is not."""
    out = tmp_path / "auto"
    wanted = job(workplace, out, dtype="auto")
    monkeypatch.setattr("sama_video.training.mixture.choose_precision", lambda _: "bfloat16")
    report = fill_cache(wanted)
    assert report.precision == "bfloat16"
    monkeypatch.setattr("sama_video.training.mixture.choose_precision", lambda _: "float32")
    assert fill_cache(wanted).num_new == 0
    assert cache_precision(wanted.run) == "bfloat16"
    store = TensorStore(out)
    assert {store[key].dtype for key in store.shard_of} == {torch.bfloat16}
    (out / "precision.json").write_text("half")
    with pytest.raises(UserError, match=r"precision.json is damaged"):
        cache_precision(wanted.run)


def test_a_cache_of_an_earlier_version_is_read_in_float32(workplace, filled):
    out, _ = filled
    assert not (out / "precision.json").exists()
    wanted = job(workplace, out, dtype="auto")
    assert fill_cache(wanted).num_new == 0
    assert cache_precision(wanted.run) == "float32"


def test_a_changed_model_finds_nothing_old(workplace, tmp_path):
    shutil.copytree(workplace / "model", tmp_path / "model")
    shutil.copytree(workplace / "siglip", tmp_path / "siglip")
    dataset = mixture(workplace)[0].dataset
    recipe = dataset.recipe(0, (32, 32), 5, torch.Generator().manual_seed(0))

    def keys(dtype=torch.float32, anchors=1, grid=8):
        settings = {"dtype": dtype, "siglip": tmp_path / "siglip", "num_anchors": anchors, "semantic_grid": grid}
        who = EncoderIdentity.of_folders(tmp_path / "model", **settings)
        return who.keys(recipe)

    recipe_keys = keys()
    assert recipe_keys == identity(workplace).keys(recipe)
    changes = ("target", "text", "semantic")
    tiny.vae(seed=1).save_pretrained(tmp_path / "model" / "vae")
    assert {name for name in changes if keys()[name] != recipe_keys[name]} == {"target"}
    (tmp_path / "model" / "tokenizer" / "tokenizer_config.json").write_text("{}")
    assert {name for name in changes if keys()[name] != recipe_keys[name]} == {"target", "text"}
    SiglipVisionModel(vision_model().config).save_pretrained(tmp_path / "siglip")
    assert all(keys()[name] != recipe_keys[name] for name in changes)
    assert all(keys(dtype=torch.bfloat16)[name] != keys()[name] for name in changes)
    assert keys(anchors=2)["semantic"] != keys()["semantic"]
    assert keys(grid=4) == keys() | {"semantic": keys(grid=4)["semantic"]} != keys()


def test_one_entry_never_stands_for_two_clips(workplace):
    config = BatchConfig(buckets=BUCKETS, seed=3, pretext_variants=12)
    who, weighted = identity(workplace), mixture(workplace)[0]
    clips = {}
    for scheduled in scheduled_variants([tabulate(weighted)], config):
        keys = who.keys(sample_recipe(weighted, scheduled, config))
        sample = load_sample(weighted, scheduled, config)
        for name in ("target", "source"):
            if name in keys:
                clip = getattr(sample, name)
                assert torch.equal(clips.setdefault(keys[name], clip), clip)
    assert len(clips) > 50


def test_sources_shuffled_by_another_rule_have_entries_of_their_own(workplace):
    who, weighted = identity(workplace), mixture(workplace)[0]
    config = BatchConfig(buckets=BUCKETS, seed=3, pretext_variants=12)
    other = replace(config, shuffle_keeps_last_frame=False)
    differing = set()
    for scheduled in scheduled_variants([tabulate(weighted)], config):
        keys, others = (who.keys(sample_recipe(weighted, scheduled, one)) for one in (config, other))
        differing |= {(scheduled.task, name) for name in keys if keys[name] != others[name]}
    assert differing == {("tube_shuffle", "source")}


def test_entries_of_an_earlier_version_are_not_read_and_filled_again(workplace, filled, tmp_path):
    out, who, weighted = tmp_path / "old", identity(workplace), mixture(workplace)[0]
    with StoreWriter(out) as writer:
        for scheduled in scheduled_variants([tabulate(weighted)], CONFIG):
            recipe = sample_recipe(weighted, scheduled, CONFIG)
            key = _key("latents", who.vae, recipe.target, version=1)
            if key not in writer:
                writer.add(key, torch.zeros(1))
    told = (
        "lacks 10 of 10 samples looked at, since an earlier version of sama filled it.*; fill it by 'sama data cache'"
    )
    with pytest.raises(UserError, match=told):
        BatchLoader(mixture(workplace), CONFIG, cache=LatentCache(out, who))
    left = set(TensorStore(out).shard_of)
    assert fill_cache(job(workplace, out)).num_new == filled[1].num_new
    assert set(TensorStore(out).shard_of) == left | set(TensorStore(filled[0]).shard_of)
    assert len(BatchLoader(mixture(workplace), CONFIG, cache=LatentCache(out, who)).schedule())


def test_what_is_not_in_the_cache_is_said(workplace, filled):
    out, _ = filled
    other_seed = BatchConfig(buckets=BUCKETS, image_batch_size=2, video_batch_size=3, seed=4, pretext_variants=2)
    cache = LatentCache(out, identity(workplace))
    with pytest.raises(UserError, match=r"lacks \d of 10 samples looked at.*sama data cache"):
        BatchLoader(mixture(workplace), other_seed, cache=cache)
    with pytest.raises(UserError, match=r"lacks 4 of 4 samples"):  # rank 1 has looked at its half
        BatchLoader(mixture(workplace), other_seed, rank=1, world_size=2, cache=cache)
    with pytest.raises(UserError, match=r"lacks target, text.* of x; a file has changed"):
        cache.read(Recipe(target={}, source=None, prompt="", task="edit", name="x"))
    with pytest.raises(ValueError, match="pretext_variants"):
        BatchLoader(mixture(workplace), BatchConfig(buckets=BUCKETS), cache=cache)
    engine = WeightedDataset(name="e", dataset=EngineDataset(FakeEngine(), num_samples=1, shapes=((5, 32, 32),)))
    with pytest.raises(ValueError, match="EngineDataset"):
        BatchLoader([engine], CONFIG, cache=cache)


def test_a_broken_clip_stops_the_run_in_one_sentence(workplace, tmp_path):
    bad = write_clip(tmp_path / "bad.mp4", 9)
    bad.write_bytes(bad.read_bytes()[:900])
    rows = [Row(id=str(n), tgt_video=str(Path(workplace / "0.mp4")), prompt=f"{n}") for n in range(1, 4)]
    write_manifest(tmp_path / "m.csv", [*rows, Row(id="bad", tgt_video=str(bad), prompt="x")])
    with pytest.raises(UserError, match=r"bad\.mp4"):
        fill_cache(job(workplace, tmp_path / "out", manifest=tmp_path / "m.csv"))


def test_a_model_at_the_hub_is_not_known_by_its_files(workplace, tmp_path):
    wanted = job(workplace, tmp_path / "out")
    with pytest.raises(UserError, match=r"download owner/name and set model.init to its folder"):
        fill_cache(replace(wanted, run=wanted.run.started_from("owner/name")))


def test_jobs_that_cannot_be_done_are_said(workplace, tmp_path):
    with pytest.raises(UserError, match=r"got 48; use 45 or 49"):
        job(workplace, tmp_path / "out", frame_counts=(1, 48))
    with pytest.raises(UserError, match="`workers` must be at least 1"):
        job(workplace, tmp_path, workers=0)
    with pytest.raises(UserError, match=r"data\.cache=FOLDER"):
        CacheJob(run=processes.config(workplace / "model"))
    with pytest.raises(UserError, match="recipe of one stage"):
        replace(job(workplace, tmp_path), run=job(workplace, tmp_path).run.started_from("previous"))


def sama(*arguments):
    result = CliRunner().invoke(app, normalise_arguments([str(part) for part in arguments]))
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_two_commands_take_the_same_settings(tmp_path, monkeypatch):
    """The shipped nano, clips longer than their bucket, two epochs; then settings under which nothing is there."""
    write_clip(tmp_path / "a.mp4", 30)
    write_clip(tmp_path / "b.mp4", 31)
    (tmp_path / "pairs.csv").write_text("src_video,tgt_video,prompt\na.mp4,b.mp4,make it red\n")
    monkeypatch.chdir(tmp_path)  # the manifest's path is the dataset's name, which the draws of its samples hang on
    settings = {
        "model.init": "nano",
        "model.train_text_encoder": "false",
        "data.datasets": "pairs.csv",
        "data.cache": tmp_path / "cached",
        "data.cache_dtype": "float32",
        "data.frame_counts": "1,5",
        "data.area": 64 * 64,
        "data.image_batch_size": 1,
        "data.video_batch_size": 1,
        "data.num_workers": 0,
        "loop.num_steps": 2,
        "loop.validate_every": 0,
    }

    def options(**changes):
        return [part for name, value in (settings | changes).items() for part in ("--set", f"{name}={value}")]

    assert "1 samples, 4 entries in float32, 4 of them new" in sama("data", "cache", "nano-finetuning", *options())
    files = [file.stat().st_mtime_ns for file in sorted((tmp_path / "cached").rglob("*")) if file.is_file()]
    sama("train", "nano-finetuning", "--out", tmp_path / "run", *options())
    assert (tmp_path / "run" / "nano_finetuning" / "export").is_dir()
    assert files == [file.stat().st_mtime_ns for file in sorted((tmp_path / "cached").rglob("*")) if file.is_file()]
    for other in ({"loop.seed": 7}, {"data.cache_dtype": "bfloat16"}, {"data.area": 128 * 128}):
        with pytest.raises(UserError, match="lacks 1 of 1 samples looked at; fill it by 'sama data cache'"):
            sama("train", "nano-finetuning", "--out", tmp_path / "other", *options(**other))

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sama_video.pipelines.conversion import convert_files
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.lora_files import LORA_FILE, LoraFile
from sama_video.system.errors import UserError
from sama_video.training.config import LoraConfig
from sama_video.training.losses import flow_matching_step
from sama_video.training.overrides import with_settings
from sama_video.training.preparation import prepare_transformer
from tests import tiny
from tests.training import processes, runs

LORA = LoraConfig(rank=3, alpha=5)
STREAMS = {"roles": "shifted_rope", "source": "channel"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    runs.write_models(folder)
    return folder


@pytest.fixture(scope="module")
def trainer(folder):
    return runs.trained(runs.config(folder, "editor", lora=LORA), folder / "run")


@pytest.fixture(scope="module")
def file(trainer, folder):
    trainer.export(folder / "export")
    return folder / "export" / LORA_FILE


@pytest.fixture(scope="module")
def expected(trainer):
    return runs.edited_by_average(trainer)


@pytest.fixture
def editor(folder):
    pipe = load_pipeline(str(folder / "editor"))
    pipe.register_to_config(num_semantic_tokens=65)
    return pipe


def close(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_adapters_and_small_parts_train_and_nothing_else(trainer, folder):
    before = load_pipeline(str(folder / "editor")).transformer.state_dict()
    after = {name.replace(".base_layer", ""): w for name, w in trainer.pipe.transformer.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("type_embedding", "semantic_"))}
    adapters = [name for name, w in trainer.pipe.transformer.named_parameters() if ".lora_" in name and w.any()]
    assert len(adapters) == 2 * (8 + 2) * 2  # both matrices of 8 attention and 2 feed-forward layers in 2 blocks


def test_loading_gives_what_was_trained(file, expected, editor, folder):
    before = runs.edited(editor)
    assert (before - expected).abs().max() > 1e-2
    for path in (file, str(file), file.parent):
        editor.load_lora_weights(path)
        close(runs.edited(editor), expected)
        editor.unload_lora_weights()
        assert torch.equal(runs.edited(editor), before)
    close(runs.edited(load_pipeline(str(folder / "editor"), lora=[str(file)])), expected)


def test_merged_equals_unmerged(file, expected, editor):
    editor.load_lora_weights(file)
    editor.fuse_lora()
    editor.unload_lora_weights()
    close(runs.edited(editor), expected)
    editor.unload_lora_weights()
    close(runs.edited(editor), expected)


def test_the_command_merges(file, expected, folder, tmp_path):
    for lora in (file, file.parent):
        convert_files(lora, tmp_path / "merged", merge_into=str(folder / "editor"), overwrite=True)
        close(runs.edited(load_pipeline(str(tmp_path / "merged"))), expected)
    convert_files(tmp_path / "merged", tmp_path / "official", to="official")


def test_the_scale_counts_for_the_small_parts_too(file, expected, editor):
    before = runs.edited(editor)
    base = editor.transformer.type_embedding.weight.clone()
    trained = load_file(file)["transformer.type_embedding.weight"]
    editor.load_lora_weights(file, adapter_name="a")
    editor.load_lora_weights(file, adapter_name="b")
    editor.set_adapters(["a", "b"], [0.5, 0.25])
    close(editor.transformer.type_embedding.weight, base + 0.75 * (trained - base))
    half = runs.edited(editor)
    editor.set_adapters(["a", "b"], [0.25, 0.5])
    close(runs.edited(editor), half)
    editor.set_adapters("a", 1.0)
    close(runs.edited(editor), expected)
    editor.disable_lora()
    assert torch.equal(runs.edited(editor), before)
    editor.enable_lora()
    close(runs.edited(editor), expected)
    editor.delete_adapters(["a", "b"])
    assert torch.equal(editor.transformer.type_embedding.weight, base)


def test_the_streams_travel_with_the_file(folder, file, tmp_path):
    config = runs.config(folder, target="clean", lora=LORA, **STREAMS)
    config = replace(config, objective=replace(config.objective, num_anchors=3, semantic_grid=4))
    trainer = runs.trained(config, tmp_path)
    trainer.export(tmp_path / "export")
    expected = runs.edited_by_average(trainer)
    convert_files(tmp_path / "export" / LORA_FILE, tmp_path / "converted.safetensors")
    plain = load_pipeline(str(folder / "text_to_video"))
    before = runs.edited(plain)
    for path in (tmp_path / "export", tmp_path / "converted.safetensors"):
        plain.load_lora_weights(path)
        assert plain.transformer.config.source == "channel"
        assert plain.transformer.config.semantic_prediction == "clean"
        assert (plain.transformer.config.semantic_grid, plain.config.num_semantic_tokens) == (4, 3 * 17)
        close(runs.edited(plain), expected)
        with pytest.raises(ValueError, match="unload them first"):
            plain.load_lora_weights(file, adapter_name="other")
        plain.delete_adapters(plain.get_active_adapters())
        assert plain.transformer.source_embedding is None
        assert plain.transformer.config.semantic_grid == 8
        plain.load_lora_weights(file)
        assert plain.transformer.config.roles == "type"
        plain.unload_lora_weights()
        assert torch.equal(runs.edited(plain), before)


def test_a_file_of_before_there_was_a_grid(file, expected, editor, tmp_path):
    """Its header does not name one: tokens were 65 an anchor."""
    lora = LoraFile.read(file)
    del lora.metadata["sama.semantic_grid"]
    lora.save(tmp_path / LORA_FILE)
    editor.transformer.register_to_config(semantic_grid=4)
    editor.load_lora_weights(tmp_path)
    assert editor.transformer.config.semantic_grid == 8
    close(runs.edited(editor), expected)
    editor.unload_lora_weights()
    assert editor.transformer.config.semantic_grid == 4


def test_a_file_of_another_model_changes_nothing(file):
    wider = tiny.pipeline()
    wider.register_modules(transformer=tiny.transformer(num_attention_heads=4))
    before = runs.edited(wider)
    assert wider.config.num_semantic_tokens == 5
    with pytest.raises(ValueError, match=r"no weights of these names and shapes: semantic_head\.norm\.bias"):
        wider.load_lora_weights(file)
    assert wider.config.num_semantic_tokens == 5
    assert torch.equal(runs.edited(wider), before)


def test_the_file_needs_no_header_for_its_scale(file):
    """alpha / rank = 5/3 lies in the matrices."""
    with safe_open(file, framework="pt") as opened:
        assert "lora_alpha" not in str(opened.metadata())
    assert not [key for key in load_file(file) if "alpha" in key]


def test_settings_turn_a_full_training_into_one_of_adapters(folder):
    full = runs.config(folder)
    assert with_settings(full, ["model.lora.rank=8"]).model.lora == LoraConfig(rank=8)
    assert with_settings(runs.config(folder, lora=LORA), ["model.lora=none"]) == full


def test_a_lora_has_no_place_for_a_text_encoder(folder):
    config = runs.config(folder, lora=LORA, train_text_encoder=True)
    with pytest.raises(UserError, match="train_text_encoder=false"):
        prepare_transformer(load_pipeline(config.model.init), config.model, config.objective)


def test_frozen_matrices_in_bfloat16_change_nothing_under_autocast(folder):
    run = runs.config(folder, "editor", lora=LORA)
    gradients = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        pipe = load_pipeline(run.model.init)
        transformer = pipe.transformer
        prepare_transformer(pipe, run.model, run.objective, precision=precision)
        kinds = {weight.dtype for weight in transformer.parameters()}
        assert kinds == {torch.float32} | ({torch.bfloat16} if precision == "bfloat16" else set())
        torch.manual_seed(1)
        for name, weight in transformer.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weight, std=0.1)
        with torch.autocast("cpu", torch.bfloat16):
            target, noise = torch.randn(2, 2, 4, 2, 4, 4).unbind()
            semantic, semantic_noise = torch.randn(2, 2, 5, 12).unbind()
            output = flow_matching_step(
                transformer,
                target=target,
                source=target,
                text=torch.randn(2, 6, 16),
                sigma=torch.tensor([0.3, 0.8]),
                noise=noise,
                semantic=semantic,
                semantic_noise=semantic_noise,
            )
        output.loss.sum().backward()
        gradients.append({name: w.grad for name, w in transformer.named_parameters() if w.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_processes_write_the_file_of_one(precision, folder, tmp_path):
    run = runs.config(folder, "editor", lora=LORA)
    run = replace(run, loop=replace(run.loop, precision=precision))
    runs.trained(run, tmp_path / "alone").export(tmp_path / "alone" / "export")
    assert processes.run(processes.train, run, tmp_path / "together", world_size=2) == [0, 0]
    alone, together = (load_file(tmp_path / name / "export" / LORA_FILE) for name in ("alone", "together"))
    assert alone.keys() == together.keys()
    if precision == "bfloat16":
        return  # sums of bfloat16 gradients depend on their order
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=0, atol=1e-3)  # Adam's first steps enlarge rounding

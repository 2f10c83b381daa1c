import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

from sama_video.cli.app import app
from sama_video.models.convert_checkpoint import (
    official_text_encoder_state,
    official_transformer_state,
    official_vae_state,
)
from sama_video.models.presets import ASSETS, PRESETS, PipelineSettings, Preset
from sama_video.pipelines.conversion import EXPERTS, convert_files
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.pipeline_sama import SamaPipeline
from sama_video.pipelines.selection import find_model, read_preset
from sama_video.system.errors import UserError
from tests import tiny
from tests.golden import FOLDER
from tests.training import processes, runs

NANO = ASSETS / "nano"
DIT, VAE = (FOLDER / f"{name}_weights.safetensors" for name in ("dit_tiny24", "vae_dim8"))
HEADS = 4


def public(config):
    """Without what says when and by whom a file was written."""
    config = dict(config)
    left_out = ("transformers_version", "architectures", "dtype")
    return {name: value for name, value in config.items() if name[0] != "_" and name not in left_out}


def configuration(folder):
    """All of a pipeline folder's settings, and the type of every part's numbers."""
    pipe = SamaPipeline.from_pretrained(folder)
    parts = (pipe.transformer, pipe.vae, pipe.scheduler)
    found = {type(part).__name__: public(part.config) for part in parts}
    found["pipeline"] = {k: v for k, v in public(pipe.config).items() if k not in pipe.components}
    if pipe.text_encoder is not None:
        found["text encoder"] = public(pipe.text_encoder.config.to_dict())
        found["tokenizer"] = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
        found["vocabulary"] = (folder / "tokenizer" / "tokenizer.json").read_text()
    files = sorted(folder.rglob("*.safetensors"))
    found["types"] = {str(file.relative_to(folder)): {str(v.dtype) for v in load_file(file).values()} for file in files}
    return json.loads(json.dumps(found, default=str))


def weights(folder):
    files = sorted(folder.rglob("*.safetensors"))
    return {(str(file.relative_to(folder)), name): v for file in files for name, v in load_file(file).items()}


def same_model(first, second):
    one, other = configuration(first), configuration(second)
    assert one.keys() == other.keys()
    for part in one:
        assert one[part] == other[part]
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def trained_folder(tmp_path):
    """What a run exports that trained everything."""
    trainer = runs.trained(
        processes.config("nano", model={"semantic_encoder": "nano", "train_text_encoder": True}, loop={"num_steps": 1}),
        tmp_path,
    )
    trainer.export(tmp_path / "export")
    return tmp_path / "export"


def changed_folder(tmp_path):
    """Every setting another than the default, a scheduler of its own, numbers in bfloat16."""
    settings = {
        "prompt_prefix": "Edit: ",
        "num_semantic_tokens": 5,
        "native_area": 64 * 64,
        "native_num_frames": 9,
        "default_num_inference_steps": 7,
        "default_guidance_scale": 2.5,
        "default_flow_shift": 4.0,
    }
    pipe = tiny.pipeline(**settings)
    changed = {"shift": 4.0, "use_karras_sigmas": True}
    pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(**changed))
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
        part.to(torch.bfloat16)
    pipe.save_pretrained(tmp_path / "changed")
    return tmp_path / "changed"


def wan22_vae():
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=8, decoder_base_dim=16, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
        scale_factor_spatial=16, latents_mean=[0.1] * 48, latents_std=[1.5] * 48,
    ).eval()  # fmt: skip


def wan22_folder(tmp_path):
    pipe = SamaPipeline(
        tiny.transformer(in_channels=48, out_channels=48), wan22_vae(), **vars(PRESETS["wan2.2-5b"].settings)
    )
    pipe.save_pretrained(tmp_path / "wan22")
    return tmp_path / "wan22"


@pytest.fixture(params=["nano", "trained", "changed", "wan2.2"])
def folder(request, tmp_path):
    makers = {"trained": trained_folder, "changed": changed_folder, "wan2.2": wan22_folder}
    return NANO if request.param == "nano" else makers[request.param](tmp_path)


def test_a_folder_keeps_its_whole_configuration(folder, tmp_path):
    assert convert_files(folder, tmp_path / "again").notes == []
    same_model(folder, tmp_path / "again")


def test_the_official_names_and_back_keep_it_too(folder, tmp_path):
    convert_files(folder, tmp_path / "official", to="official")
    assert convert_files(tmp_path / "official", tmp_path / "back").notes == []
    same_model(folder, tmp_path / "back")


def test_other_numbers_are_all_that_dtype_changes(tmp_path):
    convert_files(NANO, tmp_path / "wide", dtype="float32")
    convert_files(tmp_path / "wide", tmp_path / "narrow", dtype="float16")
    same_model(NANO, tmp_path / "narrow")


def test_the_preset_of_the_shipped_model_is_what_ships():
    shipped = read_preset(find_model(NANO))
    nano = PRESETS["nano"]
    assert (shipped.settings, shipped.num_parameters) == (nano.settings, nano.num_parameters)
    assert shipped.spatial_factor == nano.spatial_factor
    assert {name: shipped.transformer[name] for name in nano.transformer} == nano.transformer


def test_a_pipeline_s_defaults_are_the_released_model_s():
    pipe = SamaPipeline(tiny.transformer(), tiny.vae())
    assert {name: pipe.config[name] for name in vars(PipelineSettings())} == vars(PRESETS["wan2.1-14b"].settings)


# Wan's own figures: its README for 1.3B, `wan_ti2v_5B.py` for Wan2.2.
@pytest.mark.parametrize(
    ("name", "native_area", "frames", "steps", "guidance", "shift"),
    [
        ("wan2.1-1.3b", 480 * 832, 81, 50, 6.0, 8.0),
        ("wan2.1-14b", 480 * 832, 81, 50, 5.0, 5.0),
        ("wan2.2-5b", 704 * 1280, 121, 50, 5.0, 5.0),
    ],
)
def test_presets_have_the_settings_of_their_releases(name, native_area, frames, steps, guidance, shift):
    settings = PRESETS[name].settings
    assert (settings.native_area, settings.native_num_frames) == (native_area, frames)
    assert settings.default_num_inference_steps == steps
    assert (settings.default_guidance_scale, settings.default_flow_shift) == (guidance, shift)


def save(state, file):
    save_file({key: value.contiguous() for key, value in state.items()}, file)


def without_sama(state):
    return {key: value for key, value in state.items() if not key.startswith(("segment", "siglip", "semantic"))}


def text_encoder(width):
    torch.manual_seed(0)
    return UMT5EncoderModel(UMT5Config(vocab_size=50, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def original_wan(folder, with_config=True):
    """As Wan's own release is laid out: a config.json of its own beside files of official names."""
    folder.mkdir()
    save(without_sama(load_file(DIT)), folder / "diffusion_pytorch_model-00001-of-00001.safetensors")
    torch.save(load_file(VAE), folder / "Wan2.1_VAE.pth")
    torch.save(official_text_encoder_state(text_encoder(40)), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    if with_config:
        (folder / "config.json").write_text(
            json.dumps({"_class_name": "WanModel", "model_type": "t2v", "num_heads": 4})
        )
    return folder


@pytest.mark.parametrize("with_config", [True, False])
def test_an_original_wan_folder(with_config, tmp_path):
    folder = original_wan(tmp_path / "Wan2.1-T2V", with_config)
    convert_files(folder, tmp_path / "pipe", num_attention_heads=None if with_config else HEADS)
    pipe = SamaPipeline.from_pretrained(tmp_path / "pipe")
    assert (pipe.transformer.config.num_attention_heads, pipe.text_encoder.config.d_model) == (HEADS, 40)
    assert pipe.transformer.type_embedding.weight.abs().sum() == 0


def test_a_file_with_its_parts_and_back(tmp_path):
    save(official_text_encoder_state(text_encoder(40)), tmp_path / "t5.safetensors")
    options = {"vae": VAE, "text_encoder": tmp_path / "t5.safetensors", "num_attention_heads": HEADS}
    conversion = convert_files(DIT, tmp_path / "pipe", **options)
    assert "it got the settings of wan2.1-14b" in conversion.notes[0]
    pipe = SamaPipeline.from_pretrained(tmp_path / "pipe")
    assert pipe.config.prompt_prefix == "[Video edit] "
    convert_files(tmp_path / "pipe", tmp_path / "official", to="official")
    for name, file in (
        ("sama", DIT),
        ("Wan2.1_VAE", VAE),
        ("models_t5_umt5-xxl-enc-bf16", tmp_path / "t5.safetensors"),
    ):
        back, before = load_file(tmp_path / "official" / f"{name}.safetensors"), load_file(file)
        assert back.keys() == before.keys()
        assert all(torch.equal(back[key], before[key]) for key in back)
    with pytest.raises(UserError, match="exists"):
        convert_files(DIT, tmp_path / "pipe", num_attention_heads=HEADS)


def test_a_model_with_wan22_s_vae_gets_its_size(tmp_path):
    save(official_transformer_state(tiny.transformer(in_channels=48, out_channels=48)), tmp_path / "model.safetensors")
    torch.save(official_vae_state(wan22_vae()), tmp_path / "vae.pth")
    conversion = convert_files(
        tmp_path / "model.safetensors", tmp_path / "pipe", vae=tmp_path / "vae.pth", num_attention_heads=2
    )
    assert "it got the settings of wan2.2-5b" in conversion.notes[-1]
    index = json.loads((tmp_path / "pipe" / "model_index.json").read_text())
    expected = vars(PRESETS["wan2.2-5b"].settings)
    assert {name: index[name] for name in expected} == expected


def test_a_file_of_a_known_size_that_says_nothing(monkeypatch, tmp_path):
    """Such as the released weights: heads and settings are the preset's."""
    sizes = tiny.TRANSFORMER | {"num_attention_heads": 4, "attention_head_dim": 64}
    preset = Preset(transformer=sizes, num_parameters=0, settings=PipelineSettings(native_num_frames=9))
    monkeypatch.setitem(PRESETS, "tiny", preset)
    torch.save(official_transformer_state(tiny.transformer(**sizes)), tmp_path / "model.pth")
    tiny.vae().save_pretrained(tmp_path / "vae")
    conversion = convert_files(tmp_path / "model.pth", tmp_path / "pipe", vae=tmp_path / "vae")
    assert conversion.notes == []
    assert read_preset(find_model(tmp_path / "pipe")).settings == preset.settings
    transformer = json.loads((tmp_path / "pipe" / "transformer" / "config.json").read_text())
    assert (transformer["num_attention_heads"], transformer["attention_head_dim"]) == (4, 64)


def test_a_nano_whose_header_is_gone(tmp_path):
    """After a tool that drops headers: how wide it predicts around the source is nowhere else."""
    convert_files(NANO, tmp_path / "official", to="official")
    torch.save(load_file(tmp_path / "official" / "sama.safetensors"), tmp_path / "model.pth")
    refused(tmp_path / "model.pth", tmp_path, "the header that says how wide is gone", vae=NANO / "vae")


def test_an_assumed_number_of_heads_is_said(tmp_path):
    save(
        official_transformer_state(tiny.transformer(num_attention_heads=1, attention_head_dim=256)), tmp_path / "a.pth"
    )
    assert "2 heads of width 128 were assumed" in convert_files(tmp_path / "a.pth", tmp_path / "out").notes[0]


def stock_pipeline(folder, **changes):
    torch.manual_seed(0)
    config = {name: value for name, value in tiny.TRANSFORMER.items() if not name.startswith("semantic")}
    parts = {"tokenizer": None, "text_encoder": None, "vae": tiny.vae()} | changes
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanPipeline(transformer=WanTransformer3DModel(**config), scheduler=scheduler, **parts)
    pipe.save_pretrained(folder)
    return folder


def test_a_stock_pipeline_keeps_its_scheduler(tmp_path):
    convert_files(stock_pipeline(tmp_path / "stock"), tmp_path / "pipe")
    pipe = SamaPipeline.from_pretrained(tmp_path / "pipe")
    assert isinstance(pipe.scheduler, UniPCMultistepScheduler)
    assert (pipe.scheduler.config.flow_shift, pipe.config.default_flow_shift) == (3.0, 3.0)


def test_merging_keeps_the_model_s_configuration(tmp_path):
    base = changed_folder(tmp_path)
    lora = {
        f"blocks.0.self_attn.q.lora_{x}.weight": torch.ones(*shape) / 100
        for x, shape in (("A", (2, 48)), ("B", (48, 2)))
    }
    save(lora, tmp_path / "lora.safetensors")
    convert_files(tmp_path / "lora.safetensors", tmp_path / "merged", merge_into=str(base))
    merged, before = configuration(tmp_path / "merged"), configuration(base)
    for found in (merged, before):
        for name in ("is_local", "local_files_only"):  # how transformers loaded it
            found["tokenizer"].pop(name, None)
    assert merged == before


def refused(source, tmp_path, message, **options):
    with pytest.raises(UserError, match=message) as caught:  # which the command prints, and ends with 2
        convert_files(source, tmp_path / "refused", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "refused").exists()


def test_other_pipelines_are_named(tmp_path):
    for name in EXPERTS:
        (tmp_path / "A14B" / name).mkdir(parents=True)
    refused(tmp_path / "A14B", tmp_path, r"two transformers, one for high and one for low noise \(Wan2.2 A14B\)")
    folder = stock_pipeline(tmp_path / "stock")
    index = json.loads((folder / "model_index.json").read_text())
    for change, message in (
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "two transformers"),
        ({"_class_name": "WanImageToVideoPipeline"}, "a pipeline of the class 'WanImageToVideoPipeline'"),
        ({"_class_name": []}, "a pipeline of the class"),
    ):
        (folder / "model_index.json").write_text(json.dumps(index | change))
        refused(folder, tmp_path, message)
    for text in ("", "{", "[]", "null", "[" * 100_000):
        (folder / "model_index.json").write_text(text)
        refused(folder, tmp_path, "model_index.json")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("transformer", {"_class_name": "WanVACETransformer3DModel"}, "of class 'WanVACETransformer3DModel'"),
        ("transformer", {"image_dim": 1280}, "is an image-to-video model"),
        ("transformer", {"num_layers": 3}, "missing: blocks.2"),
        ("transformer", {"num_layers": 10**9}, "num_layers is 1000000000"),
        ("transformer", {"num_layers": "two"}, "num_layers is 'two' and must be a whole number"),
        ("transformer", {"patch_size": 0}, "patch_size is 0 and must be a list of 3"),
        ("transformer", {"semantic_rope": "none"}, "semantic_rope is 'none' and must be 'zero' or 'identity'"),
        ("vae", {"_class_name": "AutoencoderKL"}, "of the class 'AutoencoderKL'"),
        ("vae", {"base_dim": 0}, "base_dim is 0 and must be a whole number"),
        ("text_encoder", {"model_type": "t5"}, "model_type is 't5' and must be 'umt5'"),
        ("text_encoder", {"d_model": 32}, "misshapen"),
        ("scheduler", {"_class_name": "Nothing"}, "unknown class: 'Nothing'"),
        ("scheduler", {"shift": "wide"}, "scheduler's configuration"),
    ],
)
def test_configurations_that_do_not_fit(part, change, message, tmp_path):
    shutil.copytree(changed_folder(tmp_path), tmp_path / "broken")
    file = tmp_path / "broken" / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(tmp_path / "broken", tmp_path, message)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"surplus": torch.zeros(1)}, "unknown: surplus"),
        (lambda s: dict(list(s.items())[1:]), "missing: "),
        (lambda s: s | {next(iter(s)): torch.zeros(3, 3, 3)}, "misshapen: "),
        (lambda s: s | {next(iter(s)): next(iter(s.values())) * torch.nan}, "not finite: "),
        (lambda s: s | {next(iter(s)): torch.zeros_like(next(iter(s.values())), dtype=torch.int8)}, "not floating"),
    ],
)
def test_every_part_of_a_folder_loads_strictly(part, change, message, tmp_path):
    shutil.copytree(changed_folder(tmp_path), tmp_path / "broken")
    file = next((tmp_path / "broken" / part).glob("*.safetensors"))
    save(change(dict(sorted(load_file(file).items()))), file)
    refused(tmp_path / "broken", tmp_path, message)


def test_parts_of_different_models(tmp_path):
    torch.save(official_vae_state(wan22_vae()), tmp_path / "vae.pth")
    options = {"num_attention_heads": HEADS}
    refused(DIT, tmp_path, "has 48 latent channels and the transformer takes 16", vae=tmp_path / "vae.pth", **options)
    save(official_text_encoder_state(text_encoder(64)), tmp_path / "t5.safetensors")
    wide = {"vae": VAE, "text_encoder": tmp_path / "t5.safetensors", **options}
    refused(DIT, tmp_path, "features are 64 wide and the transformer takes 40", **wide)
    swapped = wide | {"vae": tmp_path / "t5.safetensors"}
    refused(DIT, tmp_path, "it is a UMT5 encoder of Wan's; pass it as `text_encoder`", **swapped)
    refused(VAE, tmp_path, "it is a Wan VAE; pass it as `vae`")


def test_a_broken_tokenizer(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{")
    options = {"vae": VAE, "tokenizer": tmp_path / "tokenizer", "num_attention_heads": HEADS}
    refused(DIT, tmp_path, "tokenizer.json is not JSON", **options)


def test_overwrite_replaces_a_model_and_nothing_else(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.txt").write_text("not a model")
    with pytest.raises(UserError, match="holds no model"):
        convert_files(DIT, folder, num_attention_heads=HEADS, overwrite=True)
    convert_files(DIT, tmp_path / "model", num_attention_heads=HEADS)
    (tmp_path / "model" / "stale").write_text("")
    convert_files(DIT, tmp_path / "model", num_attention_heads=HEADS, overwrite=True)
    assert not (tmp_path / "model" / "stale").exists()
    with pytest.raises(UserError, match="holds what is converted"):
        convert_files(tmp_path / "model", tmp_path / "model", overwrite=True)
    assert (folder / "holiday.txt").exists()


@pytest.mark.parametrize(
    ("options", "pair"),
    [
        ({"to": "official"}, "`to` official has no effect with a LoRA"),
        ({"dtype": "bfloat16"}, "`dtype` has no effect with a LoRA"),
        ({"vae": VAE}, "`vae` has no effect with a LoRA"),
        ({"to": "official", "merge_into": "nano"}, "`to` official has no effect with `merge_into`"),
    ],
)
def test_options_that_a_lora_does_not_take(options, pair, tmp_path):
    save({"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 96)}, tmp_path / "lora.safetensors")
    refused(tmp_path / "lora.safetensors", tmp_path, pair, **options)


def run(*arguments):
    app(args=[str(each) for each in arguments], standalone_mode=False)


def test_the_command_prints_notes(tmp_path, capsys):
    run("convert", "--num-attention-heads", 4, "--vae", VAE, DIT, tmp_path / "pipe")
    assert "note: dit_tiny24_weights.safetensors is of none of the sizes that are known" in capsys.readouterr().err


def test_info_reads_a_folder(tmp_path, capsys):
    run("info", "--model", changed_folder(tmp_path))
    printed = capsys.readouterr().out
    assert "sampling     7 steps, guidance 2.5, flow shift 4" in printed
    assert "trained at   4,096 pixels per frame, 9 frames" in printed
    assert "prompts begin with 'Edit: '" in printed


def test_the_official_file_says_in_its_header_what_its_names_cannot(tmp_path):
    convert_files(NANO, tmp_path / "official", to="official")
    with safe_open(tmp_path / "official" / "sama.safetensors", framework="pt") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items() if key != "format"}
    assert header["sama_config"]["num_attention_heads"] == 8
    assert header["sama_pipeline"]["settings"]["default_num_inference_steps"] == 1
    assert header["sama_pipeline"]["scheduler"]["shift"] == 3.0
    assert load_pipeline("nano").config.default_num_inference_steps == 1

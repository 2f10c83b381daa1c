import json
from dataclasses import replace

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from sama_video.data.encoding import Encoder
from sama_video.data.pretext import TEXT_TO_VIDEO
from sama_video.models.presets import PipelineSettings
from sama_video.models.shapes import LatentShape, VideoShape
from sama_video.models.transformer_sama import SamaTransformer3DModel
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.pipeline_sama import SamaPipeline
from sama_video.system.errors import UserError
from sama_video.training.preparation import load_semantic_encoder, prepare_transformer
from tests import tiny
from tests.training import processes, runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablations")
    runs.write_models(folder)
    return folder


ABLATIONS = {
    "as in the paper": {},
    "without Semantic Anchoring": {"semantic": False},
    "shifted RoPE": {"roles": "shifted_rope"},
    "source by channel": {"source": "channel"},
}


@pytest.mark.parametrize("model", ABLATIONS.values(), ids=ABLATIONS)
def test_each_trains_and_samples(model, folder, tmp_path):
    config = runs.config(folder, target="clean", **model)
    trainer = runs.trained(config, tmp_path)
    before = load_pipeline(config.model.init).transformer.state_dict()
    trainable = {name for name, weight in trainer.pipe.transformer.named_parameters() if weight.requires_grad}
    after = trainer.pipe.transformer.state_dict()
    assert all(not torch.equal(after[name], before.get(name, torch.zeros(()))) for name in trainable)
    trainer.export(tmp_path / "export")
    pipe = load_pipeline(str(tmp_path / "export"))
    exported = pipe.transformer.config
    assert exported.roles == config.model.roles
    assert exported.source == config.model.source
    semantic = config.model.semantic_encoder is not None
    assert pipe.config.num_semantic_tokens == (65 if semantic else 0)
    assert exported.semantic_prediction == ("clean" if semantic else "velocity")
    assert torch.equal(runs.edited(pipe), runs.edited_by_average(trainer))


@pytest.mark.parametrize(("grid", "anchors"), [(4, 1), (4, 3), (6, 3), (8, 1), (8, 3)])
def test_as_many_semantic_tokens_are_sampled_as_trained(grid, anchors, folder, tmp_path):
    """By the model that a run writes, at every length."""
    config = runs.config(folder)
    config = replace(config, objective=replace(config.objective, num_anchors=anchors, semantic_grid=grid))
    pipe = prepared(config)
    encoder = Encoder(pipe, load_semantic_encoder(pipe, config.model, config.objective), num_anchors=anchors)
    pipe.transformer.save_pretrained(tmp_path)
    sampler = SamaPipeline(SamaTransformer3DModel.from_pretrained(tmp_path), pipe.vae, **settings_of(pipe))
    for num_frames in (1, 5, 17, 33):
        trained = encoder.semantic(torch.zeros(1, num_frames, 32, 32, 3, dtype=torch.uint8))
        shape = LatentShape.from_video(VideoShape(num_frames=num_frames, height=32, width=32))
        assert sampler.prepare_latents(1, shape)[1].shape == trained.shape
        assert trained.shape[1] == (1 if num_frames == 1 else anchors) * (grid**2 + 1)


def settings_of(pipe):
    return vars(PipelineSettings.of(pipe.config))


def test_a_run_resumes_although_parts_do_not_train(folder, tmp_path):
    model = {"semantic": False, "roles": "shifted_rope"}
    runs.trained(runs.config(folder, num_steps=1, **model), tmp_path)
    config = runs.config(folder, num_steps=2, **model)
    resumed = processes.trainer(config, tmp_path)
    assert resumed.resume()
    resumed.train()
    assert resumed.step == 2


def prepared(config):
    pipe = load_pipeline(config.model.init)
    prepare_transformer(pipe, config.model, config.objective)
    return pipe


def test_every_ablation_starts_as_the_text_to_video_model(folder):
    x = {
        "hidden_states": torch.randn(1, 4, 2, 8, 8),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 7, 16),
    }
    with torch.no_grad():
        expected = load_pipeline(str(folder / "text_to_video")).transformer(**x).sample
        for model in ABLATIONS.values():
            transformer = prepared(runs.config(folder, **model)).transformer
            assert torch.equal(transformer(**x).sample, expected)
            if transformer.config.source == "channel":
                assert torch.equal(transformer(**x, source_hidden_states=torch.randn(1, 4, 2, 8, 8)).sample, expected)


@pytest.mark.parametrize("model", [{"roles": "shifted_rope"}, {"source": "channel"}])
def test_an_editor_keeps_its_streams(model, folder):
    with pytest.raises(UserError, match=r"has learned to edit with model\.roles=type and model\.source=token"):
        prepared(runs.config(folder, "editor", **model))


def test_a_trained_head_keeps_its_target(folder):
    with pytest.raises(UserError, match=r"has learned objective\.semantic_target=velocity"):
        prepared(runs.config(folder, "editor", target="clean"))


def test_a_semantic_encoder_of_another_width_is_refused(folder, tmp_path):
    config = runs.config(folder)
    config = replace(config, model=replace(config.model, semantic_encoder="nano"))
    with pytest.raises(UserError, match=r"tokens of width 192, and .* takes 12"):
        processes.trainer(config, tmp_path)


def test_without_motion_alignment_clips_are_text_to_video(folder, tmp_path):
    tasks = {}
    for pretext in (True, False):
        config = runs.config(folder, num_steps=1, semantic=False)
        config = replace(config, data=replace(config.data, pretext=pretext))
        trainer = processes.trainer(config, tmp_path)
        samples = [sample for batch in trainer.loader.schedule() for sample in batch.samples]
        tasks[pretext] = {sample.index: sample.task for sample in samples if sample.dataset == 1}
        sources = [batch.source for batch, _ in zip(trainer.loader, range(4), strict=False)]
    assert set(tasks[False].values()) == {TEXT_TO_VIDEO}
    assert set(tasks[True].values()) - {TEXT_TO_VIDEO}
    assert sum(source is None for source in sources) == 2


@pytest.mark.parametrize(("prediction", "scheduler"), [("velocity", "euler"), ("clean", "euler"), ("clean", "unipc")])
def test_the_pipeline_steps_what_the_head_predicts(prediction, scheduler):
    """A head that always knows the tokens: whatever it predicts them as, sampling arrives at them."""
    tokens = torch.randn(1, 5, 12)

    class Knowing(SamaTransformer3DModel):
        def forward(self, hidden_states, timestep, semantic_hidden_states, **_):
            sigma = (timestep / 1000).view(-1, 1, 1)
            velocity = (semantic_hidden_states - tokens) / sigma
            return torch.zeros_like(hidden_states), tokens.expand_as(velocity) if prediction == "clean" else velocity

    pipe = tiny.pipeline()
    pipe.register_modules(transformer=Knowing(**tiny.TRANSFORMER, semantic_prediction=prediction))
    if scheduler == "unipc":
        pipe.scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    video = torch.rand(5, 3, 64, 64)
    result = pipe(video=video, prompt="a", num_inference_steps=3, guidance_scale=3.0, output_type="latent")
    torch.testing.assert_close(result.semantic_latents, tokens, rtol=1e-3, atol=1e-4)


def test_folders_of_before_are_velocity_models_with_types_and_tokens(tmp_path):
    tiny.transformer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("semantic_prediction", "roles", "source"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = SamaTransformer3DModel.from_pretrained(tmp_path).config
    assert (loaded.semantic_prediction, loaded.roles, loaded.source) == ("velocity", "type", "token")

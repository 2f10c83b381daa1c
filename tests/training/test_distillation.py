"""Step and guidance distillation."""

import copy

import pytest
import torch

from sama_video.models.latents import noised
from sama_video.pipelines.loading import load_pipeline
from sama_video.pipelines.schedule import scheduled
from sama_video.system.errors import UserError
from sama_video.training.config import DistillationConfig, LoraConfig
from sama_video.training.distillation import Streams, Teacher, distillation_step
from sama_video.training.preparation import prepare_transformer
from sama_video.training.recipes import find_recipe
from tests import tiny
from tests.training import processes
from tests.training.processes import config

pytestmark = pytest.mark.usefixtures("one_thread")


def inputs(seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "target": Streams(draw(batch, 4, 3, 4, 6), draw(batch, 5, 12)),
        "noise": Streams(draw(batch, 4, 3, 4, 6), draw(batch, 5, 12)),
        "source": draw(batch, 4, 3, 4, 6),
        "text": draw(batch, 7, 16),
        "empty_text": draw(7, 16),
    }


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_arcs_end_where_the_result_s_sampler_stops(shift):
    pipe = tiny.pipeline()
    sigmas = scheduled(pipe.scheduler, 4, shift, torch.device("cpu")).sigmas
    teacher = Teacher(pipe.transformer, DistillationConfig(num_inference_steps=4), shift, has_adapters=False)
    inside = (sigmas[:-1] + sigmas[1:]) / 2
    first, last = teacher.arc_of(inside)
    torch.testing.assert_close(first, sigmas[:-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(last, sigmas[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", ["velocity", "clean"])
def test_a_line_leads_to_where_the_sampler_would_be_with_guidance(prediction):
    """Two steps of the pipeline's own sampler from sigma 1, with guidance, against one step along the line."""
    pipe = tiny.pipeline(default_flow_shift=3.0)
    pipe.transformer.reconfigure(semantic_prediction=prediction)
    given = inputs(batch=1)
    # The whole way in one arc: to sigma 0, where both streams have arrived.
    how = DistillationConfig(num_inference_steps=1, teacher_steps=2, guidance_scale=2.5)
    teacher = Teacher(pipe.transformer, how, 1.0, has_adapters=False)
    one, zero = torch.ones(1), torch.zeros(1)
    line = teacher.lines(given["noise"], one, zero, given["source"], given["text"], given["empty_text"])
    reached = given["noise"].plus(line, -1.0)
    result = pipe(
        source_latents=given["source"],
        latents=given["noise"].latents,
        semantic_latents=given["noise"].semantic,
        prompt_embeds=given["text"],
        negative_prompt_embeds=given["empty_text"][None],
        height=32, width=48, num_frames=9, num_inference_steps=2, guidance_scale=2.5, flow_shift=1.0,
        output_type="latent",
    )  # fmt: skip
    torch.testing.assert_close(reached.latents, result.frames, rtol=0, atol=2e-5)
    torch.testing.assert_close(reached.semantic, result.semantic_latents, rtol=0, atol=2e-5)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_student_that_is_its_teacher_has_nothing_to_learn_on_arcs_of_one_step_without_guidance(everywhere):
    model = tiny.transformer()
    how = DistillationConfig(teacher_steps=1, guidance_scale=1.0, everywhere=everywhere)
    teacher = Teacher(model, how, 5.0, has_adapters=False)
    output = distillation_step(model, teacher, sigma=torch.tensor([0.2, 0.7, 0.95]), semantic_weight=1.0, **inputs())
    if everywhere:  # between the ends of an arc a curved way is not on its line
        assert output.loss.min() > 0
    else:
        assert output.loss.max() < 1e-6


def test_the_student_learns_and_the_teacher_stays():
    model, given = tiny.transformer(), inputs()
    teacher = Teacher(model, DistillationConfig(num_inference_steps=2), 5.0, has_adapters=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    before, losses = copy.deepcopy(teacher._copy.state_dict()), []
    for _ in range(40):
        output = distillation_step(model, teacher, sigma=torch.tensor([0.3, 0.6, 0.99]), semantic_weight=0.1, **given)
        optimizer.zero_grad()
        output.loss.mean().backward()
        optimizer.step()
        losses.append(float(output.loss.detach().mean()))
    assert losses[-1] < 0.3 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher._copy.state_dict().items())


def test_adapters_are_the_student_and_the_rest_its_teacher():
    pipe, given = tiny.pipeline(), inputs()
    expected = Teacher(pipe.transformer, DistillationConfig(), 5.0, has_adapters=False)
    run = config("x", model={"lora": LoraConfig(rank=2, targets=("to_q", "ffn.net.2"))})
    prepare_transformer(pipe, run.model, run.objective)
    for name, weight in pipe.transformer.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.3)
    teacher = Teacher(pipe.transformer, DistillationConfig(), 5.0, has_adapters=True)
    first, last = teacher.arc_of(torch.tensor([0.3, 0.6, 0.99]))
    begin = given["target"].plus(given["noise"].plus(given["target"], -1.0), first)
    torch.testing.assert_close(begin.latents, noised(given["target"].latents, given["noise"].latents, first))
    arguments = (begin, first, last, given["source"], given["text"], given["empty_text"])
    for one, other in zip(teacher.lines(*arguments), expected.lines(*arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_run_exports_a_model_that_samples_in_few_steps(tmp_path):
    tiny.pipeline().save_pretrained(tmp_path / "model")
    how = DistillationConfig(num_inference_steps=3, teacher_steps=2, guidance_scale=2.0)
    run = config(tmp_path / "model", loop={"num_steps": 2})
    one = processes.trainer(run.__class__(**{**vars(run), "distillation": how}), tmp_path / "run")
    one.train()
    one.export(tmp_path / "run" / "export")
    exported = load_pipeline(str(tmp_path / "run" / "export"))
    assert exported.config.default_num_inference_steps == 3
    assert exported.config.default_guidance_scale == 1.0


def test_text_that_trains_cannot_be_taught_so():
    with pytest.raises(UserError, match="train_text_encoder=false"):
        find_recipe("nano_distillation")[0].changed(model={"train_text_encoder": True})

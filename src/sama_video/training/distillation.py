"""Step and guidance distillation: a model learns to go in one step where it went in many with guidance before.

The sampler's way from sigma 1 to 0 is cut into as many arcs as the result shall take steps, at the sigmas where that
sampler stops. On an arc from `a` down to `b` the teacher, the model as it was, takes `teacher_steps` Euler steps with
guidance, from a noised target to x_b, and the student learns the straight line that ends there as well,

    v = (x_b - x_a) / (b - a),    at x_a, or anywhere on the line from x_a to x_b,

for latents and semantic tokens alike. Arcs with straight lines are those of PeRFlow (arXiv 2405.07510); a student that
is right at every x_a samples in one Euler step an arc what the teacher does in many. Adapters are the student alone, so
a teacher costs no memory beside them; otherwise it is a frozen copy.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ..models.latents import noised
from ..models.streams import velocity_of_tokens
from ..models.transformer_sama import SamaTransformer3DModel
from .config import DistillationConfig
from .losses import StepOutput, velocity_losses


class Streams(NamedTuple):
    """Latents `[B, C, F, H, W]` and semantic tokens `[B, S, D]` or None: themselves, or their velocities."""

    latents: torch.Tensor
    semantic: torch.Tensor | None

    def plus(self, other: "Streams", factor: torch.Tensor | float) -> "Streams":
        """`self + factor * other`, with a factor for all, or one `[B]` for each."""

        def add(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
            scale = factor if isinstance(factor, float) else factor.view(-1, *[1] * (one.ndim - 1))
            return one + scale * two

        if self.semantic is None or other.semantic is None:
            return Streams(add(self.latents, other.latents), None)
        return Streams(add(self.latents, other.latents), add(self.semantic, other.semantic))

    def times(self, factor: torch.Tensor) -> "Streams":
        """`factor * self`."""
        return self.plus(self, factor - 1)


class Teacher:
    """The model as it was.

    Args:
        transformer: the student, before its first step; its adapters, if it has some, are what it learns with.
        flow_shift: of the sampler that the result will be used with.
        has_adapters: then nothing else of the student may move.
    """

    def __init__(
        self, transformer: SamaTransformer3DModel, config: DistillationConfig, flow_shift: float, *, has_adapters: bool
    ):
        self.config, self.shift = config, flow_shift
        self._student = transformer
        self._copy = None if has_adapters else copy.deepcopy(transformer).requires_grad_(False).eval()

    def arc_of(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The ends (a, b) of the arcs that sigmas `[B]` are on.

        `sigma = shift s / (1 + (shift - 1) s)`, and the arcs are equal parts of s.
        """
        count = self.config.num_inference_steps
        number = (count * sigma / (self.shift - (self.shift - 1) * sigma)).ceil().clamp(1, count)
        first, last = (self.shift * s / (1 + (self.shift - 1) * s) for s in (number / count, (number - 1) / count))
        return first, last

    @torch.no_grad()
    def lines(
        self,
        begin: Streams,
        first: torch.Tensor,
        last: torch.Tensor,
        source: torch.Tensor | None,
        text: torch.Tensor,
        empty_text: torch.Tensor,
    ) -> Streams:
        """The velocities that lead in one step from `begin` at `first` to where the teacher is at `last`.

        Args:
            text: `[B, L, D]`; empty_text: `[L, D]`, what guidance leads away from.
        """
        state, count = begin, self.config.teacher_steps
        with self._as_it_was() as teacher:
            for step in range(count):
                sigma = first + (last - first) * step / count
                velocity = self._guided(teacher, state, sigma, source, text, empty_text.expand_as(text))
                state = state.plus(velocity, (last - first) / count)
        return state.plus(begin, -1.0).times(1 / (last - first))

    def _guided(
        self,
        teacher: SamaTransformer3DModel,
        state: Streams,
        sigma: torch.Tensor,
        source: torch.Tensor | None,
        text: torch.Tensor,
        negative_text: torch.Tensor,
    ) -> Streams:
        """`negative + guidance_scale * (positive - negative)`, as the sampler's."""
        positive = _velocity(teacher, state, sigma, source, text)
        if self.config.guidance_scale == 1:
            return positive
        negative = _velocity(teacher, state, sigma, source, negative_text)
        return negative.plus(positive.plus(negative, -1.0), self.config.guidance_scale)

    @contextmanager
    def _as_it_was(self) -> Iterator[SamaTransformer3DModel]:
        if self._copy is not None:
            yield self._copy
            return
        self._student.disable_adapters()
        try:
            yield self._student
        finally:
            self._student.enable_adapters()


def _velocity(
    teacher: SamaTransformer3DModel,
    state: Streams,
    sigma: torch.Tensor,
    source: torch.Tensor | None,
    text: torch.Tensor,
) -> Streams:
    output = teacher(
        state.latents,
        timestep=1000.0 * sigma,
        encoder_hidden_states=text,
        source_hidden_states=source,
        semantic_hidden_states=state.semantic,
    )
    prediction = teacher.config.semantic_prediction
    semantic = velocity_of_tokens(prediction, output.semantic, state.semantic, sigma.view(-1, 1, 1))
    return Streams(output.sample.float(), None if semantic is None else semantic.float())


def distillation_step(
    transformer: SamaTransformer3DModel,
    teacher: Teacher,
    *,
    target: Streams,
    noise: Streams,
    sigma: torch.Tensor,
    source: torch.Tensor | None,
    text: torch.Tensor,
    empty_text: torch.Tensor,
    semantic_weight: float,
) -> StepOutput:
    """One forward pass of the student, and the teacher's on the same arcs.

    Args:
        target, noise: of both streams.
        sigma: `[B]`, which say the arcs and, with `everywhere`, where on them.
    """
    first, last = teacher.arc_of(sigma)
    semantic = None
    if target.semantic is not None and noise.semantic is not None:
        semantic = noised(target.semantic, noise.semantic, first)
    begin = Streams(noised(target.latents, noise.latents, first), semantic)
    lines = teacher.lines(begin, first, last, source, text, empty_text)
    at, asked = first, begin
    if teacher.config.everywhere:
        at, asked = sigma, begin.plus(lines, sigma - first)
    wanted = lines.semantic
    if asked.semantic is not None and wanted is not None and transformer.config.semantic_prediction == "clean":
        wanted = asked.semantic - at.view(-1, 1, 1) * wanted
    return velocity_losses(
        transformer,
        latents=asked.latents,
        semantic=asked.semantic,
        sigma=at,
        source=source,
        text=text,
        velocity=lines.latents,
        semantic_wanted=wanted,
        semantic_weight=semantic_weight,
    )

"""A fixed set that the averaged weights are tried on during a run: edits with exact scores, and the pretext tasks.

Shape legend: F frames of the target, G of the source, H W pixels, Z latent channels, f h w latent grid, S semantic
tokens, D width. Clips are uint8 `[F, H, W, 3]`.

What a validation draws comes from generators of its own, so that a run trains the same with it and without it. All
processes of a run sample together, since sharded weights need them all; the first decodes, scores and writes.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from ..data.buckets import Buckets
from ..data.datasets import read_clip
from ..data.encoding import Encoder
from ..data.file_info import FileInfo
from ..data.manifest import CAPTIONED, Row, parse_column_map, read_manifest
from ..data.pretext import TEXT_TO_VIDEO, disturb, possible_tasks, task_prompt
from ..data.samples import Sample
from ..media.metrics import psnr, score_edit
from ..models.latents import decode_latents, noised, video_to_model_range, video_to_pixels
from ..models.shapes import nearest_multiple, neighbouring_num_frames
from ..synth.engine import Engine
from ..system.errors import UserError
from ..system.files import written_aside
from .config import DataConfig, TrainConfig, ValidationConfig
from .logs.sheet import draw_sheet, write_side_by_side
from .parallel import Trainable, forget_gathered

ONE_STEP_SIGMA = 0.96
CLIPS = "clips"  # the family of the user's own


@dataclass(frozen=True, kw_only=True)
class Case:
    """One example of the set.

    Args:
        family: of the edit, or the pretext task.
        source: `[G, H, W, 3]`; target: `[F, H, W, 3]`, None where nobody knows it: then nothing is scored.
        mask: bool `[F, H, W]`, where they differ by the edit; None where nobody knows.
        is_edit: false for pretext tasks.
    """

    family: str
    prompt: str
    source: np.ndarray
    target: np.ndarray | None
    mask: np.ndarray | None
    is_edit: bool

    @property
    def clips(self) -> tuple[np.ndarray, ...]:
        """Of which it consists."""
        return (self.source,) if self.target is None else (self.source, self.target)


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What became of a case.

    Args:
        edited: `[F, H, W, 3]`, sampled from noise.
        scores: those of `media.metrics.EditScores`, and `psnr_one_step`: of the clean clip as predicted at once at
            sigma `ONE_STEP_SIGMA`, inside the mask if there is one, dB: a score that moves early in a training. None
            without a target.
    """

    case: Case
    edited: np.ndarray
    scores: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Of one validation.

    Args:
        families: averages of the scores by family and task; "all" averages the edits. None where nothing counts.
    """

    step: int
    results: list[CaseResult]

    @property
    def families(self) -> dict[str, dict[str, float | None]]:
        groups: dict[str, list[dict[str, float | None]]] = defaultdict(list)
        for result in self.results:
            if not result.scores:
                continue
            groups[result.case.family].append(result.scores)
            if result.case.is_edit:
                groups["all"].append(result.scores)
        return {family: _averages(numbers) for family, numbers in groups.items()}


def _averages(numbers: list[dict[str, float | None]]) -> dict[str, float | None]:
    columns = {name: [value for one in numbers if (value := one[name]) is not None] for name in numbers[0]}
    return {name: fmean(values) if values else None for name, values in columns.items()}


class Validation:
    """The set of a run, encoded once, and the sampling of it.

    Args:
        config: of the run.
        encoder: its frozen encoders; the pipeline is the encoder's.

    Raises:
        UserError: for a size that the model cannot take, or a manifest that cannot be used or has nothing to try.
    """

    def __init__(self, config: TrainConfig, encoder: Encoder):
        self.config, self.encoder, self.pipe = with_columns(config.data), encoder, encoder.pipe
        self.in_bfloat16 = config.loop.precision == "bfloat16"
        _check_size(self.config, self.pipe.pixel_multiple)
        keeps = config.data.shuffle_keeps_last_frame
        self.cases = find_cases(self.config, with_pretext=config.data.pretext, keep_last_frame=keeps)
        if self.config.clips is not None:
            buckets = replace(config.data.buckets(self.pipe.pixel_multiple), area=math.prod(self.config.size))
            self.cases += clip_cases(self.config, buckets)
        if not self.cases:
            raise UserError(
                "data.validation has nothing to try: its rows have no source, and data.pretext is off; give pairs, or "
                "set loop.validate_every=0"
            )
        self.encoded = [self._encode(case) for case in self.cases]
        self.no_text = encoder.text("")[None] if encoder.with_text else None

    def _encode(self, case: Case) -> Sample:
        # Without a target the source stands in for it, which is encoded for nothing.
        source, target = torch.from_numpy(case.source), torch.from_numpy(case.clips[-1])
        sample = Sample(source=source, target=target, prompt=case.prompt, task=case.family, name=case.family)
        return self.encoder.encode_sample(sample)

    @torch.no_grad()
    def sample(self, model: Trainable) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Try the model as it is, with the weights that it carries now; all processes call it.

        Args:
            model: whose parts sample; it is left in the mode that it came in.

        Returns:
            Latents `[1, Z, f, h, w]` of each case: of the edit as sampled from noise, and of the clean clip as
            predicted at once, which needs a target.
        """
        was_training = model.training
        model.eval()
        try:
            return [
                (self._sample(case, encoded, number), self._predict_at_once(case, encoded, number))
                for number, (case, encoded) in enumerate(zip(self.cases, self.encoded, strict=True))
            ]
        finally:
            model.train(was_training)
            forget_gathered(model)

    @torch.no_grad()
    def score(self, step: int, sampled: list[tuple[torch.Tensor, torch.Tensor | None]]) -> ValidationResult:
        """Decode and score what `sample` gave; no other process is needed."""
        results = [
            _result(case, self._decode(case, edited), None if predicted is None else self._decode(case, predicted))
            for case, (edited, predicted) in zip(self.cases, sampled, strict=True)
        ]
        return ValidationResult(step=step, results=results)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.pipe.vae.device.type, torch.bfloat16, enabled=self.in_bfloat16)

    def _sample(self, case: Case, encoded: Sample, number: int) -> torch.Tensor:
        """Latents of the edit, from noise that only the case's number decides."""
        frames, height, width = case.clips[-1].shape[:3]
        with self._autocast():
            output = self.pipe(
                prompt=case.prompt if encoded.text is None else None,
                prompt_embeds=_batched(encoded.text),
                negative_prompt_embeds=self.no_text,
                source_latents=_batched(encoded.source),
                height=height,
                width=width,
                num_frames=frames,
                num_inference_steps=self.config.num_inference_steps,
                generator=torch.Generator().manual_seed(number),
                output_type="latent",
            )
        return output.frames

    def _predict_at_once(self, case: Case, encoded: Sample, number: int) -> torch.Tensor | None:
        """`x_0` of the target as one forward pass sees it at `ONE_STEP_SIGMA`, both streams noised as in training."""
        if case.target is None:
            return None
        generator = torch.Generator().manual_seed(number)
        sigma = torch.full((1,), ONE_STEP_SIGMA, device=encoded.target.device)

        def with_noise(x_0: torch.Tensor) -> torch.Tensor:
            return noised(x_0, torch.randn(x_0.shape, generator=generator).to(x_0), sigma)

        source = _batched(encoded.source)
        assert source is not None
        x_sigma = with_noise(encoded.target[None].float())
        semantic = None if encoded.semantic is None else with_noise(encoded.semantic[None].float())
        with self._autocast():
            text, _ = self.pipe.encode_prompt(
                case.prompt if encoded.text is None else None,
                do_classifier_free_guidance=False,
                prompt_embeds=_batched(encoded.text),
                device=x_sigma.device,
            )
            velocity = self.pipe.transformer(
                x_sigma,
                timestep=1000.0 * sigma,
                encoder_hidden_states=text,
                source_hidden_states=source.float(),
                semantic_hidden_states=semantic,
            ).sample
        return x_sigma - ONE_STEP_SIGMA * velocity.float()

    def _decode(self, case: Case, latents: torch.Tensor) -> np.ndarray:
        """`[1, Z, f, h, w]` -> uint8 `[F, H, W, 3]`, with the case's source where it is as long as the target."""
        source = None
        if case.source.shape == case.clips[-1].shape:
            source = video_to_model_range(torch.from_numpy(case.source)).to(latents.device)
        video = decode_latents(self.pipe.vae, latents, self.pipe.vae_tiling, source=source).float()
        return video_to_pixels(video)[0].cpu().numpy()


def _result(case: Case, edited: np.ndarray, predicted: np.ndarray | None) -> CaseResult:
    if case.target is None or predicted is None:
        return CaseResult(case=case, edited=edited, scores={})
    scores = asdict(score_edit(edited, case.source, case.target, case.mask))
    scores["psnr_one_step"] = psnr(predicted, case.target, case.mask)
    scores = {name: None if value is None else float(value) for name, value in scores.items()}
    return CaseResult(case=case, edited=edited, scores=scores)


def _batched(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor[None]


def _check_size(config: ValidationConfig, multiple: int) -> None:
    if any(side % multiple for side in config.size):
        better = ",".join(str(nearest_multiple(side, multiple)) for side in config.size)
        raise UserError(
            f"data.validation.size must divide by {multiple}, got {config.size}; use data.validation.size={better}"
        )


def with_columns(data: DataConfig) -> ValidationConfig:
    """What a run is tried on, its manifest with the columns of all manifests where it has none of its own."""
    return replace(data.validation, columns=data.validation.columns or data.columns)


def find_cases(config: ValidationConfig, *, with_pretext: bool, keep_last_frame: bool = True) -> list[Case]:
    """The set: of a manifest if there is one, else of the engine's validation split.

    Args:
        with_pretext: make cases of captioned clips, too; keep_last_frame: as in `pretext.tube_shuffle`.

    Raises:
        UserError: for a manifest that cannot be read.
    """
    captioned = partial(pretext_cases, keep_last_frame=keep_last_frame) if with_pretext else None
    if config.num_samples == 0:
        return []
    if config.manifest is None:
        return _engine_cases(config, captioned)
    option = "--set data.validation.columns="
    columns = parse_column_map(config.columns, option)
    rows = read_manifest(config.manifest, column_map=columns, required=CAPTIONED, map_option=option)
    rows = rows[: config.num_samples]
    info = FileInfo()
    return [case for row in rows for case in _cases_of_row(row, config, info, captioned)]


_Captioned = Callable[[np.ndarray, str], list[Case]]


def _engine_cases(config: ValidationConfig, captioned: _Captioned | None) -> list[Case]:
    engine = Engine(split="validation", families=config.families)
    num_edits = config.num_samples * len(config.families)
    pairs = [engine.pair(index, config.num_frames, *config.size) for index in range(num_edits)]
    edits = [
        Case(
            family=pair.family,
            prompt=pair.instruction,
            source=pair.source,
            target=pair.target,
            mask=pair.mask,
            is_edit=True,
        )
        for pair in pairs
    ]
    if captioned is None:
        return edits
    return edits + [case for pair in pairs[: config.num_samples] for case in captioned(pair.source, pair.caption)]


def pretext_cases(clip: np.ndarray, caption: str, *, keep_last_frame: bool = True) -> list[Case]:
    """Every pretext task that a clip is long enough for (paper appendix D); the mask is what the task destroyed."""
    cases = []
    for number, task in enumerate(task for task in possible_tasks(len(clip)) if task != TEXT_TO_VIDEO):
        generator = torch.Generator().manual_seed(number)
        source = disturb(task, torch.from_numpy(clip), generator, keep_last_frame=keep_last_frame).numpy()
        same_length = len(source) == len(clip)
        cases.append(
            Case(
                family=task,
                prompt=task_prompt(task, caption),
                source=source,
                target=clip,
                mask=(source != clip).any(axis=-1) if same_length else None,
                is_edit=False,
            )
        )
    return cases


def clip_cases(config: ValidationConfig, buckets: Buckets | None = None) -> list[Case]:
    """The user's own clips and prompts, `config.clips`, at the size of the nearest aspect ratio.

    Args:
        buckets: sizes that they can have; None: `config.size`.

    Raises:
        UserError: for a manifest or file that cannot be read, or a row without a clip or a prompt.
    """
    info, cases = FileInfo(), []
    for row in read_manifest(str(config.clips), required=("src_video", "prompt"), map_option=None):
        if row.src_video is None or not (row.prompt or "").strip():
            raise UserError(f"row {row.id} of {config.clips} has no clip or no prompt; fill both or remove the row")
        files = [row.src_video] if row.tgt_video is None else [row.src_video, row.tgt_video]
        shapes = [info.shape(file) for file in files]
        num_frames, _ = neighbouring_num_frames(min(config.num_frames, *(shape.num_frames for shape in shapes)))
        sides = np.array([shapes[0].height]), np.array([shapes[0].width])
        size = config.size if buckets is None else buckets.sizes[int(buckets.nearest_size(*sides)[0])]
        source, *target = (read_clip(file, 0, num_frames, size).numpy() for file in files)
        cases.append(
            Case(
                family=CLIPS,
                prompt=str(row.prompt),
                source=source,
                target=target[0] if target else None,
                mask=None,
                is_edit=True,
            )
        )
    return cases


def _cases_of_row(row: Row, config: ValidationConfig, info: FileInfo, captioned: _Captioned | None) -> list[Case]:
    assert row.tgt_video is not None
    assert row.prompt is not None
    media = [file for file in (row.src_video, row.tgt_video) if file is not None]
    shortest = min(info.shape(file).num_frames for file in media)
    num_frames, _ = neighbouring_num_frames(min(config.num_frames, shortest))

    def clip(file: str) -> np.ndarray:
        return read_clip(file, 0, num_frames, config.size).numpy()

    if row.src_video is None:
        return captioned(clip(row.tgt_video), row.prompt) if captioned else []
    mask = None if row.mask is None else clip(row.mask).max(axis=-1) > 127
    source, target = clip(row.src_video), clip(row.tgt_video)
    family = row.type or "edit"
    return [Case(family=family, prompt=row.prompt, source=source, target=target, mask=mask, is_edit=True)]


def write_result(result: ValidationResult, out: Path) -> Path:
    """metrics.json, sheet.png and clips/ into `out` / validation / step-0001000; returns that folder.

    Raises:
        UserError: for a full disk or a folder that cannot be written.
    """
    folder = out / "validation" / f"step-{result.step:07d}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    cases = [{"family": one.case.family, "prompt": one.case.prompt, **one.scores} for one in result.results]
    metrics = {"step": result.step, "families": result.families, "cases": cases}
    with written_aside(folder) as aside:
        (aside / "clips").mkdir(parents=True)
        (aside / "metrics.json").write_text(json.dumps(metrics, indent=1))
        rows = []
        for number, one in enumerate(result.results):
            source, *target = one.case.clips
            family, clips = one.case.family, (source, one.edited, *target)
            rows.append((f"{family}: {one.case.prompt}", clips))
            write_side_by_side(aside / "clips" / f"{number:02d}-{family.replace('/', '-')}", clips)
        draw_sheet(rows).save(aside / "sheet.png")
    return folder

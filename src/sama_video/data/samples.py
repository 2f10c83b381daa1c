"""A planned sample made real: its pixels, or the recipe that says what they would be."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .datasets import ManifestDataset, Recipe, Sample
from .epoch import BatchConfig, PlannedSample, WeightedDataset, sample_seed
from .pretext import PROMPTS, TRANSFORMS, task_prompt

if TYPE_CHECKING:
    from .datasets import TrainingDataset


def load_sample(weighted: WeightedDataset, planned: PlannedSample, config: BatchConfig) -> Sample:
    """With its pretext task: the source is disturbed, the target is not (paper section 3.3)."""
    generator = torch.Generator().manual_seed(sample_seed(config, weighted.name, planned))
    sample = weighted.dataset.load(planned.index, planned.size, planned.num_frames, generator)
    sample = replace(sample, key=f"{weighted.name}/{sample.key}")
    if planned.task not in PROMPTS:
        return sample
    return replace(
        sample,
        source=TRANSFORMS[planned.task](sample.target, generator),
        prompt=task_prompt(planned.task, sample.prompt),
        task=planned.task,
    )


def sample_recipe(weighted: WeightedDataset, planned: PlannedSample, config: BatchConfig) -> Recipe:
    """Of what `load_sample` gives. Raises ValueError for a dataset that does not know its samples beforehand."""
    seed = sample_seed(config, weighted.name, planned)
    generator = torch.Generator().manual_seed(seed)
    recipe = _with_recipes(weighted.dataset).recipe(planned.index, planned.size, planned.num_frames, generator)
    recipe = replace(recipe, key=f"{weighted.name}/{recipe.key}")
    if planned.task not in PROMPTS:
        return recipe
    return replace(
        recipe,
        source={**recipe.target, "pretext": planned.task, "seed": seed},
        prompt=task_prompt(planned.task, recipe.prompt),
        task=planned.task,
    )


def _with_recipes(dataset: "TrainingDataset") -> ManifestDataset:
    if not isinstance(dataset, ManifestDataset):
        raise ValueError(f"only datasets of files can be cached, not {type(dataset).__name__}; write it to files first")
    return dataset

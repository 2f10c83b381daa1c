"""An ablation's runs differ in their variant alone, and a set never mixes budgets."""

import itertools
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from sama_video.system.errors import UserError
from sama_video.training.ablations import ABLATIONS, ablation_runs, check_runs, settled_losses
from sama_video.training.claim import write_config
from sama_video.training.logs.runlog import METRICS, append_record
from sama_video.training.overrides import find_stages
from sama_video.training.recipes import nano_small

COMPONENTS, ROLES = ABLATIONS["components"], ABLATIONS["roles"]


def differing(first, second, path=""):
    """Dotted names of the values that two configs do not share."""
    for name, value in first.items():
        if isinstance(value, dict):
            yield from differing(value, second[name], f"{path}{name}.")
        elif value != second[name]:
            yield f"{path}{name}"


@pytest.mark.parametrize(
    ("ablation", "varied"),
    [(COMPONENTS, {"model.semantic_encoder", "data.pretext"}), (ROLES, {"model.roles"})],
    ids=["components", "roles"],
)
def test_runs_of_a_seed_differ_in_their_variant_alone(ablation, varied):
    runs = ablation_runs(ablation, nano_small(), Path("out"), 2)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)  # seed by seed
    assert len({run.folder for run in runs}) == len(runs) == 2 * len(ablation.variants)
    for first, second in itertools.combinations(runs, 2):
        names = set()
        for stages in zip(first.stages, second.stages, strict=True):
            names |= set(differing(*map(asdict, stages)))
        # Where a later stage begins is the stage before, in the run's own folder.
        assert names - {"model.init", "loop.seed"} <= varied
        assert ("loop.seed" in names) == (first.seed != second.seed)
        assert (names & varied == set()) == (first.variant == second.variant)


def test_the_components_are_what_the_paper_says():
    runs = ablation_runs(COMPONENTS, nano_small(), Path("out"), 1)
    found = {
        run.variant.name: [(s.model.semantic_encoder is not None, s.data.pretext) for s in run.stages] for run in runs
    }
    # Semantic Anchoring in both stages, Motion Alignment in stage 0 alone (section 3.4).
    assert found == {
        "baseline": [(False, False), (False, False)],
        "sa": [(True, False), (True, False)],
        "ma": [(False, True), (False, False)],
        "both": [(True, True), (True, False)],
    }
    assert runs[-1].stages[0] == nano_small()[0]


def test_every_stage_begins_where_the_one_before_it_ended():
    for run in ablation_runs(COMPONENTS, nano_small(), Path("out"), 2):
        assert run.stages[1].model.init == str(run.folders[0] / "export")
        assert run.folders[0] == Path(f"out/{run.variant.name}-{run.seed}/small_pretraining")


def test_any_recipe_can_be_varied_if_its_variants_differ():
    assert len(ablation_runs(COMPONENTS, find_stages("nano"), Path("out"), 1)) == 4
    assert len(ablation_runs(ROLES, find_stages("roles-5b"), Path("out"), 3)) == 6
    with pytest.raises(UserError, match="baseline and sa would be the same run"):
        ablation_runs(COMPONENTS, find_stages("nano", ["model.semantic_encoder=none"]), Path("out"), 1)
    with pytest.raises(UserError, match="baseline and ma would be the same run"):
        ablation_runs(COMPONENTS, find_stages("supervised-finetuning-5b"), Path("out"), 1)
    with pytest.raises(UserError, match="`seeds` must be at least 1"):
        ablation_runs(ROLES, nano_small(), Path("out"), 0)


def begin(run, *, finish=False):
    for stage, folder in zip(run.stages, run.folders, strict=True):
        (folder / ("export" if finish else "checkpoints")).mkdir(parents=True)
        write_config(stage, folder)


def test_a_folder_of_another_run_or_budget_is_refused_before_anything_trains(tmp_path):
    runs = ablation_runs(ROLES, nano_small(), tmp_path, 1)
    check_runs(runs, resume=False)
    begin(runs[0], finish=True)
    check_runs(runs, resume=False)  # a finished run is left as it is
    assert [run.is_finished for run in runs] == [True, False]
    begin(runs[1])
    with pytest.raises(UserError, match="`resume`"):
        check_runs(runs, resume=False)
    check_runs(runs, resume=True)
    longer = ablation_runs(ROLES, find_stages("nano-small", ["loop.num_steps=600"]), tmp_path, 1)
    with pytest.raises(UserError, match="another budget"):
        check_runs(longer, resume=True)
    other = ablation_runs(ROLES, find_stages("nano-small", ["objective.text_dropout=0.5"]), tmp_path, 1)
    with pytest.raises(UserError, match="another config"):
        check_runs(other, resume=True)


def test_losses_are_those_of_the_last_quarter(tmp_path):
    values = np.random.default_rng(0).normal(size=40)
    for step, value in enumerate(values, 1):
        append_record(tmp_path / METRICS, {"step": step, "flow_loss": value, "semantic_loss": None})
    found = settled_losses(tmp_path)
    assert found == {"flow_loss": (pytest.approx(values[30:].mean()), pytest.approx(values[30:].std()))}

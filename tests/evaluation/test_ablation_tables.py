"""Rows of an ablation hold all seeds of a variant, and stand beside the paper's."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from sama_video.evaluation.ablation_tables import CURVES, NUMBERS, TABLES, write_ablation
from sama_video.evaluation.held_out import held_out_of, stage_scores, tables_of_stages, unedited_scores
from sama_video.evaluation.records import EXACT
from sama_video.synth.sprites import SHAPES
from sama_video.system.errors import UserError
from sama_video.training.ablations import ABLATIONS, ablation_runs
from sama_video.training.claim import write_config
from sama_video.training.config import DatasetConfig, EngineConfig
from sama_video.training.logs.runlog import METRICS, append_record
from tests import tiny
from tests.training.processes import CLIPS as CAPTIONED
from tests.training.processes import TINY

ROLES = ABLATIONS["roles"]
TAUGHT = EngineConfig(
    num_samples=4,
    shapes=((1, 64, 64),),
    families=("global_style", "local_remove"),
    vocabulary=tuple(SHAPES),
)
STAGES = [
    replace(TINY, name=name).changed(
        model={"init": init}, data={"datasets": (DatasetConfig(name="edits", engine=TAUGHT),)}
    )
    for name, init in (("first", "elsewhere"), ("second", "previous"))
]


@pytest.fixture(scope="module")
def models():
    return [tiny.pipeline(seed, default_num_inference_steps=1, default_guidance_scale=1.0) for seed in range(2)]


def finish(run, pipe, loss):
    """As a training would leave it."""
    for stage, folder in zip(run.stages, run.folders, strict=True):
        folder.mkdir(parents=True)
        write_config(stage, folder)
        (folder / "export").mkdir() if pipe is None else pipe.save_pretrained(folder / "export")
        for step in range(1, 9):
            append_record(folder / METRICS, {"step": step, "flow_loss": loss + step / 8, "semantic_loss": None})


@pytest.fixture(scope="module")
def ablated(models, tmp_path_factory):
    """Both seeds of a variant have one model; the variants have two."""
    out = tmp_path_factory.mktemp("ablated")
    runs = ablation_runs(ROLES, STAGES, out, 2)
    for run in runs:
        finish(run, models[run.variant == ROLES.variants[0]], run.seed)
    held_out = held_out_of(STAGES[-1], 2)
    return out, runs, held_out, write_ablation(ROLES, runs, out, held_out)


def table(tables, title):
    return next(one for one in tables if one.title == title)


def test_held_out_edits_are_of_what_was_taught_in_scenes_that_were_not():
    clips = replace(TAUGHT, shapes=((1, 64, 64), (5, 64, 64)))
    data = {"datasets": (CAPTIONED, DatasetConfig(name="edits", engine=clips))}
    held_out = held_out_of(STAGES[-1].changed(data=data), 2)
    assert [item.task for item in held_out.items] == ["global_style", "local_remove"] * 2
    assert {pair.source.shape for pair in held_out.pairs} == {(5, 64, 64, 3)}
    assert held_out.engine.split == "known"
    assert held_out_of(STAGES[-1].changed(data={"datasets": (CAPTIONED,)}), 2) is None
    drawn = {thing.sprite.name for pair in held_out.pairs for thing in pair.draft.source.things}
    assert drawn <= set(SHAPES)


@pytest.mark.slow
def test_a_row_holds_all_seeds_and_intervals_draw_items(ablated):
    _, runs, held_out, tables = ablated
    after = table(tables, "Exact scores: All, after stage 1")
    assert [row.name for row in after.rows] == ["shifted RoPE", "type embeddings"]
    assert [row.counts.ok for row in after.rows] == [2 * 4] * 2
    alone = stage_scores(runs[0].stages[1], runs[0].folders[1], held_out)[-1]
    # Seeds that score the same add nothing to what is known of other items.
    of_alone = [[one.value, one.low, one.high, one.sources] for one in alone.intervals()]
    of_both = [[one.value, one.low, one.high, one.sources] for one in after.rows[0].cells]
    np.testing.assert_allclose(of_both, of_alone)
    assert after.rows[0].cells[1].sources == 4
    assert after.rows[0].cells != after.rows[1].cells
    by_seed = table(tables, "Exact scores: by seed, after stage 1")
    assert [row.name for row in by_seed.rows][:2] == ["shifted RoPE, seed 0", "shifted RoPE, seed 1"]
    assert table(tables, "Exact scores: Local remove, after stage 0 (zero-shot)").rows[0].counts.ok == 4
    difference = table(tables, "Differences between runs: PSNR to target, inside, after stage 1").rows[0]
    values = [row.cells[1].value for row in after.rows]
    assert difference.cells[0].value == pytest.approx(values[0] - values[1])


@pytest.mark.slow
def test_the_unedited_source_is_what_scores_begin_at(ablated):
    row = table(ablated[3], "What scores begin at").rows[0]
    assert row.name == "the source, unedited"
    success, _, outside, *_ = row.cells
    assert (success.value, outside.value) == (0, 100)


@pytest.mark.slow
def test_what_was_scored_is_not_edited_again(ablated, monkeypatch):
    out, runs, held_out, _ = ablated
    files = [out / NUMBERS, runs[0].folders[0] / EXACT]
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr("sama_video.pipelines.loading.load_pipeline", None)
    write_ablation(ROLES, runs, out, held_out)
    assert [file.read_bytes() for file in files] == before


def test_the_paper_s_numbers_and_losses_stand_beside_and_seeds_that_some_variants_lack_do_not_count(tmp_path):
    runs = ablation_runs(ROLES, STAGES, tmp_path, 3)
    with pytest.raises(UserError, match=r"no run of .* is finished yet"):
        write_ablation(ROLES, runs, tmp_path, None)
    for run in runs[:5]:  # seed 2 has one variant
        finish(run, None, run.seed)
    tables = write_ablation(ROLES, runs, tmp_path, None)
    printed = table(tables, "The SAMA paper, Table 6, as printed")
    assert [[cell.value for cell in row.cells] for row in printed.rows] == [
        [6.705, 7.533, 6.686, 6.975],
        [6.619, 6.257, 6.619, 6.498],
    ]
    losses = table(tables, "Losses at the end of stage 0").rows[0].cells
    assert losses[0].value == pytest.approx(0.5 + (7 / 8 + 1) / 2)  # of seeds 0 and 1
    assert losses[2] is None  # no semantic loss
    text = (tmp_path / TABLES).read_text()
    assert "4 of 6 runs. Seeds: 0, 1." in text
    assert all(one.title in text for one in tables)
    assert "Table 6" in (tmp_path / NUMBERS).read_text()
    with PIL.Image.open(tmp_path / CURVES) as picture:
        assert len(picture.getcolors(1 << 20)) > 20


@pytest.mark.slow
def test_the_stages_of_a_run_are_compared_in_their_order(ablated):
    _, runs, held_out, _ = ablated
    tables = tables_of_stages(runs[0].folder, 2)
    assert [row.name for row in tables[0].rows] == ["first", "second"]
    assert tables[-1].title == "What scores begin at"
    assert tables[-1].rows[0].cells[:3] == tuple(unedited_scores(held_out)[-1].intervals()[:3])
    with pytest.raises(UserError, match="no finished stage"):
        tables_of_stages(runs[0].folders[0], 2)

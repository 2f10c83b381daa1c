"""A judge that sees is fit; one that does not, or is blind to everything, is named unfit."""

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

from sama_video.cli.app import app
from sama_video.evaluation.benchmark import find_benchmark
from sama_video.evaluation.records import ExactScores
from sama_video.evaluation.sanity import _FOLLOWING, _PRESERVATION, check_controls
from sama_video.system.errors import UserError

from .made_up import dimension_keys, judgment, make_items, write_made_up_run

CONTROLS = ("identity", "wrong-clip", "noise", "half", "perfect")
# What a good judge gives for (following, preservation, quality), on VIE-Bench's scale.
GOOD = {
    "identity": (1, 5, 5),
    "wrong-clip": (1, 1, 5),
    "noise": (1, 1, 1),
    "half": (5, 7, 5),
    "perfect": (9, 9, 9),
    "mine": (7, 8, 7),
}


def write_runs(folder, worth, *, targets=True, benchmark="vie_bench"):
    """A run of each name in `worth`, judged so with a little noise."""
    items = make_items(benchmark, 5, folder)
    if targets:
        items = [dataclasses.replace(item, target=folder / "target.mp4") for item in items]
    paths = []
    for name, values in worth.items():
        rng = np.random.default_rng(len(name))
        settings = {"control": name} if name in CONTROLS else {}
        records = [
            judgment(benchmark, item, np.clip(np.array(values) + rng.normal(0, 0.2, 3), 1, 10).tolist())
            for item in items
        ]
        paths.append(write_made_up_run(folder / name, benchmark, name, items, {"j": records}, settings=settings))
    return paths


def test_a_judge_that_sees_is_fit(tmp_path):
    verdict = check_controls(write_runs(tmp_path, GOOD))
    assert verdict.fit
    assert verdict.sentences == ("The judge j: fit. All 21 orders hold.",)
    assert len(verdict.tables[0].rows) == 21


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (dict.fromkeys(GOOD, (5, 5, 5)), "following: perfect > identity"),  # blind
        ({**GOOD, "noise": (1, 1, 9)}, "quality: half > noise"),
        ({**GOOD, "wrong-clip": (1, 9, 5)}, "preservation: half > wrong-clip"),
        ({**GOOD, "identity": (8, 5, 5)}, "following: half > identity"),  # believes that the source was edited
        ({**GOOD, "noise": (3, 1, 1)}, "following: identity ≥ noise"),
        ({**GOOD, "noise": (8, 1, 1)}, "following: editor ≥ noise"),
    ],
)
def test_a_judge_that_ranks_controls_wrong_is_unfit(tmp_path, wrong, named):
    verdict = check_controls(write_runs(tmp_path, wrong))
    assert not verdict.fit
    assert "UNFIT" in verdict.sentences[0]
    assert named in verdict.sentences[0]


def test_half_of_another_edit_says_nothing_about_following(tmp_path):
    worth = {**GOOD, "half": (1, 7, 5)}
    del worth["perfect"]
    assert check_controls(write_runs(tmp_path, worth, targets=False)).fit


def test_a_capped_benchmark_needs_targets(tmp_path):
    worth = dict.fromkeys(("identity", "wrong-clip", "noise", "half"), (1, 1, 1))
    paths = write_runs(tmp_path, worth, targets=False, benchmark="openve_bench")
    with pytest.raises(UserError, match="decide nothing"):
        check_controls(paths)


def test_one_source_decides_nothing(tmp_path):
    items = make_items("vie_bench", 1, tmp_path)[:1]
    paths = [
        write_made_up_run(
            tmp_path / name,
            "vie_bench",
            name,
            items,
            {"j": [judgment("vie_bench", items[0], score)]},
            settings={"control": name},
        )
        for name, score in (("perfect", 9), ("noise", 1))
    ]
    with pytest.raises(UserError, match="decide nothing"):
        check_controls(paths)


def test_exact_scores_are_checked_in_their_own_direction(tmp_path):
    def runs(folder, perfect_motion):
        items = make_items("vie_bench", 3, tmp_path)
        motion = {"perfect": perfect_motion, "noise": 5.0}
        return [
            write_made_up_run(
                folder / name,
                "vie_bench",
                name,
                items,
                exact=[ExactScores(item=one.id, status="ok", scores={"motion_error": motion[name]}) for one in items],
                settings={"control": name},
            )
            for name in motion
        ]

    assert check_controls(runs(tmp_path / "good", 0.0)).fit
    verdict = check_controls(runs(tmp_path / "bad", 7.0))
    assert not verdict.fit
    assert verdict.sentences[0].startswith("The exact scores: UNFIT. 1 of 1")


def test_the_command_fails_for_an_unfit_judge(tmp_path):
    good = [str(path) for path in write_runs(tmp_path / "good", GOOD)]
    result = CliRunner().invoke(app, ["eval", "sanity", *good])
    assert result.exit_code == 0, result.output
    assert "fit. All" in result.output
    bad = [str(path) for path in write_runs(tmp_path / "bad", dict.fromkeys(GOOD, (5, 5, 5)))]
    result = CliRunner().invoke(app, ["eval", "sanity", *bad])
    assert result.exit_code == 1
    assert "UNFIT" in result.output


@pytest.mark.parametrize("name", ["reco_bench", "openve_bench", "vie_bench"])
def test_every_task_has_a_dimension_of_each_kind(name):
    for task in find_benchmark(name).tasks:
        keys = set(dimension_keys(name, task.key))
        assert len(keys & _FOLLOWING) == 1
        assert keys & _PRESERVATION
        assert keys - _FOLLOWING - _PRESERVATION

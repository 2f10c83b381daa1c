import json
import sys

import numpy as np
import PIL.Image
import pytest

from sama_video.system.errors import UserError
from sama_video.training.logs.plot import _mean_curve, find_runs, plot_groups, plot_runs, series, smoothed


def write_run(folder, losses, validations=()):
    folder.mkdir(parents=True)
    records = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    records += [{"step": step, "validation": {"all": {"psnr_inside": value}}} for step, value in validations]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_smoothing_is_the_mean_and_deviation_of_the_window():
    values = np.random.default_rng(0).normal(size=40)
    mean, spread = smoothed(values, 7)
    for place in range(40):
        window = values[max(0, place - 6) : place + 1]
        assert mean[place] == pytest.approx(window.mean())
        assert spread[place] == pytest.approx(window.std(), abs=1e-7)
    unsmoothed, nothing = smoothed(values, 1)
    np.testing.assert_allclose(unsmoothed, values)
    assert nothing.max() < 1e-7


def test_runs_are_told_apart_by_as_few_parts_as_do(tmp_path):
    for run in ("a", "b"):
        write_run(tmp_path / run / "stage_0", [1.0])
    assert set(find_runs([tmp_path / "a"])) == {"stage_0"}
    assert set(find_runs([tmp_path / "a", tmp_path / "b"])) == {"a/stage_0", "b/stage_0"}


def test_a_metric_that_a_record_lacks_or_leaves_empty_is_no_point():
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 2, "validation": {"all": {"psnr": 9}}}]
    assert series(records, "loss")[0].tolist() == [1]
    assert series(records, "validation/all/psnr")[1].tolist() == [9]
    assert not len(series(records, "validation/local_add/psnr")[0])
    by_sigma = [{"step": 4, "flow_by_sigma": [1.0, None, 3.0]}]
    assert series(by_sigma, "flow_by_sigma/2")[1].tolist() == [3]
    assert not len(series(by_sigma, "flow_by_sigma/1")[0])


def test_plot_draws_what_there_is(tmp_path):
    noisy = 1 + np.random.default_rng(0).normal(size=60) / 5
    runs = [write_run(tmp_path / "calm", [1.0] * 60, [(30, 20.0), (60, 21.5)]), write_run(tmp_path / "wild", noisy)]
    out = tmp_path / "curves.png"
    assert plot_runs(runs, out, window=10) == ["loss", "validation/all/psnr_inside"]
    with PIL.Image.open(out) as picture:
        assert len(picture.getcolors(1 << 20)) > 50
    with pytest.raises(UserError, match="validation/all/psnr_inside"):
        plot_runs(runs, out, metrics=["lost"])
    with pytest.raises(UserError, match=r"\.svg"):
        plot_runs(runs, tmp_path / "curves.txt")
    with pytest.raises(UserError, match="holds no metrics"):
        find_runs([tmp_path / "nothing"])


def test_a_group_is_the_mean_of_its_runs_over_the_steps_that_all_have(tmp_path):
    folders = [write_run(tmp_path / name, losses) for name, losses in (("a", [3.0, 1.0, 1.0]), ("b", [1.0, 3.0]))]
    curve = _mean_curve("x", folders, "loss", 1)
    assert curve is not None
    assert (curve.steps.tolist(), curve.mean.tolist(), curve.spread.tolist()) == ([1, 2], [2.0, 2.0], [1.0, 1.0])
    assert _mean_curve("x", folders, "semantic_loss", 1) is None
    plot_groups({"stage 0": {"x": folders}}, tmp_path / "c.svg", metrics=["loss", "semantic_loss"], window=1)
    assert (tmp_path / "c.svg").read_text().count('<g id="axes_') == 1


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pip install 'sama-video\\[train\\]'"):
        plot_runs([write_run(tmp_path / "run", [1.0])], tmp_path / "curves.png")


def test_places_without_a_curve_stay_empty(tmp_path):
    """Four metrics take two rows of three places."""
    records = [{"step": step, **dict.fromkeys(("a", "b", "c", "d"), step)} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    plot_runs([tmp_path], tmp_path / "curves.svg", metrics=["a", "b", "c", "d"], window=1)
    assert (tmp_path / "curves.svg").read_text().count('<g id="axes_') == 4

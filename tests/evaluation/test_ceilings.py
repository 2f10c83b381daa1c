"""What can be reached with the drawings that are taught: everything of `known`, not all of `engine`."""

import csv
import dataclasses
import shutil

import pytest
from typer.testing import CliRunner

from sama_video.cli.app import app, normalise_arguments
from sama_video.evaluation.benchmark import benchmark_names, find_benchmark
from sama_video.evaluation.ceilings import CEILING_NOTE, NO_CEILING_NOTE, has_ceilings, score_ceilings
from sama_video.evaluation.editors import KNOWN_DRAWING, ControlEditor
from sama_video.evaluation.exact import ExactConfig, score_run
from sama_video.evaluation.layouts import read_items
from sama_video.evaluation.pairs import make_engine_set
from sama_video.evaluation.predict import predict
from sama_video.evaluation.records import EXACT, ExactScores, RunInfo, read_records
from sama_video.evaluation.report import ReportConfig, build_report
from sama_video.evaluation.scored import read_scored
from sama_video.evaluation.tables import CEILING
from sama_video.synth.engine import VERSION
from sama_video.system.errors import UserError

from .made_up import make_items, write_made_up_run


def sama(*arguments):
    return CliRunner().invoke(app, normalise_arguments([str(part) for part in arguments]))


def test_known_asks_for_what_is_taught_and_engine_for_more():
    known = find_benchmark("known")
    assert known.engine["count"] == 50 * len(known.tasks) == 400
    assert [name for name in benchmark_names() if has_ceilings(find_benchmark(name))] == ["engine"]


@pytest.mark.slow
def test_everything_of_known_can_be_reached_with_the_drawings_that_are_taught(tmp_path):
    known = find_benchmark("known")
    settings = {**known.engine, "count": 16, "num_frames": 5, "height": 64, "width": 96}
    make_engine_set(dataclasses.replace(known, engine=settings), tmp_path / "set")
    items = read_items(known, tmp_path / "set")
    assert len({item.task for item in items}) == 8
    info = RunInfo(benchmark="known", version=known.version, data=str(tmp_path / "set"), editor=KNOWN_DRAWING)
    predict(info, items, ControlEditor(control=KNOWN_DRAWING, items=items), tmp_path / "run")
    records = score_run(tmp_path / "run", ExactConfig(workers=1))
    assert [one.scores["success"] for one in records] == [1.0] * len(items)
    assert {one.scores["psnr"] for one in records} == {100.0}
    assert score_ceilings(tmp_path / "run", ExactConfig(workers=1)) == []


def test_ceilings_stand_in_the_tables_and_win_nothing(tmp_path):
    def write(folder, editor, success):
        scores = {"success": success, "psnr": 20 + success}
        exact = [ExactScores(item=item.id, status="ok", scores=scores) for item in items]
        return write_made_up_run(folder, "engine", editor, items, exact=exact, data=str(tmp_path / "set"))

    items = make_items("engine", 2)
    run, other = write(tmp_path / "run", "mine", 0.5), write(tmp_path / "other", "theirs", 0.25)
    unknown = build_report(read_scored([run, other]), ReportConfig()).tables[0]
    assert NO_CEILING_NOTE in unknown.notes
    write(tmp_path / "set" / KNOWN_DRAWING, KNOWN_DRAWING, 0.75)
    for table in build_report(read_scored([run, other]), ReportConfig()).tables:
        if table.title.startswith("Exact scores"):
            assert CEILING_NOTE in table.notes
            first, _, ceiling = table.rows
            assert (ceiling.label, ceiling.cells[0].value) == (f"{KNOWN_DRAWING} ({CEILING})", 0.75)
            assert table.is_best(first, 0)
            assert not table.is_best(ceiling, 0)


@pytest.mark.slow
def test_scoring_a_run_finds_the_ceilings_once_and_reports_show_them(engine_folder, tmp_path):
    shutil.copytree(engine_folder, tmp_path / "set")
    run = tmp_path / "run"
    part = ("eval", "predict", "engine", "--data", tmp_path / "set", "--control", "identity")
    result = sama(*part, "--tasks", "local_add", "--out", tmp_path / "part")
    assert result.exit_code == 0, result.output
    assert sama("eval", "exact", tmp_path / "part", "--workers", "1").exit_code == 0
    assert len((tmp_path / "set" / KNOWN_DRAWING / EXACT).read_text().splitlines()) == 1
    assert sama(*part, "--out", run).exit_code == 0
    score_run(run, ExactConfig(workers=1))
    before = build_report(read_scored([run]), ReportConfig())
    assert {row.origin for table in before.tables for row in table.rows} == {"run"}
    assert all(NO_CEILING_NOTE in table.notes and CEILING_NOTE not in table.notes for table in before.tables)

    result = sama("eval", "exact", run, "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "ceilings of success, with the drawings of the train split alone: " in result.output
    records = (tmp_path / "set" / KNOWN_DRAWING / EXACT).read_bytes()
    scores = [one.scores["success"] for one in read_records(tmp_path / "set" / KNOWN_DRAWING / EXACT, ExactScores)]
    result = sama("eval", "report", run, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    for name in ("report.md", "report.tex", "index.html"):
        text = (tmp_path / "report" / name).read_text()
        assert KNOWN_DRAWING in text
        assert "a perfect editor that knows only the drawings" in text
    rows = list(csv.DictReader((tmp_path / "report" / "report.csv").open()))
    found = {
        (row["table"], row["origin"]): float(row["value"])
        for row in rows
        if row["column"].lower().startswith("success")
    }
    assert found["Exact scores: All", CEILING] == pytest.approx(sum(scores) / 8, abs=1e-9)
    assert found["Exact scores: Local remove", CEILING] == 1
    (first, *_) = build_report(read_scored([run]), ReportConfig()).tables
    row = next(row for row in first.rows if row.origin == CEILING)
    assert not any(first.is_best(row, index) for index in range(len(first.columns)))

    note = tmp_path / "set" / "engine.json"
    note.write_text(note.read_text().replace(f'"engine": {VERSION}', '"engine": 1'))
    result = sama("eval", "exact", run, "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "no ceilings: version 1 of the engine made the set in" in result.output
    assert (tmp_path / "set" / KNOWN_DRAWING / EXACT).read_bytes() == records


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            f'"engine": {VERSION}',
            '"engine": 1',
            f"version 1 of the engine made the set in .*, and this is .* {VERSION}",
        ),
        ('"split": "test"', '"split": "known"', "a set of the split known, not test"),
    ],
)
def test_a_set_of_another_split_or_engine_is_no_copy_of_the_benchmark(engine_folder, tmp_path, before, after, message):
    shutil.copy(engine_folder / "manifest.csv", tmp_path)
    (tmp_path / "engine.json").write_text((engine_folder / "engine.json").read_text().replace(before, after))
    with pytest.raises(UserError, match=message):
        read_items(find_benchmark("engine"), tmp_path)

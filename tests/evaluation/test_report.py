"""A report says what the runs' records say, in every format, and mixes nothing that cannot be compared."""

import csv
import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from sama_video.cli.app import app
from sama_video.evaluation.page import choose_edits
from sama_video.evaluation.published import published_table
from sama_video.evaluation.records import ExactScores, Judgment, read_records, read_run, write_run
from sama_video.evaluation.report import ReportConfig, build_report, write_report
from sama_video.evaluation.scored import read_scored, same_judge
from sama_video.evaluation.tables import console
from sama_video.judge.answers import Answer, AnswerStore
from sama_video.system.errors import UserError
from sama_video.video import VideoReader

from ..clips import write_clip
from .made_up import judgment, make_items, without_scores, write_made_up_run

GEMINI = "google/gemini-2.5-flash-thinking"


@pytest.fixture
def folder(tmp_path):
    """Sources and edits that can be played."""
    for name in ("source-0.mp4", "source-1.mp4", "source-2.mp4"):
        write_clip(tmp_path / name, 5, height=33, width=48, pix_fmt="yuv444p")
    return tmp_path


def make_run(folder, editor, scores, *, benchmark="reco_bench", judge=GEMINI, judges=None, exact=()):
    """A run in which item i of every task got the score i of `scores`; None is an item without a video."""
    items = make_items(benchmark, len(scores), folder, sources=3)
    items[0] = dataclasses.replace(items[0], target=folder / "source-1.mp4")
    given = list(zip(items, scores * (len(items) // len(scores)), strict=True))
    path = folder / editor.replace(":", "-")
    edits = {item.id: "videos/edit.mp4" for item, score in given if score is not None}
    judgments = {
        name: [
            without_scores(item, "missing", name) if score is None else judgment(benchmark, item, score + shift, name)
            for item, score in given
        ]
        for name, shift in (judges or {judge: 0}).items()
    }
    write_made_up_run(path, benchmark, editor, items, judgments, exact, edits)
    (path / "videos").mkdir()
    write_clip(path / "videos" / "edit.mp4", 5, height=33, width=48, pix_fmt="yuv444p")
    return path


def table(report, title):
    return next(one for one in report.tables if one.title == title)


def row(table, name):
    return next(one for one in table.rows if one.name == name)


def cells(table, name):
    return dict(zip([column.name for column in table.columns], row(table, name).cells, strict=True))


def report_of(*runs, **config):
    return build_report(read_scored(runs, compat=config.get("compat", False)), ReportConfig(**config))


def test_a_run_stands_among_the_papers_systems(folder):
    report = report_of(make_run(folder, "mine", [6, 8, None, 4]), with_published=True)
    add = table(report, "Add")
    assert cells(add, "mine")["S"].value == pytest.approx((6 + 8 + 0 + 4) / 4)
    assert cells(add, "SAMA")["S"].value == 8.92
    assert len(add.rows) == 1 + len(published_table("table_4").tasks["add"])
    counts = row(add, "mine").counts
    assert (counts.ok, counts.missing, counts.failed) == (3, 1, 0)
    assert any("counts 0 in every dimension" in note for note in add.notes)
    assert any("in each other's place" in note for note in table(report, "Remove").notes)
    assert not any("in each other's place" in note for note in add.notes)
    assert any("own prompts" in sentence for sentence in report.about)


def test_compat_takes_the_missing_item_out(folder):
    report = report_of(make_run(folder, "mine", [6, 8, None, 4]), compat=True)
    assert cells(table(report, "Add"), "mine")["S"].value == pytest.approx((6 + 8 + 4) / 3)
    assert any("leave every mean" in note for note in table(report, "Add").notes)


def test_compat_finds_its_traps_in_the_runs_files(folder):
    run = make_run(folder, "mine", [6, 8, 3])
    path = next(run.glob("judgments-*.jsonl"))
    first, second, *rest = read_records(path, Judgment)
    traps = [
        dataclasses.replace(first, reason="unequal lengths: 5 and 4 frames"),
        dataclasses.replace(second, answer="key of the second"),
    ]
    path.write_text("".join(json.dumps(dataclasses.asdict(one)) + "\n" for one in [*traps, *rest]))
    with AnswerStore(run / "answers.jsonl") as store:
        store.append(Answer(key="key of the second", task="t", status="ok", text="I see no Error here"))
        store.append(Answer(key="of nobody", task="t", status="ok", text="error"))
    add = cells(table(report_of(run, compat=True), "Add"), "mine")
    assert add["SA"].value == pytest.approx(3)  # the first has left, and the second leaves the dimensions
    assert add["S"].value == pytest.approx((0 + 3) / 2)
    assert cells(table(report_of(run), "Add"), "mine")["S"].value == pytest.approx((6 + 8 + 3) / 3)


def test_another_judges_scores_stand_apart_from_the_papers(folder):
    report = report_of(make_run(folder, "mine", [5], judge="some/judge"), with_published=True)
    assert [one.name for one in table(report, "Add").rows] == ["mine"]
    apart = table(report, "The SAMA paper, Table 4, as printed")
    assert "mine" not in [one.name for one in apart.rows]
    assert any("not comparable" in note for note in apart.notes)


def test_vie_bench_is_labelled_as_not_comparable_everywhere(folder):
    run = make_run(folder, "mine", [5], benchmark="vie_bench", judge="gpt-4o")
    report = report_of(run, with_published=True)
    rows = [one for table in report.tables for one in table.rows if one.origin == "run"]
    assert rows
    assert all(one.remark == "not comparable with published numbers" for one in rows)
    closed = {one.name for one in table(report, "Add").rows if one.closed}
    assert closed == {"Kling1.6", "Kling-Omni", "Runway"}
    ablation = table(report, "The SAMA paper, Table 5, as printed")
    assert cells(ablation, "SAMA")["Overall"].value == 7.095
    assert any("Wan2.2-T2V-5B" in note for note in ablation.notes)
    assert not any("Another judge" in note for note in ablation.notes)
    write_report([run], folder / "out", ReportConfig(formats=("markdown",)))
    assert "not comparable with published numbers" in (folder / "out" / "report.md").read_text()


def test_two_runs_are_compared_item_by_item(folder):
    first, second = make_run(folder, "a", [9, 5, 2]), make_run(folder, "b", [8, 4, 2])
    difference = cells(table(report_of(first, second), "Differences between runs"), "a − b")
    assert difference["Difference"].value == pytest.approx(2 / 3)
    assert (difference["Wins"].value, difference["Ties"].value) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert difference["Win rate"].value == pytest.approx(2 / 3 + 1 / 6)


def test_judges_of_one_run_agree_or_not(folder):
    scores = [1, 3, 5, 7]
    runs = [
        make_run(folder, name, scores[shift:] + scores[:shift], judges={"j": 0, "k": 1}, benchmark="vie_bench")
        for shift, name in enumerate(["a", "b", "c"])
    ]
    agreement = table(report_of(*runs, judge="j"), "Agreement of judges")
    assert cells(agreement, "j, k: items of a")["Kendall's τ-b"].value == pytest.approx(1)
    assert cells(agreement, "j, k: items of a")["N"].value == 16
    assert "j, k: means of the runs" in [one.name for one in agreement.rows]
    with pytest.raises(UserError, match="choose one with `judge`"):
        report_of(*runs)


def test_what_cannot_be_compared_is_not(folder):
    mine = make_run(folder, "mine", [5])
    with pytest.raises(UserError, match="cannot mix openve_bench 1, reco_bench 1"):
        report_of(mine, make_run(folder, "openve", [3], benchmark="openve_bench"))
    with pytest.raises(UserError, match="no judge judged all runs"):
        report_of(mine, make_run(folder, "other", [5], judge="another"))
    with pytest.raises(UserError, match="the same items"):
        report_of(mine, make_run(folder, "longer", [5, 6]))
    with pytest.raises(UserError, match="not every run was judged by 'nobody'"):
        report_of(mine, judge="nobody")
    old = make_run(folder, "old", [5])
    (old / "run.json").write_text((old / "run.json").read_text().replace('"version": "1"', '"version": "0"'))
    with pytest.raises(UserError, match="version 0, and this is version 1"):
        report_of(old)


def test_one_model_has_many_spellings():
    assert same_judge("google/gemini-2.5-pro", "Gemini-2.5-Pro")
    assert same_judge("gpt-4o (authors' prompts)", "GPT-4o")
    assert not same_judge("gpt-4o-mini", "gpt-4o")


def test_exact_scores_have_a_table_for_each_family(folder):
    items = make_items("vie_bench", 2)
    exact = [
        ExactScores(item=item.id, status="ok", scores={"psnr": 20.0 + index % 2, "motion_error": 1.0})
        for index, item in enumerate(items)
    ]
    run = make_run(folder, "mine", [5, 5], benchmark="vie_bench", judge="j", exact=exact)
    add = table(report_of(run), "Exact scores: Add")
    assert row(add, "mine").cells[0].value == pytest.approx(20.5)
    assert [column.better for column in add.columns] == ["higher", "lower"]


def test_exact_scores_of_runs_are_compared_item_by_item(folder):
    items = make_items("vie_bench", 2)

    def run(name, shift):
        exact = [
            ExactScores(item=item.id, status="ok", scores={"success": 1.0, "psnr_inside": 20.0 + index + shift})
            for index, item in enumerate(items)
        ]
        return make_run(folder, name, [5, 5], benchmark="vie_bench", judge="j", exact=exact)

    report = report_of(run("mine", 1.5), run("theirs", 0))
    found = cells(table(report, "Differences between runs: PSNR to target, inside"), "mine − theirs")
    assert (found["Difference"].value, found["Wins"].value) == (pytest.approx(1.5), 1)
    assert cells(table(report, "Differences between runs: success"), "mine − theirs")["Ties"].value == 1


def test_formats_tell_the_same_numbers(folder):
    run = make_run(folder, "mine_1", [6, 8, 3])
    files = write_report([run], folder / "out", ReportConfig(with_published=True, formats=("markdown", "csv", "latex")))
    texts = {path.suffix: path.read_text() for path in files}
    rows = list(csv.DictReader(texts[".csv"].splitlines()))
    found = next(r for r in rows if (r["table"], r["row"], r["column"]) == ("Add", "mine_1", "S"))
    assert float(found["value"]) == pytest.approx(17 / 3)
    assert float(found["low"]) <= 17 / 3 <= float(found["high"])
    assert (found["n_ok"], found["origin"]) == ("3", "run")
    printed = [r for r in rows if r["table"] == "Add" and r["row"] == "SAMA"]
    assert [float(r["value"]) for r in printed] == list(published_table("table_4").tasks["add"]["SAMA"])
    assert all(r["low"] == "" and r["n_ok"] == "" for r in printed)
    assert re.search(r"\| mine_1 \|.* 5\.67 \[", texts[".md"])
    assert "| **9.51** |" in texts[".md"]
    assert r"mine\_1 & " in texts[".tex"]
    assert r"\textbf{9.51}" in texts[".tex"]
    assert texts[".tex"].count(r"\toprule") == texts[".tex"].count(r"\end{tabular}") == 5


WARNING = "Careful: an interval here stands on 3 sources. Intervals of fewer than 10 sources are too narrow"


def test_few_sources_are_said_in_every_format(folder):
    run = make_run(folder, "mine", [6, 8, 3])
    write_report([run], folder / "out", ReportConfig(samples=0))
    texts = {path.suffix: path.read_text() for path in (folder / "out").iterdir() if path.is_file()}
    for suffix in (".md", ".tex", ".html"):
        assert WARNING in texts[suffix], suffix
    rows = list(csv.DictReader(texts[".csv"].splitlines()))
    assert {(row["n_sources"], row["warning"]) for row in rows if row["low"]} == {("3", "fewer than 10 sources")}


def test_one_source_is_said_instead_of_an_interval_in_every_format(folder):
    run = make_run(folder, "mine", [6])
    items = make_items("reco_bench", 1, folder, sources=1)
    items[0] = dataclasses.replace(items[0], target=folder / "source-1.mp4")
    info = read_run(run)[0]
    (run / "items.jsonl").unlink()
    write_run(run, info, items)
    write_report([run], folder / "out", ReportConfig(samples=0))
    texts = {path.suffix: path.read_text() for path in (folder / "out").iterdir() if path.is_file()}
    assert "| 6.00 n = 1 |" in texts[".md"]
    assert r"6.00 {\scriptsize n = 1}" in texts[".tex"]
    assert "<small>n = 1</small>" in texts[".html"]
    assert "[6.00, 6.00]" not in "".join(texts.values())
    rows = [row for row in csv.DictReader(texts[".csv"].splitlines()) if row["value"]]
    assert {(row["low"], row["high"], row["n_sources"], row["warning"]) for row in rows} == {("", "", "1", "n = 1")}


NAMES = {
    '=HYPERLINK("http://evil.example","x")': "'=HYPERLINK",
    "+1+cmd|' /C calc'!A0": "'+1+cmd",
    "-2+3": "'-2+3",
    "@SUM(A1)": "'@SUM",
    "\t=1+1": "'=1+1",
    "\x00=1+1": "'=1+1",
    "\uff1d1+1": "'\uff1d1+1",
    "<script>alert(1)</script>": "<script>",
    "a|b `c` *d* [e](http://evil.example)": "a|b",
    "line\n\nbreak \\input{/etc/passwd} 100% #1 & $x$ ~ ^ _ [x] *": "line",
    "\x1b[31mred\u202e": "[31mred",
}


@pytest.mark.parametrize(("name", "in_csv"), NAMES.items(), ids=range(len(NAMES)))
def test_a_name_does_nothing_in_the_programs_that_open_a_report(folder, name, in_csv):
    run = make_run(folder, "mine", [6, 8])
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "editor": name}))
    write_report([run], folder / "out", ReportConfig(samples=0))
    texts = {path.suffix: path.read_text() for path in (folder / "out").iterdir() if path.is_file()}

    rows = list(csv.DictReader(texts[".csv"].splitlines()))
    assert all(row["row"].startswith(in_csv) for row in rows)
    assert not [cell for row in rows for cell in row.values() if cell[:1] in tuple("=+@\t\r")]
    numbers = [float(row["value"]) for row in rows if row["value"]]
    assert 7.0 in numbers

    assert "<script" not in texts[".md"]
    assert not re.search(r"(?<!\\)[`\[]\S*\]?\(", texts[".md"])
    assert "://" not in texts[".md"]
    for line in texts[".md"].splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) in {
                len(re.split(r"(?<!\\)\|", head)) for head in texts[".md"].splitlines() if head.startswith("| System")
            }
    assert "<script>alert" not in texts[".html"]
    assert "\x1b" not in "".join(texts[kind] for kind in (".md", ".csv", ".tex"))

    body = texts[".tex"].split("\n", 2)[2]
    assert texts[".tex"].startswith("% ")
    assert r"\input" not in body
    for special in ("$x$", " 100% ", " #1 ", " & $"):
        assert special not in body
    assert not re.search(r"\\\\\s*[\[*]", body)


def test_the_console_shows_names_as_they_are_and_obeys_none(folder):
    table = report_of(make_run(folder, "mine", [6, 8])).tables[0]
    named = dataclasses.replace(table, rows=(dataclasses.replace(table.rows[0], name="a > b_c \x1b[2J"),))
    assert "| a > b_c  [2J |" in console(named)


def test_closed_systems_are_marked_and_never_the_best(folder):
    run = make_run(folder, "mine", [1], benchmark="openve_bench", judge="gemini-2.5-pro")
    summary = table(report_of(run, with_published=True), "All tasks")
    runway = row(summary, "Runway")
    change = [column.name for column in summary.columns].index("Local Change")
    assert runway.closed
    assert not summary.is_best(runway, change)  # 4.18, above SAMA's 3.93
    assert summary.is_best(row(summary, "SAMA"), change)
    assert row(summary, "SAMA").remark == "14B"
    assert row(summary, "mine").cells[-1].value == 1  # over all items; the paper prints no such number
    assert row(summary, "SAMA").cells[-1] is None


def test_best_worst_and_random_items_are_chosen_once_each_and_by_seed(folder):
    scores = list(map(float, np.random.default_rng(0).permutation(9) + 1))
    (run,) = read_scored([make_run(folder, "mine", scores, benchmark="vie_bench", judge="j")])
    samples = choose_edits(run, "j", 2, seed=0)
    assert [sample.why for sample in samples] == ["best"] * 2 + ["worst"] * 2 + ["random"] * 2
    assert len({sample.item.id for sample in samples}) == 6
    assert [sample.score for sample in samples[:4]] == ["Avg. 9.00"] * 2 + ["Avg. 1.00"] * 2
    assert samples == choose_edits(run, "j", 2, seed=0)
    assert samples[4:] != choose_edits(run, "j", 2, seed=1)[4:]


def test_the_page_stands_alone_and_its_videos_are_playable(folder):
    run = make_run(folder, "<mine>", [6, None, 3])
    write_report([run], folder / "out", ReportConfig(formats=("html",), samples=1))
    page = (folder / "out" / "index.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!media/|data:)|https?://|url\(", page)
    assert "<mine>" not in page
    assert "Change <thing>" not in page
    assert page.count("<caption>") == page.count("<table>") == 5
    assert "no video: made up" in page
    for name in re.findall(r'src="(media/[^"]+)"', page):
        info = VideoReader(folder / "out" / name).info
        assert (info.height, info.width, info.num_frames) == (34, 48, 5)  # H.264 in yuv420p has even sides


def test_a_report_needs_no_torch(folder):
    run = make_run(folder, "mine", [6, 8])
    code = (
        "import sys; from pathlib import Path; from sama_video.evaluation.report import *\n"
        f"write_report([Path({str(run)!r})], Path({str(folder / 'out')!r}), ReportConfig(with_published=True))\n"
        "print(sorted({'torch', 'openai', 'cv2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert (folder / "out" / "index.html").is_file()


def test_the_command_says_what_it_wrote(folder):
    run = make_run(folder, "mine", [6, 8])
    result = CliRunner().invoke(app, ["eval", "report", str(run), "--out", str(folder / "o"), "--format", "markdown"])
    assert result.exit_code == 0, result.output
    assert result.output == f"{folder / 'o' / 'report.md'}\n"
    unknown = CliRunner().invoke(app, ["eval", "report", str(run), "--format", "pdf"])
    assert isinstance(unknown.exception, UserError)
    assert "unknown format pdf" in str(unknown.exception)


def test_one_judge_asked_in_two_ways_is_two_judges(folder):
    runs = [make_run(folder, name, [6, 8]) for name in ("mine", "theirs")]
    for run, repeats in zip(runs, (1, 3), strict=True):
        (run / "judgments-gemini.json").write_text(json.dumps({"judge": GEMINI, "repeats": repeats}))
    with pytest.raises(UserError, match=r"asked otherwise about theirs than about mine \(repeats\)"):
        report_of(*runs)


def test_fewer_samples_than_none_are_refused():
    with pytest.raises(UserError, match="`samples` must be at least 0, got -1"):
        ReportConfig(samples=-1)

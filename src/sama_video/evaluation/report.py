"""Runs -> one report: tables with intervals, the paper's rows beside them, differences, agreement of judges.

`write_report` writes it as Markdown, CSV, LaTeX, and a page with the videos (`page.py`).
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..media.metrics import METRICS
from ..system.errors import UserError
from ..system.files import make_folder, written_aside
from .aggregate import EXACT_RULE, TaskScores, overall_scores, rule_of
from .authors import prompts_of
from .ceilings import CEILING_NOTE, NO_CEILING_NOTE, has_ceilings, read_ceilings
from .editors import KNOWN_DRAWING
from .page import choose_edits, copy_media, page
from .published import PublishedTable, paper_apart, paper_headlines, paper_notes, paper_rows, published_table
from .scored import ScoredRun, choose_judge, read_scored, same_judge
from .statistics import DRAWS, kendall_tau, mean_intervals, paired_difference, spearman, win_rate
from .tables import CEILING, Column, Table, TableRow, bare, csv_text, latex_text, markdown_text, rendered

_NOT_COMPARABLE = "not comparable with published numbers"
_OWN_PROMPTS = "The judge was asked by this project's own prompts, not the benchmark's ('--prompts copy' asks those)."
_OTHER_PROMPTS = (
    "The judge was asked by a variant of the authors' prompts from another project: not comparable with numbers by "
    "theirs."
)
_OTHER_JUDGE = "Another judge than these runs': not comparable with the tables above."
# Exact scores that runs are compared in, item by item.
_DECIDING = ("success", "psnr_inside", "psnr_outside", "psnr_to_source")
_INTERVAL_NOTE = f"In brackets: 95% interval, {DRAWS} bootstrap draws of source videos."


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What a report holds.

    Args:
        judge: whose scores; needed where the runs have several judges in common.
        compat: by the authors' script, traps included.
        with_published: with the paper's table of this benchmark.
        formats: markdown, csv, latex, html.
        samples: items shown of the best, the worst, and at random, for each run.
        seed: of the random ones.
    """

    judge: str | None = None
    compat: bool = False
    with_published: bool = False
    formats: tuple[str, ...] = ("markdown", "csv", "latex", "html")
    samples: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise UserError(f"`samples` must be at least 0, got {self.samples}")
        if unknown := set(self.formats) - _FILES.keys():
            raise UserError(f"unknown format {', '.join(sorted(unknown))}; there is {', '.join(_FILES)}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is written, in whatever format.

    Args:
        about: sentences that hold for the whole of it.
        judge: None where no run was judged.
    """

    title: str
    about: tuple[str, ...]
    tables: tuple[Table, ...]
    runs: tuple[ScoredRun, ...]
    judge: str | None


def write_report(runs: Sequence[Path], out: Path, config: ReportConfig) -> list[Path]:
    """Writes `report.md`, `report.csv`, `report.tex` and `index.html` with `media/` into `out`; returns the files.

    Raises:
        UserError: for runs that one table cannot hold, and for what the runs do not have.
    """
    report = build_report(read_scored(runs, compat=config.compat), config)
    make_folder(out)
    paths = {form: out / _FILES[form] for form in config.formats}
    for form, path in paths.items():
        text = _text_of(report, form, out, config)
        with written_aside(path) as aside:
            aside.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return list(paths.values())


def build_report(runs: Sequence[ScoredRun], config: ReportConfig) -> Report:
    """All tables of runs of one benchmark."""
    judge = choose_judge(runs, config.judge)
    if judge is None and not any(run.exact for run in runs):
        raise UserError("nothing was scored yet; 'sama eval judge RUN' or 'sama eval exact RUN' does")
    tables: list[Table] = []
    if judge is not None:
        tables += _judged_tables(runs, judge, config)
    if config.with_published and judge is None:
        raise UserError("the paper's tables are judges' scores, and these runs have none; leave out `with_published`")
    scored = [run for run in runs if run.exact]
    tables += exact_tables({run.name: run.exact for run in scored}, _find_ceilings(scored))
    benchmark = runs[0].benchmark
    title = f"{benchmark.title} (version {benchmark.version})" if benchmark else "Exact scores of the pairs given"
    return Report(title=title, about=_about(runs, judge), tables=tuple(tables), runs=tuple(runs), judge=judge)


def _about(runs: Sequence[ScoredRun], judge: str | None) -> tuple[str, ...]:
    about = [f"Runs: {', '.join(run.name for run in runs)}. Items: {len(runs[0].items)}."]
    if judge is not None:
        about.append(f"Judge: {judge}.")
        if runs[0].benchmark is not None and runs[0].benchmark.authors:
            prompts = prompts_of(runs[0].benchmark, judge)
            about += [_OWN_PROMPTS] if prompts is None else [] if prompts.comparable else [_OTHER_PROMPTS]
    if (benchmark := runs[0].benchmark) is not None and not benchmark.comparable:
        about.append(f"Scores of {benchmark.title} by this judge's prompt are {_NOT_COMPARABLE}.")
    return tuple(about)


# What a judge gave


def _judged_tables(runs: Sequence[ScoredRun], judge: str, config: ReportConfig) -> list[Table]:
    """A summary, a table of every task, the paper's if asked for, differences of runs, agreement of judges."""
    benchmark = runs[0].benchmark
    assert benchmark is not None
    rule = rule_of(benchmark, config.compat)
    if config.with_published and not benchmark.published:
        raise UserError("the paper has no table of this benchmark; leave out `with_published`")
    printed = [published_table(name) for name in benchmark.published if config.with_published]
    paper = printed[0] if printed else None
    prompts = prompts_of(benchmark, judge)
    comparable = prompts is None or prompts.comparable
    beside = paper if paper is not None and comparable and same_judge(paper.judge, judge) else None
    tables = [_summary(runs, judge, beside, rule, overall=benchmark.overall == "items")]
    tables += [_task_table(runs, judge, index, beside, rule) for index in range(len(runs[0].judged[judge]))]
    if paper is not None and beside is None:
        tables.append(paper_apart(paper, _OTHER_JUDGE))
    tables += [paper_apart(one) for one in printed[1:]]
    headlines = {run.name: overall_scores(run.judged[judge]) for run in runs}
    return [*tables, *_difference_tables(headlines, ""), *_agreement_tables(runs)]


def _summary(runs: Sequence[ScoredRun], judge: str, paper: PublishedTable | None, rule: str, *, overall: bool) -> Table:
    """A column a task: its headline."""
    tasks = runs[0].judged[judge]
    rows = [] if paper is None else paper_headlines(paper, [one.task for one in tasks], overall)
    for run in runs:
        scored = run.judged[judge]
        everything = overall_scores(scored)
        columns = [*scored, *([everything] if overall else [])]
        cells = [mean_intervals(one.headline[:, None], one.clusters)[0] for one in columns]
        rows.append(TableRow(name=run.name, cells=tuple(cells), remark=_remark(run), counts=everything.counts))
    names = [one.title for one in tasks] + (["Overall"] if overall else [])
    return Table(
        title="All tasks",
        columns=tuple(Column(name=name) for name in names),
        rows=tuple(rows),
        decimals=paper.decimals if paper else 2,
        notes=_notes(rule, paper, [one.task for one in tasks], tasks[0].columns[-1:]),
    )


def _task_table(runs: Sequence[ScoredRun], judge: str, index: int, paper: PublishedTable | None, rule: str) -> Table:
    """A column a dimension, a block, and the headline."""
    first = runs[0].judged[judge][index]
    rows = paper_rows(paper, first) if paper else []
    for run in runs:
        scores = run.judged[judge][index]
        cells = tuple(scores.intervals())
        rows.append(TableRow(name=run.name, cells=cells, remark=_remark(run), counts=scores.counts))
    return Table(
        title=first.title,
        columns=tuple(Column(name=name) for name in first.columns),
        rows=tuple(rows),
        decimals=paper.decimals if paper else 2,
        notes=_notes(rule, paper, [first.task], first.columns),
    )


def _remark(run: ScoredRun) -> str:
    return "" if run.benchmark is None or run.benchmark.comparable else _NOT_COMPARABLE


def _notes(rule: str, paper: PublishedTable | None, tasks: Sequence[str], columns: Collection[str]) -> tuple[str, ...]:
    return (rule, _INTERVAL_NOTE, *(paper_notes(paper, tasks, columns) if paper else ()))


# Two runs, two judges


def _difference_tables(scores: Mapping[str, TaskScores], measure: str) -> list[Table]:
    """Every pair of runs, item by item, over all tasks: mean difference and wins of the headline.

    Args:
        scores: of each run by its name.
        measure: what the headline is, for the title; empty for a judge's.
    """
    rows = [
        _difference_row(f"{first} − {second}", scores[first], scores[second])
        for first, second in itertools.combinations(scores, 2)
    ]
    if not rows:
        return []
    names = ("Difference", "Win rate", "Wins", "Ties", "Losses")
    return [
        Table(
            title="Differences between runs" + (f": {measure}" if measure else ""),
            first="First − second",
            columns=tuple(Column(name=name, better="") for name in names),
            rows=tuple(rows),
            decimals=3,
            notes=(
                "Over the items that both runs have scores of, all tasks together. An interval of the "
                "difference that holds 0 decides nothing. Win rate: share of items in which the first scores higher, a "
                "tie counting half.",
                _INTERVAL_NOTE,
            ),
        )
    ]


def _difference_row(name: str, first: TaskScores, second: TaskScores) -> TableRow:
    scores = dict(zip(second.items, second.headline, strict=True))
    aligned = np.array([scores[item] for item in first.items])
    wins = win_rate(first.headline, aligned, first.clusters)
    difference = paired_difference(first.headline, aligned, first.clusters)
    return TableRow(name=name, cells=(difference, wins.score, bare(wins.wins), bare(wins.ties), bare(wins.losses)))


def _agreement_tables(runs: Sequence[ScoredRun]) -> list[Table]:
    """Every pair of judges that scored the same run: rank agreement over items, and over runs' means."""
    judges = sorted({judge for run in runs for judge in run.judged})
    rows = [
        row
        for first, second in itertools.combinations(judges, 2)
        for row in _agreement_rows([run for run in runs if {first, second} <= run.judged.keys()], first, second)
    ]
    if not rows:
        return []
    return [
        Table(
            title="Agreement of judges",
            first="Judges, over",
            columns=tuple(Column(name=name, better="") for name in ("Kendall's τ-b", "Spearman's ρ", "N")),
            rows=tuple(rows),
            notes=("Ranks by the headline: 1 is the same order, 0 none, -1 the reverse. Few runs say little.",),
        )
    ]


def _agreement_rows(runs: Sequence[ScoredRun], first: str, second: str) -> list[TableRow]:
    pairs = [(overall_scores(run.judged[first]).headline, overall_scores(run.judged[second]).headline) for run in runs]
    rows = []
    for run, (a, b) in zip(runs, pairs, strict=True):
        common = ~np.isnan(a + b)
        rows.append(_agreement_row(f"{first}, {second}: items of {run.name}", a[common], b[common]))
    if len(pairs) > 2:
        means = np.array([[np.nanmean(a), np.nanmean(b)] for a, b in pairs])
        rows.append(_agreement_row(f"{first}, {second}: means of the runs", means[:, 0], means[:, 1]))
    return rows


def _agreement_row(name: str, a: np.ndarray, b: np.ndarray) -> TableRow:
    return TableRow(name=name, cells=(bare(kendall_tau(a, b)), bare(spearman(a, b)), bare(float(len(a)))))


# What was scored exactly


def exact_tables(
    by_run: Mapping[str, Sequence[TaskScores]], ceilings: Mapping[str, TaskScores] | None = None
) -> list[Table]:
    """All edits together, how the runs differ in them, then every family.

    Args:
        by_run: families and, last, all of them together, by the run's name.
        ceilings: of every family, see `ceilings.py`; empty where they are not known, None where there are none.
    """
    families = {one.task: one.title for tasks in by_run.values() for one in [tasks[-1], *tasks[:-1]]}
    tables = []
    for family, title in families.items():
        of_family = {name: one for name, tasks in by_run.items() for one in tasks if one.task == family}
        tables.append(_exact_table(of_family, title, ceilings[family] if ceilings else None, _ceiling_notes(ceilings)))
    return [*tables[:1], *_exact_differences({name: tasks[-1] for name, tasks in by_run.items()}), *tables[1:]]


def _find_ceilings(runs: Sequence[ScoredRun]) -> dict[str, TaskScores] | None:
    """By family, of the first run whose set has them; None where there is nothing to know."""
    if not runs or not has_ceilings(runs[0].benchmark):
        return None
    found = next(filter(None, (read_ceilings(run.info, run.items) for run in runs)), [])
    return {one.task: one for one in found}


def _exact_differences(by_run: Mapping[str, TaskScores]) -> list[Table]:
    metrics = [name for name in _DECIDING if all(name in one.columns for one in by_run.values())]
    return [
        table
        for name in metrics
        for table in _difference_tables({run: one.only(name) for run, one in by_run.items()}, METRICS[name].title)
    ]


def _exact_table(
    by_run: Mapping[str, TaskScores], title: str, ceiling: TaskScores | None, notes: tuple[str, ...]
) -> Table:
    metrics = [name for name in METRICS if any(name in one.columns for one in by_run.values())]
    rows = []
    for name, scores in by_run.items():
        rows.append(_exact_row(name, scores, metrics))
    if ceiling:
        row = _exact_row(KNOWN_DRAWING, ceiling, metrics)
        rows.append(replace(row, origin=CEILING, remark=CEILING))
    return Table(
        title=f"Exact scores: {title}",
        columns=tuple(
            Column(name=f"{METRICS[name].title} {METRICS[name].unit}".strip(), better=METRICS[name].better)
            for name in metrics
        ),
        rows=tuple(rows),
        notes=(EXACT_RULE, _INTERVAL_NOTE, *notes),
    )


def _exact_row(name: str, scores: TaskScores, metrics: Sequence[str]) -> TableRow:
    cells = dict(zip(scores.columns, scores.intervals(), strict=True))
    return TableRow(name=name, cells=tuple(cells.get(metric) for metric in metrics), counts=scores.counts)


def _ceiling_notes(ceilings: Mapping[str, TaskScores] | None) -> tuple[str, ...]:
    return () if ceilings is None else (CEILING_NOTE,) if ceilings else (NO_CEILING_NOTE,)


# Files

_FILES = {"markdown": "report.md", "csv": "report.csv", "latex": "report.tex", "html": "index.html"}
_ESCAPES = {"markdown": markdown_text, "latex": latex_text}


def _text_of(report: Report, form: str, out: Path, config: ReportConfig) -> str:
    """The report as a text of this format; a page's videos are written beside it."""
    if form == "csv":
        return csv_text(report.tables)
    if form in _ESCAPES:
        text = _ESCAPES[form]
        return rendered(_FILES[form], text, title=report.title, about=report.about, tables=report.tables)
    edits = [edit for run in report.runs for edit in choose_edits(run, report.judge, config.samples, config.seed)]
    return page(report.title, report.about, report.tables, edits, copy_media(edits, out / "media"))

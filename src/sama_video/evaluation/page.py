"""The report as one page: sortable tables, and edits beside their sources. Template, style and script are in `page/`.

Nothing is loaded from anywhere but the page's own folder, where videos are as any browser plays them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from ..media.metrics import METRICS
from ..system.files import written_aside
from ..video import write_playable
from .aggregate import TaskScores, overall_scores
from .benchmark import Item
from .scored import ScoredRun
from .tables import Table, rendered

_FOLDER = Path(__file__).parent / "page"
_LONGEST_SIDE = 640
_ROLES = ("source", "edit", "target")


@dataclass(frozen=True, kw_only=True)
class ShownEdit:
    """An item of a run to be looked at.

    Args:
        why: "best", "worst" or "random".
        score: what it was chosen by, with its name.
        files: source, edit and target, where there is one.
        remark: why there is no edit.
    """

    run: str
    why: str
    item: Item
    score: str
    files: dict[str, Path]
    remark: str = ""


def choose_edits(run: ScoredRun, judge: str | None, count: int, seed: int) -> list[ShownEdit]:
    """The best, the worst, and random others of a run, at most `count` each; none twice, and none without scores."""
    deciding = _deciding_scores(run, judge)
    if deciding is None:
        return []
    name, scores = deciding
    known = np.flatnonzero(~np.isnan(scores.headline))
    order = known[np.argsort(-scores.headline[known], kind="stable")].tolist()
    best = order[:count]
    worst = [index for index in order[::-1][:count] if index not in best]
    others = [index for index in order if index not in best and index not in worst]
    drawn = np.random.default_rng(seed).permutation(len(others))[:count]
    chosen = {"best": best, "worst": worst, "random": [others[index] for index in drawn]}
    by_id = {item.id: item for item in run.items}
    return [
        _shown(run, why, by_id[scores.items[index]], f"{name} {scores.headline[index]:.2f}")
        for why, indices in chosen.items()
        for index in indices
    ]


def _deciding_scores(run: ScoredRun, judge: str | None) -> tuple[str, TaskScores] | None:
    """The judge's headline, or the first PSNR, to the target or else the source; None if the run has neither."""
    if judge is not None:
        tasks = run.judged[judge]
        return tasks[0].columns[-1], overall_scores(tasks)
    measured = run.exact[-1].columns if run.exact else ()
    metric = next((name for name in METRICS if name.startswith("psnr") and name in measured), None)
    if metric is None:
        return None
    return METRICS[metric].title, run.exact[-1].only(metric)


def _shown(run: ScoredRun, why: str, item: Item, score: str) -> ShownEdit:
    prediction = run.predictions.get(item.id)
    files = {"source": item.source}
    if prediction is not None and prediction.status == "ok":
        files["edit"] = run.path / prediction.file
    if item.target is not None:
        files["target"] = item.target
    remark = "" if "edit" in files else (prediction.reason if prediction else "not predicted")
    return ShownEdit(run=run.name, why=why, item=item, score=score, files=files, remark=remark)


def copy_media(edits: Sequence[ShownEdit], folder: Path) -> dict[Path, str]:
    """Makes every file of the edits playable in `folder`, each once; file -> its name there."""
    names: dict[Path, str] = {}
    with written_aside(folder) as aside:
        aside.mkdir()
        for edit in edits:
            for role, file in edit.files.items():
                if file not in names:
                    names[file] = write_playable(file, aside / f"{len(names):03d}-{role}", _LONGEST_SIDE, crf=20).name
    return names


def page(
    title: str, about: Sequence[str], tables: Sequence[Table], edits: Sequence[ShownEdit], media: Mapping[Path, str]
) -> str:
    """The whole document.

    Args:
        media: file of an edit -> its name in the folder `media` beside the page.
    """
    gallery = [
        (run, [(why, list(group)) for why, group in groupby(of_run, key=lambda edit: edit.why)])
        for run, of_run in groupby(edits, key=lambda edit: edit.run)
    ]
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return rendered(
        "page.html",
        title=title,
        about=about,
        tables=tables,
        gallery=gallery,
        media=media,
        roles=_ROLES,
        style=style,
        script=script,
    )

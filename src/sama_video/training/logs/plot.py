"""Curves of runs beside each other, smoothed, with their spread: as the paper shows its losses (Fig. 6b).

The spread is the standard deviation over the same window that the mean is taken over: a run whose loss jumps less has
a narrower band.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...system.errors import UserError
from ...system.files import written_aside
from .runlog import METRICS, numbers_of, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOSSES = ("loss", "flow_loss", "semantic_loss")
_VALIDATIONS = ("validation/all/psnr_inside", "validation/all/psnr_one_step")
_PANEL = (5.2, 3.6)
_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A metric of a run over its steps: arrays `[n]`; `spread` is a standard deviation, 0 without smoothing."""

    run: str
    steps: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


def find_runs(paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Records by name of every stage in the folders: a run's folder itself, or that of several stages.

    Raises:
        UserError: for a folder without a metrics.jsonl.
    """
    runs = {}
    for path in paths:
        files = [path / METRICS] if (path / METRICS).is_file() else sorted(path.glob(f"*/{METRICS}"))
        if not files:
            raise UserError(f"{path} holds no {METRICS}; give the folder of a run, --out of sama train")
        runs |= {str(file.parent): read_metrics(file) for file in files}
    return _with_short_names(runs)


def _with_short_names(runs: dict[str, Any]) -> dict[str, Any]:
    """The last parts of the paths, as many as tell the runs apart."""
    parts = {path: Path(path).parts for path in runs}
    for length in range(1, max(map(len, parts.values())) + 1):
        short = {path: "/".join(own[-length:]) for path, own in parts.items()}
        if len(set(short.values())) == len(runs):
            break
    return {short[path]: records for path, records in runs.items()}


def series(records: Sequence[dict[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric by its path in the records. Empty where a run does not have it."""
    points = [(record["step"], value) for record in records for name, value in numbers_of(record) if name == metric]
    return np.array([step for step, _ in points]), np.array([value for _, value in points], dtype=np.float64)


def smoothed(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the `window` newest values at every step; of fewer at the beginning."""
    window = min(window, len(values))
    padded = np.concatenate([np.full(window - 1, np.nan), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    return np.nanmean(windows, axis=1), np.nanstd(windows, axis=1)


def _find_curves(runs: dict[str, list[dict[str, Any]]], metric: str, window: int) -> list[_Curve]:
    """Of every run that has the metric. Validations are few and stay as they are."""
    curves = []
    for run, records in runs.items():
        steps, values = series(records, metric)
        if len(steps):
            mean, spread = smoothed(values, 1 if metric.startswith("validation/") else window)
            curves.append(_Curve(run=run, steps=steps, mean=mean, spread=spread))
    return curves


def plot_runs(paths: Sequence[Path], out: Path, *, metrics: Sequence[str] = (), window: int = 50) -> list[str]:
    """Draw a panel for each metric with the curves of all runs; returns the metrics drawn.

    Args:
        paths: run folders.
        out: .png, .svg or .pdf.
        metrics: paths in metrics.jsonl, such as "loss", "flow_by_sigma/4" or "validation/all/psnr"; none: losses and
            validations that there are.
        window: steps that mean and spread are taken over.

    Raises:
        UserError: for a folder without a run, a metric that no run has, another suffix, or without matplotlib.
    """
    if out.suffix not in _SUFFIXES:
        raise UserError(f"cannot draw {out.name}; use one of {', '.join(_SUFFIXES)}")
    if window < 1:
        raise UserError(f"`smooth` must be at least 1, got {window}")
    runs = find_runs(paths)
    panels = {metric: _find_curves(runs, metric, window) for metric in metrics or (*_LOSSES, *_VALIDATIONS)}
    missing = [metric for metric, curves in panels.items() if not curves]
    if metrics and missing:
        known = {name for records in runs.values() for record in records for name, _ in numbers_of(record)}
        raise UserError(f"no run has the metric {missing[0]!r}; there is {', '.join(sorted(known - {'step'}))}")
    drawn = {metric: curves for metric, curves in panels.items() if curves}
    if not drawn:
        raise UserError("these runs have not made a step yet; wait for their first")
    _draw(drawn, out)
    return list(drawn)


def plot_groups(
    stages: dict[str, dict[str, list[Path]]], out: Path, *, metrics: Sequence[str], window: int = 50
) -> None:
    """Draw a panel for each stage and metric, with a curve for each group of runs: the mean over the runs, each
    smoothed, and their standard deviation as the band.

    Args:
        stages: stage -> group -> folders of its runs of that stage.
        out, window: as in `plot_runs`.
        metrics: one that no run of a stage has gets no panel there.

    Raises:
        UserError: without matplotlib.
    """
    panels: dict[str, list[_Curve]] = {}
    for stage, groups in stages.items():
        for metric in metrics:
            curves = (_mean_curve(name, folders, metric, window) for name, folders in groups.items())
            panels[f"{stage}: {metric.replace('_', ' ')}"] = [curve for curve in curves if curve is not None]
    _draw({title: curves for title, curves in panels.items() if curves}, out)


def _mean_curve(name: str, folders: Sequence[Path], metric: str, window: int) -> _Curve | None:
    """Of several runs, over the steps that all of them have made; None without any."""
    found = [series(read_metrics(folder / METRICS), metric) for folder in folders]
    length = min((len(steps) for steps, _ in found), default=0)
    if not length:
        return None
    means = np.stack([smoothed(values, window)[0][:length] for _, values in found])
    return _Curve(run=name, steps=found[0][0][:length], mean=means.mean(axis=0), spread=means.std(axis=0))


def _draw(panels: dict[str, list[_Curve]], out: Path) -> None:
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = find_matplotlib()(figsize=(columns * _PANEL[0], rows * _PANEL[1]), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    # A run has one colour in all panels, also where others have no curve.
    colours = {run: f"C{number}" for number, run in enumerate(_names(panels))}
    for metric, panel in zip(panels, axes, strict=False):
        _draw_panel(panel, metric, panels[metric], colours)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    with written_aside(out) as aside:
        figure.savefig(aside, dpi=144)


def find_matplotlib() -> "type[Figure]":
    """Its class of figures. Raises UserError where it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("curves need matplotlib: pip install 'sama-video[train]'") from error
    return Figure


def _names(panels: dict[str, list[_Curve]]) -> list[str]:
    return list(dict.fromkeys(curve.run for curves in panels.values() for curve in curves))


def _draw_panel(axes: "Axes", metric: str, curves: list[_Curve], colours: dict[str, str]) -> None:
    for curve in curves:
        colour, low, high = colours[curve.run], curve.mean - curve.spread, curve.mean + curve.spread
        marker = "." if len(curve.steps) < 30 else None
        axes.plot(curve.steps, curve.mean, label=curve.run, marker=marker, color=colour)
        axes.fill_between(curve.steps, low, high, color=colour, alpha=0.2, lw=0)
    axes.set_title(metric)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")

"""A picture of the distribution of every score, images and videos apart, with the threshold drawn."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..system.errors import UserError
from .rules import CurationConfig
from .score import Scored

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Half scores from 1 on; the last holds the tens alone, since judges like to give them.
_BIN = 0.5
_EDGES = np.arange(1, 10 + 2 * _BIN, _BIN)
_PANEL_INCHES = (3.8, 2.5)
_KEPT, _REJECTED, _THRESHOLD = "#2e6eb4", "#b0b8c0", "#c82828"


def draw_histograms(scored: list[Scored], config: CurationConfig, path: Path) -> None:
    """Writes a PNG: a row for each kind that occurs, a panel for each of its scores.

    Raises:
        UserError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("drawing the scores needs matplotlib: pip install 'sama-video[judge]'") from error
    kinds = [kind for kind in ("image", "video") if any(one.kind == kind for one in scored)]
    rows, columns = max(1, len(kinds)), max((len(config.thresholds(kind)) for kind in kinds), default=1)
    figure = Figure(figsize=(columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    if not kinds:
        axes[0, 0].text(0.5, 0.5, "no pair was judged", ha="center")
    for kind, row in zip(kinds, axes, strict=False):
        for (dimension, threshold), panel in zip(config.thresholds(kind).items(), row, strict=False):
            averages = [one.averages[dimension] for one in scored if one.kind == kind]
            values = [value for value in averages if value is not None]
            _draw_panel(panel, f"{kind}s: {dimension.replace('_', ' ')}", values, threshold)
    # The library's version is no part of the result.
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw_panel(axes: "Axes", title: str, values: list[float], threshold: float) -> None:
    passing = [value for value in values if value >= threshold]
    failing = [value for value in values if value < threshold]
    axes.set_axis_on()
    axes.set_title(f"{title}\n{len(passing)} of {len(values)} pairs at {threshold:g} or above", fontsize="medium")
    axes.hist([failing, passing], bins=_EDGES.tolist(), stacked=True, color=[_REJECTED, _KEPT])
    axes.axvline(threshold, color=_THRESHOLD)
    axes.set(xlabel="average over turns", xticks=range(1, 11), xlim=(_EDGES[0], _EDGES[-1]))
    axes.set_ylim(0, max(1, axes.get_ylim()[1]))
    axes.locator_params(axis="y", integer=True)

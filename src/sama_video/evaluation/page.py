"""The report as one page: sortable tables, and edits beside their sources. Style and script are in `page/`.

Nothing is loaded from anywhere but the page's own folder.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from .shown import PARTS, Sample
from .tables import Row, Table, counts_text

FOLDER = Path(__file__).parent / "page"


def page(
    title: str, about: Sequence[str], tables: Sequence[Table], samples: Sequence[Sample], media: Mapping[Path, str]
) -> str:
    """The whole document.

    Args:
        media: file of a sample -> its name in the folder `media` beside the page.
    """
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in about),
        *map(_table, tables),
        *_gallery(samples, media),
    ]
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>\n{style}</style></head>',
            "<body><main>",
            *body,
            f"</main><script>\n{script}</script></body></html>\n",
        ]
    )


# Tables


def _table(table: Table) -> str:
    label = escape(table.title)
    return "\n".join(
        [
            f'<section><div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>',
            f"<caption>{label}</caption>",
            f"<thead><tr>{''.join(map(_head, table.heads))}</tr></thead><tbody>",
            *(_row(table, row) for row in table.rows),
            "</tbody></table></div>",
            *(f'<p class="note">{escape(note)}</p>' for note in table.footnotes),
            "</section>",
        ]
    )


def _head(name: str) -> str:
    return f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>'


def _row(table: Table, row: Row) -> str:
    cells = [_cell(table, row, index) for index in range(len(table.columns))]
    if table.has_counts:
        sort = row.counts.ok if row.counts else ""
        cells.append(f'<td data-sort="{sort}">{counts_text(row.counts)}</td>')
    kind = "closed" if row.closed else "run" if row.origin == "run" else "printed"
    remark = f' <small class="remark">{escape(row.remark)}</small>' if row.remark else ""
    closed = ' <small class="remark">closed</small>' if row.closed else ""
    name = f'<th scope="row" data-sort="{escape(row.name)}">{escape(row.name)}{remark}{closed}</th>'
    return f'<tr class="{kind}">{name}{"".join(cells)}</tr>'


def _cell(table: Table, row: Row, index: int) -> str:
    cell = row.cells[index]
    if cell is None or math.isnan(cell.value):
        return '<td data-sort="">–</td>'
    number = table.number(cell.value)
    number = f"<strong>{number}</strong>" if table.is_best(row, index) else number
    interval = table.interval_of(cell)
    return f'<td data-sort="{cell.value!r}">{number}{f"<small>{interval}</small>" if interval else ""}</td>'


# Videos


def _gallery(samples: Sequence[Sample], media: Mapping[Path, str]) -> list[str]:
    parts = []
    for run, of_run in groupby(samples, key=lambda sample: sample.run):
        parts.append(f"<section><h2>Edits of {escape(run)}</h2>")
        for why, group in groupby(of_run, key=lambda sample: sample.why):
            parts.append(f"<h3>{why.capitalize()}</h3>")
            parts += [_sample(sample, media) for sample in group]
        parts.append("</section>")
    return parts


def _sample(sample: Sample, media: Mapping[Path, str]) -> str:
    views = [_view(sample, part, media) for part in PARTS if part in sample.files or part == "edit"]
    has_video = any(media[file].endswith(".mp4") for file in sample.files.values())
    play = '<button type="button" class="play">Play together</button>' if has_video else ""
    return "\n".join(
        [
            f'<article><p><q>{escape(sample.item.instruction)}</q></p><div class="views">',
            *views,
            f'</div><p class="note">{escape(sample.item.id)} · {escape(sample.score)} {play}</p></article>',
        ]
    )


def _view(sample: Sample, part: str, media: Mapping[Path, str]) -> str:
    caption = f"<figcaption>{part}</figcaption>"
    if part not in sample.files:
        return f'<figure><p class="absent">no video: {escape(sample.remark)}</p>{caption}</figure>'
    name = f"media/{media[sample.files[part]]}"
    label = escape(f"{part} of {sample.item.id}")
    if name.endswith(".mp4"):
        shown = f'<video src="{name}" aria-label="{label}" controls muted loop playsinline preload="metadata"></video>'
    else:
        shown = f'<img src="{name}" alt="{label}">'
    return f"<figure>{shown}{caption}</figure>"

"""The datasets that the paper trains on (Table 1, section 4.1), each with its columns, subset, size and licence.

Nothing is downloaded: `read_dataset` reads the manifest of a copy that the user has, in the dataset's own columns, and
keeps the subset that the paper takes. What a card says of columns is no more certain than its `fields_note`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from ..system.errors import UserError
from .manifest import CAPTIONED, EDIT_PAIR, LAYOUTS, MAP_OPTION, Layout, Manifest, folder_of, read_manifest, resolve


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Which part of a dataset the paper takes.

    Args:
        name: in the paper's words.
        column: of the manifest in this project's names, whose value `pattern` must occur in; None to look at the name
            of the manifest's file, for datasets with one file a category.
        pattern: a regular expression, letter case aside.
    """

    name: str
    pattern: str
    column: str | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """One named dataset.

    Args:
        name: as the paper writes it.
        hub: where it is, after https://huggingface.co/datasets/ unless it is a whole URL.
        kind: of its pairs.
        stages: of training that use it (paper Table 1); empty for one that the paper does not train on.
        num_pairs: after the paper's filter (Table 1).
        licence: as its authors state it.
        subset: None where the paper takes all.
        layout: None where the manifest's own names for columns are among `manifest.LAYOUTS`.
        media_folder: folder of relative media, seen from the manifest.
        fields_verified: whether columns were read from the dataset's card or from code that reads it.
        fields_note: from what exactly, and what a user must do before.
    """

    name: str
    hub: str
    kind: Literal["image editing", "text-to-video", "video editing"]
    stages: tuple[int, ...]
    num_pairs: int | None = None
    licence: str
    subset: Subset | None = None
    layout: Layout | None = None
    media_folder: str = "."
    fields_verified: bool
    fields_note: str

    @property
    def required(self) -> tuple[str, ...]:
        return CAPTIONED if self.kind == "text-to-video" else EDIT_PAIR

    @property
    def url(self) -> str:
        return self.hub if self.hub.startswith("https://") else f"https://huggingface.co/datasets/{self.hub}"


def _read_card(values: dict[str, Any]) -> DatasetCard:
    columns, subset, stages = (values.pop(name, None) for name in ("columns", "subset", "stages"))
    return DatasetCard(
        **values,
        stages=tuple(stages or ()),
        subset=None if subset is None else Subset(**subset),
        layout=None if columns is None else Layout(name=values["name"], columns=columns),
    )


CATALOGUE = tuple(map(_read_card, yaml.safe_load((Path(__file__).parent / "catalogue.yaml").read_text("utf-8"))))


def find_dataset(name: str) -> DatasetCard:
    """The card called `name`, letter case, accents and punctuation aside.

    Raises:
        UserError: for an unknown name; lists the known ones.
    """
    wanted = _plain(name)
    for card in CATALOGUE:
        if _plain(card.name) == wanted:
            return card
    raise UserError(f"unknown dataset {name!r}; use one of {', '.join(card.name for card in CATALOGUE)}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("ñ", "n"))


def read_dataset(
    name: str,
    path: str | Path,
    *,
    column_map: Mapping[str, str] | None = None,
    root: str | Path | None = None,
    whole: bool = False,
    map_option: str | None = MAP_OPTION,
) -> Manifest:
    """A named dataset's manifest: its own columns, and the rows of the subset that the paper takes.

    A manifest already in one of the common layouts (this project's, say) is read as well.

    Args:
        name: see `find_dataset`.
        path: the user's copy of the manifest, local or an fsspec URL.
        column_map, map_option, root: as in `read_manifest`; `root` is by default where the dataset has its media.
        whole: keep every subset.

    Raises:
        UserError: as `read_manifest`; and for an unknown name, or where nothing is left of the subset.
    """
    card = find_dataset(name)
    own = (card.layout,) if card.layout is not None else ()
    manifest = read_manifest(
        path,
        column_map=column_map,
        root=root if root is not None else resolve(card.media_folder, folder_of(str(path))),
        required=card.required,
        layouts=(*own, *LAYOUTS),
        map_option=map_option,
    )
    if whole or card.subset is None:
        return manifest
    kept = _within(card.subset, manifest, str(path))
    if not len(kept):
        raise UserError(
            f"{path} has no rows of what the paper takes of {card.name} ({card.subset.name}); read it without the "
            "dataset's name to have them all"
        )
    return kept


def _within(subset: Subset, manifest: Manifest, path: str) -> Manifest:
    if subset.column is None:
        named = re.search(subset.pattern, path.rsplit("/", 1)[-1], re.IGNORECASE)
        return manifest if named else manifest[:0]
    keep = pc.match_substring_regex(manifest.table[subset.column], subset.pattern, ignore_case=True)
    assert isinstance(keep, pa.ChunkedArray)
    return manifest.where(keep)


def catalogue_table() -> str:
    """The catalogue as a table in Markdown."""
    head = ("Dataset", "Kind", "Stages", "Pairs in the paper", "Subset", "Licence", "Columns verified")
    lines = [_line(head), _line(["---"] * len(head))]
    for card in CATALOGUE:
        lines.append(
            _line(
                (
                    f"[{card.name}]({card.url})",
                    card.kind,
                    ", ".join(map(str, card.stages)) or "not in the paper",
                    f"{card.num_pairs:,}" if card.num_pairs is not None else "",
                    card.subset.name if card.subset else "all",
                    card.licence,
                    "yes" if card.fields_verified else "no",
                )
            )
        )
    return "\n".join(lines) + "\n"


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"

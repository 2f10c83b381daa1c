"""The datasets that the paper trains on (Table 1, section 4.1), each with its columns, subset, size and licence.

Nothing is downloaded: `read_dataset` reads the manifest of a copy that the user has, in the dataset's own columns, and
keeps the subset that the paper takes. What a card says of columns is no more certain than its `fields_note`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from ..system.errors import UserError
from .manifest import EDIT_PAIR, LAYOUTS, MAP_OPTION, Layout, Manifest, folder_of, read_manifest, resolve

CAPTIONED_CLIP = ("tgt_video", "prompt")


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
    column: str | None
    pattern: str


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
        media_folder: where relative media lie, seen from the manifest.
        fields_verified: whether columns were read from the dataset's card or from code that reads it.
        fields_note: from what exactly, and what a user must do before.
    """

    name: str
    hub: str
    kind: Literal["image editing", "text-to-video", "video editing"]
    stages: tuple[int, ...]
    num_pairs: int | None
    licence: str
    subset: Subset | None = None
    layout: Layout | None = None
    media_folder: str = "."
    fields_verified: bool
    fields_note: str

    @property
    def required(self) -> tuple[str, ...]:
        return CAPTIONED_CLIP if self.kind == "text-to-video" else EDIT_PAIR

    @property
    def url(self) -> str:
        return self.hub if self.hub.startswith("https://") else f"https://huggingface.co/datasets/{self.hub}"


CATALOGUE = (
    DatasetCard(
        name="NHR-Edit",
        hub="iitolstykh/NHR-Edit",
        kind="image editing",
        stages=(0, 1),
        num_pairs=720_087,
        licence="Apache-2.0",
        layout=Layout(
            name="NHR-Edit",
            columns={
                "id": ("sample_id",),
                "src_video": ("source_file_name",),
                "tgt_video": ("edited_file_name",),
                "prompt": ("edit_instruction",),
                "type": ("category",),
            },
        ),
        fields_verified=True,
        fields_note=(
            "train/metadata.jsonl and the licence from the card; columns from public training code that reads that "
            "file. If its paths start at the dataset's folder rather than at train, give that folder as root."
        ),
    ),
    DatasetCard(
        name="GPT-Image-Edit",
        hub="UCSC-VLAA/GPT-Image-Edit-1.5M",
        kind="image editing",
        stages=(0,),
        num_pairs=1_015_170,
        licence="not verified",
        fields_verified=False,
        fields_note=(
            "Its authors' code reads conversations (`image`: the source, then the target; `conversations`), not one "
            "pair a row: write a manifest of src_video, tgt_video and prompt first."
        ),
    ),
    DatasetCard(
        name="X2Edit",
        hub="OPPOer/X2Edit-Dataset",
        kind="image editing",
        stages=(0,),
        num_pairs=768_470,
        licence="not verified (its code is Apache-2.0)",
        fields_verified=False,
        fields_note=(
            "WebDataset tar files, a pair in N.1.0.jpg, N.2.jpg and N.json with instruction and task (from public code "
            "that unpacks them): unpack them and write a manifest of src_video, tgt_video and prompt first."
        ),
    ),
    DatasetCard(
        name="Pico-Banana-400K",
        hub="https://github.com/apple/pico-banana-400k",
        kind="image editing",
        stages=(1,),
        num_pairs=257_730,
        licence="CC-BY-NC-ND-4.0",
        layout=Layout(
            name="Pico-Banana-400K",
            columns={
                "src_video": ("local_input_image", "open_image_input_url"),
                "tgt_video": ("output_image",),
                "prompt": ("text",),
                "type": ("edit_type",),
            },
        ),
        fields_verified=True,
        fields_note=(
            "Licence, URL and local_input_image from the authors' repository; output_image, text and edit_type from "
            "several public programs that read sft.jsonl. Download output_image below the manifest's folder first."
        ),
    ),
    DatasetCard(
        name="Koala-36M",
        hub="Koala-36M/Koala-36M-v1",
        kind="text-to-video",
        stages=(0,),
        num_pairs=1_532_716,
        licence="not verified",
        fields_verified=True,
        fields_note=(
            "Columns videoID, url, timestamp, caption and scores from a public import of its CSV. They name pages and "
            "times, not files: cut the clips and add a column `video` with their paths."
        ),
    ),
    DatasetCard(
        name="MotionBench",
        hub="THUDM/MotionBench",
        kind="text-to-video",
        stages=(0,),
        num_pairs=53_879,
        licence="CC-BY-NC-SA-4.0",
        layout=Layout(name="MotionBench", columns={"tgt_video": ("video_path",), "prompt": ("motion_caption",)}),
        media_folder="videos",
        fields_verified=True,
        fields_note=(
            "MotionBenchCaption-train/train.jsonl, its columns and folder from public code that trains on it. Licence "
            "from its authors' repository, which speaks of 5,000 captioned clips; how the paper comes to its number "
            "is not said."
        ),
    ),
    DatasetCard(
        name="Ditto-1M",
        hub="QingyanBai/Ditto-1M",
        kind="video editing",
        stages=(1,),
        num_pairs=3_936,
        licence="CC-BY-NC-SA-4.0",
        subset=Subset(name="style", column="tgt_video", pattern=r"(^|/)global_style[12]/"),
        media_folder="../videos",
        fields_verified=True,
        fields_note=(
            "Columns, folders and licence from its card. The paper keeps 3,936 pairs of the style subset; by which "
            "rule beyond its filter is not said."
        ),
    ),
    DatasetCard(
        name="OpenVE-3M",
        hub="Lewandofski/OpenVE-3M",
        kind="video editing",
        stages=(1,),
        num_pairs=818_232,
        licence="CC-BY-NC-4.0",
        subset=Subset(
            name="local change, background, style, subtitles",
            column=None,
            pattern=r"local_?change|background|style|subtitle",
        ),
        layout=Layout(
            name="OpenVE-3M",
            columns={
                "src_video": ("original_video",),
                "tgt_video": ("video", "edited_video"),
                "prompt": ("prompt",),
                "type": ("edited_type",),
            },
        ),
        media_folder="../videos",
        fields_verified=True,
        fields_note=(
            "original_video, video, prompt, one CSV a category and the folder of videos from public training code on "
            "OpenVE-HQ-1M, a selection of it; the licence from secondary sources; the name of the subtitles' file is "
            "assumed."
        ),
    ),
    DatasetCard(
        name="ReCo-Data",
        hub="HiDream-ai/ReCo-Data",
        kind="video editing",
        stages=(1,),
        num_pairs=206_596,
        licence="CC-BY-NC-SA-4.0",
        layout=Layout(
            name="ReCo-Data",
            columns={
                "src_video": ("src_video",),
                "tgt_video": ("tar_video",),
                "prompt": ("instruction_final_refine",),
            },
        ),
        media_folder="..",
        fields_verified=True,
        fields_note=(
            "Folders from its authors' repository, licence from its card; columns of TASK/TASK_data_configs.json from "
            "several public programs that read it."
        ),
    ),
    DatasetCard(
        name="Señorita-2M",
        hub="SENORITADATASET/Senorita",
        kind="video editing",
        stages=(),
        num_pairs=None,
        licence="not verified",
        fields_verified=False,
        fields_note=(
            "Not in the paper's Table 1. Its files are behind a form: columns not verified; write a manifest of "
            "src_video, tgt_video and prompt first."
        ),
    ),
)


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

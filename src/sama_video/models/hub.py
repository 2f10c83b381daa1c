"""Models on the hub: `owner/name`, or `owner/name@revision` for a branch, a tag or a commit. Imports no torch."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..system.errors import UserError
from .weight_files import DIFFUSERS_STEM, TRANSFORMERS_STEM, first_line

# fnmatch's `*` also stands for slashes.
_PIPELINE_FILES = (
    "*.json", "tokenizer/*.model", "tokenizer/*.txt",
    *(f"*/{stem}{end}" for stem in (DIFFUSERS_STEM, TRANSFORMERS_STEM) for end in (".safetensors", "-*.safetensors")),
)  # fmt: skip
_HUB_ID = re.compile(r"(?P<repository>[\w][\w.-]*/[\w.-]+)(@(?P<revision>[^@\s]+))?")


def is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None


def split_hub_id(name: str) -> tuple[str, str | None]:
    """`owner/name@revision` -> repository and revision; None for its main branch.

    Raises:
        UserError: for a name that is no hub id.
    """
    found = _HUB_ID.fullmatch(name)
    if found is None:
        raise UserError(f"{name!r} is no hub id: give owner/name, or owner/name@revision")
    return found["repository"], found["revision"]


def fetch_file(name: str, file: str) -> Path:
    """A file of a hub id's, in the hub's cache: its folder there is called after the commit.

    Raises:
        UserError: if it could not be fetched.
    """
    from huggingface_hub import hf_hub_download

    repository, revision = split_hub_id(name)
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # of the hub, the network, the disk
        raise UserError(
            f"there is no folder {name}, and as a hub id it could not be fetched ({first_line(error)})"
        ) from error


def fetch_model(name: str, **options: Any) -> Path:
    """A pipeline's folder in the hub's cache: no code, no variants, PyTorch's own format only where there is no other.

    Args:
        options: see `fetch_folder`.

    Raises:
        UserError: if it could not be fetched.
    """
    folder = fetch_folder(name, _PIPELINE_FILES, **options)
    parts = (file.parent for file in folder.glob("*/config.json"))
    if others := [f"{part.name}/*.bin" for part in parts if not any(part.glob("*.safetensors"))]:
        fetch_folder(name, others, **options)
    return folder


def fetch_folder(name: str, patterns: Iterable[str], **options: Any) -> Path:
    """The files of a hub id that match, in the hub's cache.

    Args:
        options: of `huggingface_hub.snapshot_download`; their `revision` counts before the name's.

    Raises:
        UserError: if they could not be fetched.
    """
    from huggingface_hub import snapshot_download

    repository, revision = split_hub_id(name)
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), **{"revision": revision, **options}))
    except Exception as error:  # of the hub, the network, the disk
        raise UserError(f"cannot fetch {name} from the hub ({first_line(error)}); try again") from error

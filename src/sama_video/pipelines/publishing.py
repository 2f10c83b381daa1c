"""A pipeline's folder -> the hub: its files, the code that travels with them, and a card. Imports no torch itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.hub import split_hub_id
from ..models.presets import ASSETS
from ..models.shapes import fit_size
from ..models.weight_files import first_line
from ..system.errors import UserError
from .configuration import PORTABLE_PIPELINE
from .portable_code import index_text, with_code
from .scope import describe_scope
from .selection import INDEX, Model, read_preset

CARD = "README.md"
_TEMPLATE = ASSETS / "model_card.md"
# What the hub needs to find, show and load it; a card of its own may say more, and other than this.
_CARD_DATA: dict[str, Any] = {
    "library_name": "diffusers",
    "pipeline_tag": "video-to-video",
    "tags": ["sama", "video-editing"],
}


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What goes to the hub, before it goes.

    Args:
        repository, revision: where to; a revision that is not there is made from the main branch.
        files: place in the repository -> a file's path, or its content.
    """

    repository: str
    revision: str | None
    files: dict[str, Path | bytes]

    @property
    def num_bytes(self) -> int:
        return sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in self.files.values())


def prepare(model: Model, destination: str, *, license: str | None = None) -> Publication:
    """Check a model's folder, and put together what goes to the hub.

    Every tensor's name and shape is checked, from the headers of its files.

    Args:
        destination: `owner/name`, or `owner/name@revision`.
        license: an identifier of the hub's, such as apache-2.0; None leaves what the folder's card says.

    Raises:
        UserError: for a destination that is no hub id, a model that is on the hub already, and a folder that does not
            load.
    """
    from .loading import load_pipeline

    repository, revision = split_hub_id(destination)
    folder = model.folder
    if folder is None:
        raise UserError(f"{model.name} is on the hub; give a folder or a preset that ships")
    load_pipeline(model.name, device="cpu", offload="disk")
    index, code = with_code(model.read(INDEX))
    changed = {INDEX: index_text(index), CARD: _card(model, repository, license), **code}
    files: dict[str, Path | bytes] = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)
    }
    files |= {name: text.encode() for name, text in changed.items()}
    return Publication(repository=repository, revision=revision, files=files)


def _card(model: Model, repository: str, license: str | None) -> str:
    """The folder's own card with what the hub needs, or one that says what is known of the model."""
    from huggingface_hub import ModelCard, ModelCardData

    assert model.folder is not None
    own = model.folder / CARD
    if not own.is_file():
        data = ModelCardData(license=license, **_CARD_DATA)
        return str(ModelCard.from_template(data, template_path=str(_TEMPLATE), **_facts(model, repository)))
    card = ModelCard(own.read_text(encoding="utf-8"))
    said = {name: value for name, value in card.data.to_dict().items() if value}
    for name, value in {**_CARD_DATA, **said}.items():
        setattr(card.data, name, value)
    card.data.license = license or card.data.license
    return str(card)


def _facts(model: Model, repository: str) -> dict[str, Any]:
    preset, info = read_preset(model), model.info()
    height, width = fit_size(9, 16, info.native_area, info.pixel_multiple)
    return {
        "title": repository.partition("/")[2],
        "repository": repository,
        "module": PORTABLE_PIPELINE,
        "parameters": f"{preset.num_parameters / 1e6:,.1f} M parameters",
        "frames": info.native_num_frames,
        "area": f"{width} x {height}",
        "height": height,
        "width": width,
        "steps": info.default_num_inference_steps,
        "guidance": f"{info.default_guidance_scale:g}",
        "scope": "\n".join(describe_scope(info.trained_for or {})),
    }


def publish(publication: Publication, *, private: bool = False, message: str = "Upload a SAMA pipeline") -> str:
    """Make the repository and the revision if need be, and commit all files at once.

    Args:
        private: of a repository that is made.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        UserError: if the hub refuses or cannot be reached; files that were uploaded are then no commit.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api, where = HfApi(), publication.repository
    operations: list[CommitOperationAdd] = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in publication.files.items()
    ]
    _asked(where, lambda: api.create_repo(where, private=private, exist_ok=True))
    if publication.revision is not None:
        branch = publication.revision
        _asked(where, lambda: api.create_branch(where, branch=branch, exist_ok=True))
    committed = _asked(
        where,
        lambda: api.create_commit(where, operations, commit_message=message, revision=publication.revision),
    )
    return committed.commit_url


def _asked(where: str, ask: Callable[[], Any]) -> Any:
    """What the hub answers, with its refusals as sentences."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        return ask()
    except LocalTokenNotFoundError as error:
        raise UserError("nobody is logged in to the hub; run 'hf auth login', or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"the hub does not let you write to {where} ({status}); run 'hf auth login' with a token that may "
                f"write, or set HF_TOKEN"
            ) from error
        raise UserError(f"the hub refused {where} ({first_line(error)})") from error
    except Exception as error:  # of the network
        raise UserError(f"cannot reach the hub for {where} ({first_line(error)}); try again") from error

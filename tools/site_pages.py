"""Hooks of mkdocs: the documents that are beside `docs/` are pages of the site, too, and so is what the command takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from sama_video.cli.app import app
from sama_video.cli.train import RECIPE

ROOT = Path(__file__).parent.parent
PAGES = {
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "integrations/comfyui/README.md": "comfyui.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](../../docs/", "](").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    commands = "\n".join(["# The command", "", *_commands(get_command(app), "sama")])
    files.append(File.generated(config, "reference/commands.md", content=commands))
    return files


def _commands(command: Any, name: str) -> Iterator[str]:
    """A section for each command, with what it takes."""
    if hasattr(command, "commands"):
        for below, one in command.commands.items():
            yield from _commands(one, name if below == RECIPE else f"{name} {below}")
        return
    taken = [one for one in command.params if not one.hidden and one.name != "help"]
    arguments = [one for one in taken if one.param_type_name == "argument"]
    usage = " ".join([name, *(f"[{one.name.upper()}]" for one in arguments), "[OPTIONS]"])
    yield from (f"## {name}", "", f"    {usage}", "", _plain(command.help.partition("\f")[0]), "")
    yield from ("| takes | default | |", "|---|---|---|")
    for one in taken:
        names = one.name.upper() if one in arguments else ", ".join([*one.opts, *one.secondary_opts])
        default = "" if one.default in (None, False, "") else f"`{one.default}`"
        yield f"| `{names}` | {default} | {_plain(one.help or '')} |"
    yield ""


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def on_page_markdown(markdown: str, **_: object) -> str:
    for name, page in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown

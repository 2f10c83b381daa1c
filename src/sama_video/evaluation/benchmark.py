"""A benchmark as data: its tasks, what a judge is asked, how scores become a table. `benchmarks/*.yaml` hold one each.

A change of anything that scores depend on is a new `version`; tables never mix versions.
"""

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter

from ..judge.clips import MediaConfig
from ..system.errors import UserError
from ..system.strict import Strict

_FOLDER = Path(__file__).parent / "benchmarks"


@dataclass(frozen=True, kw_only=True)
class Block(Strict):
    """Dimensions that an item's score is the mean of.

    Args:
        key, short: name in the judge's answer and in tables ("edit_accuracy", "S_EA").
        dimensions: key in the answer -> name in tables ("semantic_accuracy": "SA").
        mean: of the dimensions, for each item.
        decimals: that an item's mean is rounded to; None for all.
    """

    key: str
    short: str
    dimensions: dict[str, str]
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    decimals: int | None = None


@dataclass(frozen=True, kw_only=True)
class Task(Strict):
    """One kind of edit of a benchmark: a row or a group of columns in its table.

    Args:
        prompt: what the judge is asked, with `{shown}` for how the clips are shown, and `{instruction}`; empty where
            nothing is asked.
    """

    key: str
    title: str
    blocks: tuple[Block, ...] = ()
    prompt: str = ""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Their keys, over all blocks."""
        return tuple(key for block in self.blocks for key in block.dimensions)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of its table: dimensions, blocks, and S over several blocks; the last is the headline."""
        dimensions = [short for block in self.blocks for short in block.dimensions.values()]
        overall = ["S"] if len(self.blocks) > 1 else []
        return (*dimensions, *(block.short for block in self.blocks), *overall)


@dataclass(frozen=True, kw_only=True)
class Protocol(Strict):
    """The judge that published numbers come from, and how it was asked; each value is an option of `sama eval judge`.

    Args:
        model: the published judge.
        repeats: equal questions an item, whose scores are averaged.
        temperature: None for the endpoint's own.
    """

    model: str
    repeats: int = 1
    temperature: float | None = None
    max_tokens: int = 8192
    media: MediaConfig = dataclasses.field(default_factory=MediaConfig)


@dataclass(frozen=True, kw_only=True)
class AuthorsPrompts(Strict):
    """Where prompts of others stand in a user's copy: as texts in a Python file, which is read and never run; and how
    their script sends them.

    Args:
        name: stands behind the judge's in tables: other prompts make another judge.
        files: places to look, relative to the copy's folder.
        constants: task -> name of its text.
        form: of the answers; "blocks" is `judge.parsing.parse_blocks`, "lines" `parse_lines`.
        placeholder: what the instruction replaces.
        ending: added to the text.
        strip: blanks around the whole are left out.
        system: a system message that goes before; empty for none.
        in_system: the prompt itself is the system message, and the user's shows the videos alone.
        labelled: whether a line before each video says which it is.
        dimensions: line's label -> dimension; empty where the lines have the order of the task's dimensions.
        comparable: whether these are the prompts that published numbers come from.
    """

    name: str
    files: list[str]
    constants: dict[str, str]
    form: Literal["blocks", "lines"]
    placeholder: str = "{instruction}"
    ending: str = ""
    strip: bool = False
    system: str = ""
    in_system: bool = False
    labelled: bool = True
    dimensions: dict[str, str] = dataclasses.field(default_factory=dict)
    comparable: bool = True


@dataclass(frozen=True, kw_only=True)
class Benchmark(Strict):
    """What a file in `benchmarks/` says.

    Args:
        layout: function of `layouts.py` that reads the user's copy.
        scale: lowest and highest score.
        failed: what an item without a video, or without an answer, counts in every dimension.
        overall: "items" prints a mean over all items; "none" prints tasks alone.
        protocol: None where scores are exact and no judge is asked.
        authors: prompts in the user's copy, the authors' first; empty if there are none.
        compat: what stands under a table that counts as the authors' script does; empty where that is not known.
        published: names of the paper's tables in `published/`, the one of all systems first.
        comparable: whether scores by this file's own prompts may stand beside published ones without a remark.
        engine: `count` and settings of `data.engine_set.EngineSetConfig` where the synthetic engine makes the items;
            `vocabulary` as `synth.sprites.find_vocabulary` reads it.
    """

    name: str
    version: str
    title: str
    about: str
    layout: str
    tasks: tuple[Task, ...]
    scale: tuple[float, float] = (1, 10)
    failed: float = 0
    overall: Literal["items", "none"] = "none"
    protocol: Protocol | None = None
    authors: tuple[AuthorsPrompts, ...] = ()
    compat: str = ""
    published: tuple[str, ...] = ()
    comparable: bool = True
    engine: dict[str, Any] = dataclasses.field(default_factory=dict)

    def task(self, key: str) -> Task:
        """Raises UserError for one that the benchmark does not have."""
        for task in self.tasks:
            if task.key == key:
                return task
        raise UserError(f"{self.title} has no task {key!r}; it has {', '.join(task.key for task in self.tasks)}")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One edit to be made and scored.

    Args:
        id: unique in the benchmark, such as "add/0007".
        task: key of its task.
        instruction: what the editor is told.
        source: video or picture to edit.
        file_name: what the benchmark's authors call the edited video; editors' folders are read and written by it.
        target, mask: the exact answer and where it differs from the source, if they are known.
        reference: picture that the instruction speaks of.
        results: other places, below a folder of results, where the benchmark's authors keep this edit: files, or
            folders of frames. Not part of a run's records.
    """

    id: str
    task: str
    instruction: str
    source: Path
    file_name: str
    target: Path | None = None
    mask: Path | None = None
    reference: Path | None = None
    results: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def cluster(self) -> str:
        """Edits of one source are not independent: intervals draw sources, not items."""
        return self.source.name


@cache
def find_benchmark(name: str) -> Benchmark:
    """By name, with `-` or `_`.

    Raises:
        UserError: for an unknown one, listing those that there are.
    """
    path = _FOLDER / f"{name.replace('-', '_')}.yaml"
    if not path.is_file():
        raise UserError(f"unknown benchmark {name!r}; there is {', '.join(benchmark_names())}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    shared = {key: values.pop(key, None) for key in ("blocks", "prompt")}
    values["tasks"] = [_task(key, {**shared, **task}) for key, task in values["tasks"].items()]
    return TypeAdapter(Benchmark).validate_python({"name": path.stem, **values})


def _task(key: str, values: dict[str, Any]) -> dict[str, Any]:
    """`blocks` and `prompt` of the file's top count for every task that has none of its own; a task's `rubric` stands
    in the prompt's place of that name."""
    prompt = (values["prompt"] or "").replace("{rubric}", values.get("rubric", "").strip())
    blocks = [{"key": key, **block} for key, block in (values["blocks"] or {}).items()]
    return {"key": key, "title": values["title"], "prompt": prompt, "blocks": blocks}


def benchmark_names() -> list[str]:
    """Of all benchmarks that ship."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))

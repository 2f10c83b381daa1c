"""The benchmark's authors' own prompts, from the user's copy: which file holds them, and how their script asks."""

import ast
import re
from pathlib import Path

from ..system.errors import UserError
from .benchmark import AuthorsPrompts, Benchmark, Task


def authors_prompts(benchmark: Benchmark, folder: Path) -> tuple[AuthorsPrompts, dict[str, str]]:
    """How they are sent, and the prompt of each task with `{instruction}`.

    Raises:
        UserError: if the copy does not hold them.
    """
    if not benchmark.authors:
        raise UserError(f"the authors of {benchmark.title} have published no prompts; use `prompts` own")
    missing = ""
    for prompts in benchmark.authors:
        for path in (folder / name for name in prompts.files):
            if not path.is_file():
                continue
            texts = _texts_of(path)
            lacking = sorted(set(prompts.constants.values()) - texts.keys())
            if not lacking:
                return prompts, _filled(benchmark, prompts, texts, path)
            missing = missing or f"{path} names no text {lacking[0]}; its authors changed it: use `prompts` own"
    names = " or ".join(prompts.files[0] for prompts in benchmark.authors)
    raise UserError(missing or f"{folder} has no {names}; put the authors' file there or use `prompts` own")


def _filled(benchmark: Benchmark, prompts: AuthorsPrompts, texts: dict[str, str], path: Path) -> dict[str, str]:
    filled = {
        task: texts[name].replace(prompts.placeholder, "{instruction}") + prompts.ending
        for task, name in prompts.constants.items()
    }
    for task, text in filled.items():
        if prompts.form == "lines" and not _asks_for(prompts, benchmark.task(task), answer_labels(text)):
            raise UserError(f"{path} asks for other scores of {task} than {benchmark.title} has; use `prompts` own")
    return filled


def _asks_for(prompts: AuthorsPrompts, task: Task, labels: tuple[str, ...]) -> bool:
    if prompts.dimensions:
        return sorted(prompts.dimensions.get(label, "") for label in labels) == sorted(dimensions_of(task))
    return len(labels) == len(dimensions_of(task))


def _texts_of(path: Path) -> dict[str, str]:
    """Texts that a Python file gives names to at its top level; the file is not run."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8-sig")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is no Python file ({error}); download it again") from error
    return {
        target.id: node.value.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def answer_labels(prompt: str) -> tuple[str, ...]:
    """Of the lines in which a prompt shows how to give scores: "Instruction Compliance: 1-5."."""
    return tuple(re.findall(r"^([^:\n]+): .*?1\D+\d+\.?$", prompt, re.MULTILINE))


def dimensions_of(task: Task) -> tuple[str, ...]:
    """Keys of a task's dimensions, over all blocks."""
    return tuple(name for block in task.blocks for name in block.dimensions)


def judge_name(model: str, prompts: AuthorsPrompts | None) -> str:
    """Of a judge in records and tables; other prompts make another judge."""
    return model if prompts is None else f"{model} ({prompts.name})"


def prompts_of(benchmark: Benchmark, judge: str) -> AuthorsPrompts | None:
    """Whose prompts a judge of this name was asked by; None for this project's own."""
    return next((prompts for prompts in benchmark.authors if judge.endswith(f" ({prompts.name})")), None)

"""What a benchmark's authors did themselves: their prompts, from the user's copy, and their scripts' counting.

The prompts are asked by `--prompts copy`; `--compat` makes of a judge's answers what the scripts do, traps included.

The scripts were read: ReCo-Bench's `eval_step1_run_gemini_api.py` and its second step, OpenVE-Bench's
`gemini_benchmark.py`. They read the text of the first answer and never ask again.

Shape legend: K columns of a task as in `aggregate.py`: dimensions, blocks, and S over several blocks.
"""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..system.errors import UserError
from .benchmark import AuthorsPrompts, Benchmark, Block, Task
from .records import Judgment

# A judgment's reason says so of clips that differ, since ReCo's script cannot put such frames side by side: their
# items leave its table.
UNEQUAL_LENGTHS, UNEQUAL_HEIGHTS = "unequal lengths", "unequal heights"


# Their prompts


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
        return sorted(prompts.dimensions.get(label, "") for label in labels) == sorted(task.dimensions)
    return len(labels) == len(task.dimensions)


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


def judge_name(model: str, prompts: AuthorsPrompts | None) -> str:
    """Of a judge in records and tables; other prompts make another judge."""
    return model if prompts is None else f"{model} ({prompts.name})"


def prompts_of(benchmark: Benchmark, judge: str) -> AuthorsPrompts | None:
    """Whose prompts a judge of this name was asked by; None for this project's own."""
    return next((prompts for prompts in benchmark.authors if judge.endswith(f" ({prompts.name})")), None)


# Their scripts


class AuthorsStopError(ValueError):
    """The authors' script ends with a traceback here."""


def compat_scores(
    benchmark: Benchmark, task: Task, repeats: Sequence[Judgment], texts: Mapping[str, str]
) -> np.ndarray:
    """An item's row `[K]`, the mean over its repeats; NaN where it leaves a column.

    Args:
        repeats: judgments of the item; empty where there are none.
        texts: of the first answers, by their keys.

    Raises:
        UserError: where the authors' script would stop, or a text is not there.
    """
    read = {"reco_bench": _reco_row, "openve_bench": _openve_row}[benchmark.name]
    num_columns = len(task.columns)
    rows = [read(task, one, _text_of(one, texts)) for one in repeats] or [[math.nan] * num_columns]
    table = np.array(rows)
    counts = (~np.isnan(table)).sum(axis=0)
    return np.divide(np.nansum(table, axis=0), counts, out=np.full(num_columns, np.nan), where=counts > 0)


def _text_of(judgment: Judgment, texts: Mapping[str, str]) -> str | None:
    """None where there is no answer, or its text was never kept."""
    if not judgment.answer or judgment.status == "missing":
        return None
    if judgment.answer not in texts:
        raise UserError(
            f"`compat` reads the judge's answers, and that to {judgment.item} is not among the run's; judge the run "
            "again or leave out `compat`"
        )
    return texts[judgment.answer]


# OpenVE-Bench


def openve_score(text: str) -> float | None:
    """The mean of all numbers behind a colon, to two decimals; None where the script leaves the item out."""
    numbers = [float(number) for number in re.findall(r":\s*(\d+\.?\d*)", text)]
    score = round(sum(numbers) / len(numbers), 2) if numbers else math.nan
    return score if 1 <= score <= 5 else None


def _openve_row(task: Task, judgment: Judgment, text: str | None) -> list[float]:
    (block,) = task.blocks
    given = judgment.scores or {}
    dimensions = [given.get(key, math.nan) for key in block.dimensions]
    if text is None:
        return [*dimensions, round(sum(dimensions) / len(dimensions), 2)]
    score = openve_score(text)
    return [*dimensions, math.nan if score is None else score]


# ReCo-Bench


def _reco_row(task: Task, judgment: Judgment, text: str | None) -> list[float]:
    unequal = any(part.startswith((UNEQUAL_LENGTHS, UNEQUAL_HEIGHTS)) for part in judgment.reason.split("; "))
    if judgment.status == "missing" or unequal:
        return [math.nan] * len(task.columns)
    if judgment.status == "error" and not text:
        text = "Error: API call failed"
    elif text is None and judgment.scores is not None:
        text = json.dumps(
            {block.key: {"scores": [judgment.scores[key] for key in block.dimensions]} for block in task.blocks}
        )
    try:
        return reco_scores(text or "", task.blocks)
    except AuthorsStopError as error:
        raise UserError(
            f"the authors' script stops at an answer that it cannot read, such as {judgment.item}'s ({error}); ask for "
            "it again or leave out `compat`"
        ) from error


def reco_scores(text: str, blocks: Sequence[Block]) -> list[float]:
    """Dimensions, blocks, and the blocks' mean; NaN for a dimension that the answer gives no number for.

    Raises:
        AuthorsStopError: for a text without a JSON object, or whose blocks are none.
    """
    try:
        answer = {} if "error" in text.lower() else json.loads(_first_object(text))
        scores = [dict(answer.get(block.key) or {}).get("scores", []) for block in blocks]
        means = [_geometric_mean(values) for values in scores]
        dimensions = [
            _number_at(values, index)
            for block, values in zip(blocks, scores, strict=True)
            for index in range(len(block.dimensions))
        ]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise AuthorsStopError(type(error).__name__) from error
    return [*dimensions, *means, sum(means) / len(means)]


def _first_object(text: str) -> str:
    """From the first brace to the one that closes it; braces in strings do not count.

    Raises:
        ValueError: if there is none.
    """
    start, depth = text.find("{"), 0
    if start >= 0:
        for token in re.finditer(r'"(?:[^"\\]|\\.?)*+"?|[{}]', text[start:], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(token[0], 0)
            if not depth:
                return text[start : start + token.end()]
    raise ValueError("no JSON object")


def _geometric_mean(scores: Any) -> float:
    """0 where anything among the scores is not a number, or below 0, and where there are none."""
    product, count = 1.0, 0
    for score in scores:
        number = _float_or_none(score)
        if number is None or number < 0:
            return 0.0
        product, count = product * number, count + 1
    return product ** (1 / count) if count else 0.0


def _number_at(scores: Any, index: int) -> float:
    if index >= len(scores):
        return math.nan
    number = None if isinstance(scores, dict) else _float_or_none(scores[index])
    return math.nan if number is None else number


def _float_or_none(score: Any) -> float | None:
    """As Python reads it: "8" is a number too, and so is true."""
    try:
        return float(score)
    except (TypeError, ValueError, OverflowError):
        return None

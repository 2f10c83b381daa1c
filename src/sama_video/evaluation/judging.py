"""A run's videos -> a judge's answers -> judgments: what is asked about each item, and what came of it.

Answers are appended to the run's `answers.jsonl` one by one. `judgments-JUDGE.jsonl` follows from items, predictions
and answers alone, so it is the same whatever happened on the way; `judgments-JUDGE.json` says how was asked.
"""

import ast
import collections
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import written_aside
from ..judge.batch import UNREADABLE, PairPlan, Plan, Progress, in_threads, plan_pair, sum_plans
from ..judge.client import SEED_STRIDE, Judge, JudgeConfig, JudgeStoppedError, Question
from ..judge.media import Look, MediaConfig, look, shown_parts
from ..judge.store import AnswerStore, read_answers
from .benchmark import Benchmark, Item, Protocol, Task, find_benchmark
from .records import ANSWERS, MANIFEST, Judgment, Prediction, RunInfo, predictions_of, read_run

# A judgment's reason begins so where the clips' lengths differ: the authors of ReCo-Bench leave such items out.
UNEQUAL_LENGTHS = "unequal lengths"
# What the name of a judge ends with that was asked by the authors' prompts.
AUTHORS_PROMPTS = "(authors' prompts)"
# About what an answer takes, for estimates: a sentence for each score and the form around it.
OUTPUT_TOKENS_PER_SCORE = 50
SHOWN = {
    "frames": "You see frames of two videos, labelled with their times. Video 1 is the original, Video 2 is the edited "
    "video; frames with the same time belong together.",
    "side_by_side": "You see frames in the order of time. In each picture the left half is the original and the right "
    "half is the edited video.",
    "video_url": "You see two videos. Video 1 is the original, Video 2 is the edited video.",
    "video_in_image_url": "You see two videos. Video 1 is the original, Video 2 is the edited video.",
}


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """How a run is judged.

    Args:
        judge: model, sampling, media, endpoint.
        repeats: equal questions an item; their scores are averaged by the report.
        prompts: "own" are those of the benchmark's file, "copy" the authors', read from the user's copy.
    """

    judge: JudgeConfig
    repeats: int = 1
    prompts: str = "own"

    def __post_init__(self):
        if not 1 <= self.repeats < SEED_STRIDE:
            raise UserError(f"repeats must lie in 1 to {SEED_STRIDE - 1}, got {self.repeats}")
        if self.prompts not in ("own", "copy"):
            raise UserError(f"prompts are own or copy, got {self.prompts!r}")

    @property
    def name(self) -> str:
        """Of the judge in records and tables; other prompts make another judge."""
        return self.judge.model if self.prompts == "own" else f"{self.judge.model} {AUTHORS_PROMPTS}"


def protocol_of(run: Path) -> Protocol:
    """How the benchmark of a run was judged in print.

    Raises:
        UserError: for a folder without a run, or a benchmark that is not judged.
    """
    benchmark = _benchmark_of(read_run(run)[0])
    assert benchmark.protocol is not None
    return benchmark.protocol


def media_of(protocol: Protocol, *, kind: str | None, num_frames: int | None, long_side: int | None) -> MediaConfig:
    """The protocol's way of showing clips, or the given `kind` of it; None leaves a value as it is."""
    media = protocol.media if kind in (None, protocol.media.kind) else MediaConfig(kind=str(kind))
    if num_frames is not None:
        media = dataclasses.replace(media, num_frames=num_frames, stride=None)
    return media if long_side is None else dataclasses.replace(media, long_side=long_side)


@dataclass(frozen=True, kw_only=True)
class JudgingReport:
    """What came of judging a run.

    Args:
        path: of the judgments.
        statuses: number of judgments by status, see `records.Judgment`.
    """

    path: Path
    statuses: dict[str, int]

    @property
    def unanswered(self) -> int:
        """Requests that the endpoint gave no answer to; the next start asks them again."""
        return self.statuses.get("error", 0)


def judge_run(run: Path, config: JudgingConfig, progress: Progress = lambda *_: None) -> JudgingReport:
    """Lets a judge score every item of a run. Interrupted, it goes on where it stopped: no answer is bought twice.

    Args:
        run: folder with items and predictions.
        config: judge, repeats, prompts. Another judge's judgments stay beside this one's.
        progress: called as (phase, done, of) with numbers of items.

    Raises:
        UserError: for a run that cannot be judged, or if the endpoint refuses key or model or is down, or another
            process judges the same run. Answers are kept.
    """
    exam = _open_exam(run, config)
    judgments: list[Judgment] = []
    with AnswerStore(run / ANSWERS) as store:
        judge = Judge(config.judge, store)
        results = in_threads(
            lambda item: exam.judgments(item, judge), exam.items, config.judge.concurrency, stop=judge.stop
        )
        for number, result in enumerate(results, 1):
            judgments += result
            progress("judging", number, len(exam.items))
    return _write_judgments(run, exam, judgments)


def plan_judging(run: Path, config: JudgingConfig) -> Plan:
    """What `judge_run` would ask; asks nothing and writes nothing, but reads every file to know its hash."""
    exam = _open_exam(run, config)
    plans = in_threads(exam.plan, exam.items, config.judge.concurrency)
    scores = max(len(_dimensions(task)) for task in exam.benchmark.tasks)
    kinds = ("image", "video", UNREADABLE)
    return sum_plans(plans, read_answers(run / ANSWERS), kinds=kinds, output_tokens=OUTPUT_TOKENS_PER_SCORE * scores)


def judgments_path(run: Path, judge: str) -> Path:
    """Of a judge's name."""
    return run / f"judgments-{re.sub(r'[^A-Za-z0-9.]+', '-', judge).strip('-')}.jsonl"


def _benchmark_of(info: RunInfo) -> Benchmark:
    if info.benchmark == MANIFEST:
        raise UserError("a manifest's pairs have no benchmark's prompt to judge them by; 'sama eval exact' scores them")
    benchmark = find_benchmark(info.benchmark)
    if benchmark.protocol is None:
        raise UserError(f"{benchmark.title} is not judged; 'sama eval exact' scores its runs")
    if benchmark.version != info.version:
        raise UserError(
            f"the run was made with version {info.version} of {benchmark.title}, this is {benchmark.version}; "
            "predict into a new folder"
        )
    return benchmark


def _open_exam(run: Path, config: JudgingConfig) -> "_Exam":
    info, items = read_run(run)
    benchmark = _benchmark_of(info)
    prompts = {task.key: task.prompt for task in benchmark.tasks}
    if config.prompts == "copy":
        prompts = authors_prompts(benchmark, Path(info.data))
    return _Exam(run, benchmark, items, predictions_of(run), prompts, config)


def authors_prompts(benchmark: Benchmark, folder: Path) -> dict[str, str]:
    """The prompt of each task from a user's copy, with `{instruction}`.

    Raises:
        UserError: if the copy does not hold them.
    """
    authors = benchmark.authors
    if authors is None:
        raise UserError(f"the authors of {benchmark.title} have published no prompts; use --prompts own")
    path = next((folder / name for name in authors.files if (folder / name).is_file()), None)
    if path is None:
        raise UserError(
            f"{folder} has no {' or '.join(authors.files)}; put the authors' file there or use --prompts own"
        )
    texts = _texts_of(path)
    missing = sorted({name for name in authors.constants.values() if name not in texts})
    if missing:
        raise UserError(f"{path} names no text {missing[0]}; its authors changed it: use --prompts own")
    prompts = {
        task: texts[name].replace(authors.placeholder, "{instruction}") + authors.ending
        for task, name in authors.constants.items()
    }
    for task, prompt in prompts.items():
        if authors.form == "lines" and len(_answer_labels(prompt)) != len(_dimensions(benchmark.task(task))):
            raise UserError(f"{path} asks for other scores of {task} than {benchmark.title} has; use --prompts own")
    return prompts


def _texts_of(path: Path) -> dict[str, str]:
    """Texts that a Python file gives names to at its top level; the file is not run."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no Python file ({error}); download it again") from error
    return {
        target.id: node.value.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _answer_labels(prompt: str) -> tuple[str, ...]:
    """Of the lines in which a prompt shows how to give scores: "Instruction Compliance: 1-5."."""
    return tuple(re.findall(r"^([^:\n]+): .*?1\D+\d+\.?$", prompt, re.MULTILINE))


def _dimensions(task: Task) -> tuple[str, ...]:
    return tuple(name for block in task.blocks for name in block.dimensions)


@dataclass(frozen=True)
class _Exam:
    """A run as it is put to a judge."""

    run: Path
    benchmark: Benchmark
    items: list[Item]
    predictions: dict[str, Prediction]
    prompts: dict[str, str]
    config: JudgingConfig

    def judgments(self, item: Item, judge: Judge) -> list[Judgment]:
        """One for each repeat.

        Raises:
            JudgeStoppedError: if no further question makes sense.
        """
        try:
            looks = self._looks(item)
            parts = functools.cache(lambda: shown_parts(looks, self.config.judge.media))
            return [self._judgment(item, question, judge, parts) for question in self._questions(item, looks)]
        except JudgeStoppedError:
            raise
        except UserError as error:
            reason = str(error).replace(f"{self.run}/", "")  # the same wherever the run lies
            return [
                Judgment(item=item.id, judge=self.config.name, repeat=repeat, status="missing", reason=reason)
                for repeat in range(self.config.repeats)
            ]

    def _judgment(
        self, item: Item, question: Question, judge: Judge, parts: Callable[[], list[dict[str, Any]]]
    ) -> Judgment:
        answer = judge.answer(question, parts)
        return Judgment(
            item=item.id,
            judge=self.config.name,
            repeat=question.repeat,
            status=answer.status,
            scores=answer.scores,
            reason=answer.reason or _lengths(question.looks),
            answer=answer.key,
        )

    def plan(self, item: Item) -> PairPlan:
        try:
            looks = self._looks(item)
        except UserError:
            return PairPlan(UNREADABLE)
        kind = "image" if looks[0].is_image else "video"
        return plan_pair(kind, self._questions(item, looks), self.config.judge)

    def _looks(self, item: Item) -> tuple[Look, ...]:
        """The original and the edited clip. Raises UserError if there is no pair to look at."""
        prediction = self.predictions.get(item.id)
        if prediction is None:
            raise UserError("there is no prediction")
        if prediction.status != "ok":
            raise UserError(f"the editor failed: {prediction.reason}")
        return tuple(look([item.source, self.run / prediction.file], self.config.judge.media))

    def _questions(self, item: Item, looks: tuple[Look, ...]) -> Iterator[Question]:
        for repeat in range(self.config.repeats):
            yield self._question(item, looks, repeat)

    def _question(self, item: Item, looks: tuple[Look, ...], repeat: int) -> Question:
        benchmark, task = self.benchmark, self.benchmark.task(item.task)
        prompt = self.prompts[task.key].replace("{shown}", SHOWN[self.config.judge.media.kind])
        form = self._form(task)
        return Question(
            task=f"{benchmark.name}/{benchmark.version}/{task.key}",
            prompt=prompt.replace("{instruction}", item.instruction),
            looks=looks,
            score_keys=_dimensions(task),
            text_keys=("explanation",),
            blocks={block.key: tuple(block.dimensions) for block in task.blocks} if form == "blocks" else {},
            labels=_answer_labels(self.prompts[task.key]) if form == "lines" else (),
            low=benchmark.scale[0],
            high=benchmark.scale[1],
            nothing=benchmark.failed,
            repeat=repeat,
        )

    def _form(self, task: Task) -> str:
        """Of the answer that the prompt asks for: one object of scores unless there are several blocks."""
        if self.config.prompts == "copy" and self.benchmark.authors is not None:
            return self.benchmark.authors.form
        return "blocks" if len(task.blocks) > 1 else "object"


def _lengths(looks: tuple[Look, ...]) -> str:
    counts = [one.num_frames for one in looks]
    return "" if len(set(counts)) == 1 else f"{UNEQUAL_LENGTHS}: {counts[0]} and {counts[1]} frames"


def _write_judgments(run: Path, exam: _Exam, judgments: list[Judgment]) -> JudgingReport:
    path = judgments_path(run, exam.config.name)
    ordered = sorted(judgments, key=lambda one: (one.item, one.repeat))
    lines = [json.dumps(asdict(one), ensure_ascii=False, sort_keys=True) + "\n" for one in ordered]
    with written_aside(path) as aside:
        aside.write_text("".join(lines), encoding="utf-8", newline="\n")
    with written_aside(path.with_suffix(".json")) as aside:
        aside.write_text(json.dumps(_settings(exam), indent=1, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
    return JudgingReport(path=path, statuses=dict(sorted(collections.Counter(one.status for one in ordered).items())))


def _settings(exam: _Exam) -> dict[str, Any]:
    """All that the judgments depend on besides the run."""
    config = exam.config
    return {
        "benchmark": exam.benchmark.name,
        "version": exam.benchmark.version,
        "judge": config.name,
        "prompts": config.prompts,
        "repeats": config.repeats,
        **config.judge.decisive,
        "media": asdict(config.judge.media),
    }

"""A run's videos -> a judge's answers -> judgments: what is asked about each item, and what came of it.

Answers are appended to the run's `answers.jsonl` one by one. `judgments-JUDGE.jsonl` follows from items, predictions
and answers alone, so it is the same whatever happened on the way; `judgments-JUDGE.json` says how was asked.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..judge.answers import Answer, AnswerStore, read_answers
from ..judge.client import Judge, JudgeStoppedError
from ..judge.clips import WHOLE_FILES, MediaConfig, View, shown_parts, views_of
from ..judge.parsing import Scale
from ..judge.questions import (
    SEED_STRIDE,
    UNREADABLE,
    JudgeConfig,
    PairQuote,
    Question,
    Quote,
    quote_pair,
    sum_quotes,
)
from ..judge.redact import reason_of
from ..system.data_files import table_beside
from ..system.errors import UserError
from ..system.files import written_aside
from ..system.workers import Progress, in_threads
from .authors import UNEQUAL_HEIGHTS, UNEQUAL_LENGTHS, answer_labels, authors_prompts, judge_name
from .benchmark import AuthorsPrompts, Benchmark, Item, Protocol, find_benchmark
from .names import shortened
from .records import ANSWERS, MANIFEST, Judgment, Prediction, RunInfo, predictions_of, read_run

# About what an answer takes, for estimates: a sentence for each score and the form around it.
_OUTPUT_TOKENS_PER_SCORE = 50
_SHOWN = table_beside(__file__)


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
            raise UserError(f"repeats must be from 1 to {SEED_STRIDE - 1}, got {self.repeats}")
        if self.prompts not in ("own", "copy"):
            raise UserError(f"prompts are own or copy, got {self.prompts!r}")


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
class JudgingResult:
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


def judge_run(run: Path, config: JudgingConfig, progress: Progress = lambda *_: None) -> JudgingResult:
    """Lets a judge score every item of a run. Interrupted, it resumes where it stopped: no answer is bought twice.

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
        judge = Judge(exam.config.judge, store)
        results = in_threads(
            lambda item: exam.judgments(item, judge), exam.items, config.judge.concurrency, stop=judge.stop
        )
        for number, result in enumerate(results, 1):
            judgments += result
            progress("judging", number, len(exam.items))
    return _write_judgments(run, exam, judgments)


def quote_judging(run: Path, config: JudgingConfig) -> Quote:
    """What `judge_run` would ask; asks nothing and writes nothing, but reads every file to know its hash."""
    exam = _open_exam(run, config)
    quotes = in_threads(exam.quote, exam.items, config.judge.concurrency)
    most_scores = max(len(task.dimensions) for task in exam.benchmark.tasks)
    return sum_quotes(quotes, read_answers(run / ANSWERS), _OUTPUT_TOKENS_PER_SCORE * most_scores)


def judgments_path(run: Path, judge: str) -> Path:
    """Of a judge's name; of two names that would share a file, the second gets a hash of its own."""
    stem = shortened(f"judgments-{re.sub(r'[^A-Za-z0-9.]+', '-', judge).strip('-')}")
    settings = run / f"{stem}.json"
    if settings.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("judge", judge) != judge:
        stem = f"{stem}-{hashlib.sha256(judge.encode()).hexdigest()[:8]}"
    return run / f"{stem}.jsonl"


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
    authors, prompts = None, {task.key: task.prompt for task in benchmark.tasks}
    if config.prompts == "copy":
        authors, prompts = authors_prompts(benchmark, Path(info.data))
        if not authors.labelled and config.judge.media.kind in WHOLE_FILES:
            media = dataclasses.replace(config.judge.media, labelled=False)
            config = dataclasses.replace(config, judge=dataclasses.replace(config.judge, media=media))
    return _Exam(run, benchmark, items, predictions_of(run), prompts, authors, config)


@dataclass(frozen=True)
class _Exam:
    """A run as it is put to a judge; `authors` is None where it is asked by this project's own prompts."""

    run: Path
    benchmark: Benchmark
    items: list[Item]
    predictions: dict[str, Prediction]
    prompts: dict[str, str]
    authors: AuthorsPrompts | None
    config: JudgingConfig

    @property
    def judge_name(self) -> str:
        return judge_name(self.config.judge.model, self.authors)

    def judgments(self, item: Item, judge: Judge) -> list[Judgment]:
        """One for each repeat; an item that cannot be shown, for whatever reason, does not stop the others.

        Raises:
            JudgeStoppedError: if no further question makes sense.
        """
        try:
            views = self._views(item)
            parts = functools.cache(lambda: shown_parts(views, self.config.judge.media))
            return [self._judgment(item, one, judge.answer(one, parts)) for one in self._questions(item, views)]
        except JudgeStoppedError:
            raise
        except Exception as error:
            reason = reason_of(error).replace(f"{self.run}/", "")  # the same wherever the run is
            return [
                Judgment(item=item.id, judge=self.judge_name, repeat=repeat, status="missing", reason=reason)
                for repeat in range(self.config.repeats)
            ]

    def _judgment(self, item: Item, question: Question, answer: Answer) -> Judgment:
        return Judgment(
            item=item.id,
            judge=self.judge_name,
            repeat=question.repeat,
            status=answer.status,
            scores=answer.scores,
            reason="; ".join(filter(None, [*_differences(question.views), answer.reason])),
            answer=answer.key,
        )

    def quote(self, item: Item) -> PairQuote:
        try:
            views = self._views(item)
        except Exception:  # as `judgments` takes it
            return PairQuote(UNREADABLE)
        kind = "image" if views[0].is_image else "video"
        return quote_pair(kind, self._questions(item, views), self.config.judge)

    def _views(self, item: Item) -> tuple[View, ...]:
        """Of the source and the prediction. Raises UserError if there is no pair to look at."""
        prediction = self.predictions.get(item.id)
        if prediction is None:
            raise UserError("there is no prediction")
        if prediction.status != "ok":
            raise UserError(f"the editor failed: {prediction.reason}")
        return tuple(views_of([item.source, self.run / prediction.file], self.config.judge.media))

    def _questions(self, item: Item, views: tuple[View, ...]) -> list[Question]:
        question = self._question(item, views)
        return [dataclasses.replace(question, repeat=repeat) for repeat in range(self.config.repeats)]

    def _question(self, item: Item, views: tuple[View, ...]) -> Question:
        benchmark, task = self.benchmark, self.benchmark.task(item.task)
        authors, text = self.authors, self.prompts[task.key]
        if authors is None:
            # One object of scores unless there are several blocks.
            form, labels, system = "blocks" if len(task.blocks) > 1 else "object", (), ""
            prompt = text.replace("{shown}", _SHOWN[self.config.judge.media.kind])
        else:
            form, labels, prompt = authors.form, answer_labels(text) if authors.form == "lines" else (), text
        prompt = prompt.replace("{instruction}", item.instruction)
        if authors is not None:
            prompt = prompt.strip() if authors.strip else prompt
            prompt, system = ("", prompt) if authors.in_system else (prompt, authors.system)
        # The authors' lines may have an order of their own.
        named = authors.dimensions if authors is not None else {}
        return Question(
            task=f"{benchmark.name}/{benchmark.version}/{task.key}",
            prompt=prompt,
            system=system,
            views=views,
            dimensions=tuple(named[label] for label in labels) if named else task.dimensions,
            blocks={block.key: tuple(block.dimensions) for block in task.blocks} if form == "blocks" else {},
            labels=labels,
            scale=Scale(*benchmark.scale, benchmark.failed),
        )


def _differences(views: tuple[View, ...]) -> list[str]:
    """What makes ReCo's authors leave an item out."""
    lengths, heights = ([getattr(view, name) for view in views] for name in ("num_frames", "own_height"))
    return [
        f"{what}: {values[0]} and {values[1]} {unit}"
        for what, values, unit in ((UNEQUAL_LENGTHS, lengths, "frames"), (UNEQUAL_HEIGHTS, heights, "pixels"))
        if len(set(values)) > 1
    ]


def _write_judgments(run: Path, exam: _Exam, judgments: list[Judgment]) -> JudgingResult:
    path = judgments_path(run, exam.judge_name)
    ordered = sorted(judgments, key=lambda one: (one.item, one.repeat))
    lines = [json.dumps(asdict(one), ensure_ascii=False, sort_keys=True) + "\n" for one in ordered]
    with written_aside(path) as aside:
        aside.write_text("".join(lines), encoding="utf-8", errors="backslashreplace", newline="\n")
    with written_aside(path.with_suffix(".json")) as aside:
        aside.write_text(json.dumps(_settings(exam), indent=1, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
    return JudgingResult(path=path, statuses=dict(sorted(collections.Counter(one.status for one in ordered).items())))


def _settings(exam: _Exam) -> dict[str, Any]:
    """All that the judgments depend on besides the run."""
    config = exam.config
    return {
        "benchmark": exam.benchmark.name,
        "version": exam.benchmark.version,
        "judge": exam.judge_name,
        "prompts": config.prompts,
        "repeats": config.repeats,
        **config.judge.decisive,
        "media": config.judge.media.settings,
    }

"""The filter's two flows: `curate` (manifest -> judge -> kept and rejected pairs), `quote` (what that costs)."""

from collections.abc import Sequence
from pathlib import Path

from ..data.manifest import Row
from ..judge.answers import AnswerStore, read_answers
from ..judge.client import Judge
from ..judge.questions import UNREADABLE, PairQuote, Quote, quote_pair, sum_quotes
from ..system.workers import Progress, in_threads
from .results import CurationResult, write_results
from .rules import CurationConfig
from .score import Scored, opened_pair, score_rows

ANSWERS = "answers.jsonl"
# The JSON object that the prompts ask for, with an explanation of two sentences.
_OUTPUT_TOKENS = 100


def curate(
    rows: Sequence[Row], out: Path, config: CurationConfig, progress: Progress = lambda *_: None
) -> CurationResult:
    """Judges every row and selects (Appendix B). Interrupted, it resumes where it stopped: no answer is bought twice.

    Args:
        rows: of a manifest.
        out: folder of the answers and of the results, see `write_results`.
        config: judge, turns, thresholds.
        progress: called as (phase, done, of) with numbers of rows.

    Raises:
        UserError: if the endpoint refuses key or model or is down, or another run writes to `out`. Answers are kept.
    """
    with AnswerStore(out / ANSWERS) as store:
        scored: list[Scored] = []
        for one in score_rows(rows, Judge(config.judge, store), config):
            scored.append(one)
            progress("judging", len(scored), len(rows))
    return write_results(rows, scored, config, out)


def quote(rows: Sequence[Row], out: Path, config: CurationConfig) -> Quote:
    """What `curate` would ask; asks nothing and writes nothing, but reads every file to know its hash."""
    quotes = in_threads(lambda row: _quote_row(row, config), rows, config.judge.concurrency)
    return sum_quotes(quotes, read_answers(out / ANSWERS), _OUTPUT_TOKENS)


def _quote_row(row: Row, config: CurationConfig) -> PairQuote:
    try:
        with opened_pair(row, config) as pair:
            questions = (question for _, question in pair.questions(config.turns))
            return quote_pair(pair.kind, questions, config.judge)
    except Exception:  # as `score_row` takes it
        return PairQuote(UNREADABLE)

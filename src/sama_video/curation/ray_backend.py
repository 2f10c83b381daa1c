"""The same scoring on a cluster: Ray Data hands out rows, every actor asks the judge and appends to a store of its own.

The output folder must be visible to all machines. Actors' stores are in its `shards` folder and are merged into
`answers.jsonl` at the end, and at the next start if a run was killed; the results are the local run's.
"""

import json
import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.manifest import Row
from ..judge.answers import AnswerStore, merge_into, read_answers
from ..judge.client import Judge, JudgeStoppedError
from ..system.errors import UserError
from ..system.ray_session import ray_session
from ..system.workers import Progress
from .curate import ANSWERS
from .results import CurationResult, write_results
from .rules import CurationConfig
from .score import Scored, score_rows

_SHARDS = "shards"


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """How the work is spread.

    Args:
        actors: processes that ask; the judge's concurrency is divided among them.
        rows_per_batch: rows handed to an actor at once; more of them keep its requests in flight.
        init: arguments of `ray.init` beyond the quiet defaults.
    """

    actors: int = 2
    rows_per_batch: int = 64
    init: dict[str, Any] | None = None


class _Scorer:
    """An actor: the judge's client and a store of its own."""

    def __init__(self, out: Path, config: CurationConfig):
        # Shards too: Ray starts an actor that died again, and what it had bought is in its old one.
        known = {key: answer for path in (out / ANSWERS, *_shards(out)) for key, answer in read_answers(path).items()}
        self.config = config
        self.store = AnswerStore(out / _SHARDS / f"{uuid.uuid4().hex}.jsonl", known)
        self.judge = Judge(config.judge, self.store)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Columns `index` and `row` (JSON) -> `index` and `scored` (JSON), or `stopped` with the reason."""
        if not self.judge.stop_reason:
            rows = [Row(**json.loads(text)) for text in batch["row"]]
            with suppress(JudgeStoppedError):
                scored = [json.dumps(asdict(one)) for one in score_rows(rows, self.judge, self.config)]
                return {"index": list(batch["index"]), "scored": scored, "stopped": [""] * len(rows)}
        return {"index": [-1], "scored": [""], "stopped": [self.judge.stop_reason]}


def curate_with_ray(
    rows: Sequence[Row],
    out: Path,
    config: CurationConfig,
    progress: Progress = lambda *_: None,
    spread: RayConfig | None = None,
) -> CurationResult:
    """`curate` under Ray Data: a running cluster if RAY_ADDRESS or `spread.init` names one, else this machine.

    Raises:
        UserError: if ray is missing, or as `curate`.
    """
    spread = spread or RayConfig()
    with ray_session("curation on a cluster", spread.init), AnswerStore(out / ANSWERS) as store:
        merge_into(store, _shards(out))
        scored = _scored(_quiet_ray_data(), rows, out, config, spread, progress)
        merge_into(store, _shards(out))
    return write_results(rows, scored, config, out)


def _shards(out: Path) -> list[Path]:
    return sorted((out / _SHARDS).glob("*.jsonl"))


def _quiet_ray_data() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise UserError("curation on a cluster needs Ray Data: pip install 'sama-video[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data


def _scored(
    ray_data: Any,
    rows: Sequence[Row],
    out: Path,
    config: CurationConfig,
    spread: RayConfig,
    progress: Progress,
) -> list[Scored]:
    portion = replace(
        config, judge=replace(config.judge, concurrency=max(1, config.judge.concurrency // spread.actors))
    )
    items = [{"index": index, "row": json.dumps(asdict(row))} for index, row in enumerate(rows)]
    results = ray_data.from_items(items).map_batches(
        _Scorer,
        fn_constructor_args=(out.absolute(), portion),
        batch_size=spread.rows_per_batch,
        compute=ray_data.ActorPoolStrategy(size=spread.actors),
        num_cpus=1,
    )
    scored: dict[int, Scored] = {}
    stopped = ""
    # To the end also after a stop: threads of Ray Data that are at work when Ray is shut down end the whole process.
    for record in results.iter_rows():
        stopped = stopped or record["stopped"]
        if not record["stopped"]:
            scored[record["index"]] = Scored(**json.loads(record["scored"]))
            progress("judging", len(scored), len(rows))
    if stopped:
        raise JudgeStoppedError(stopped)
    return [scored[index] for index in range(len(rows))]

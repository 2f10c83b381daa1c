"""Commands that are killed again and again: what was done or bought must not be lost."""

import json
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.commands import ended_by, start_sama
from tests.judge_server import JudgeServer, answer_text


def run_sama(arguments: Sequence[object], seconds: float | None = None, after: Callable[[], bool] | None = None) -> int:
    """Runs `sama` in a process of its own, and kills it `seconds` after something has happened (None: its start).

    Returns:
        The exit code, -9 for one that was killed.
    """
    process = start_sama(arguments)
    while after is not None and process.is_alive() and not after():
        time.sleep(0.001)
    process.join(seconds)
    return ended_by(process)


def killed_often(
    command_of: Callable[[JudgeServer], Sequence[object]], answers: Path, kills: int, most: int, delay: float
) -> JudgeServer:
    """Runs `sama` with the arguments until it ends, killing it `kills` times after up to `most` answers of that life.

    Asserts that no request asks for what the store held at an earlier kill.

    Args:
        answers: file that the command stores the answers in.
        delay: seconds that the server takes for an answer.

    Returns:
        The server, which knows what was asked.
    """
    rng = random.Random(kills)
    with JudgeServer(delay=delay) as server:
        stored, checked = set(), 0
        for life in range(kills + 1):
            wanted = server.sold.total() + rng.randint(1, most) if life < kills else float("inf")
            process = start_sama(command_of(server))
            while process.is_alive() and server.sold.total() < wanted:
                time.sleep(0.002)
            if life < kills:
                time.sleep(rng.uniform(0, 0.02))
                ended_by(process)
            process.join()
            assert process.exitcode == (-signal.SIGKILL if life < kills else 0)
            later, checked = server.requests[checked:], len(server.requests)
            assert stored.isdisjoint(answer_text(request) for request in later)
            lines = answers.read_bytes().splitlines(keepends=True)
            stored |= {json.loads(line)["text"] for line in lines if line.endswith(b"\n")}
    return server

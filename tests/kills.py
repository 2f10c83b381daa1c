"""A command that buys answers is killed again and again: what it had stored, it must not ask for a second time."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.judge_server import JudgeServer, answer_text


def killed_often(
    command_of: Callable[[JudgeServer], Sequence[str]], answers: Path, kills: int, most: int, delay: float
) -> JudgeServer:
    """Runs a command until it ends, killing it `kills` times after up to `most` answers of that life.

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
            with subprocess.Popen(command_of(server), stderr=subprocess.PIPE) as process:
                while process.poll() is None and server.sold.total() < wanted:
                    time.sleep(0.002)
                if life < kills:
                    time.sleep(rng.uniform(0, 0.02))
                    process.send_signal(signal.SIGKILL)
            assert process.returncode == (-signal.SIGKILL if life < kills else 0)
            later, checked = server.requests[checked:], len(server.requests)
            assert stored.isdisjoint(answer_text(request) for request in later)
            lines = answers.read_bytes().splitlines(keepends=True)
            stored |= {json.loads(line)["text"] for line in lines if line.endswith(b"\n")}
    return server

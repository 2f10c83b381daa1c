"""Commands that are killed again and again: what was done or bought must not be lost."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.judge_server import JudgeServer, answer_text

# Forked from a process that has imported everything and runs no threads: moments of death fall into the work.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["sama_video.editing.editor", "sama_video.pipelines.loading", "tests.kills"])


def _sama(arguments: list[str]) -> None:
    import torch

    from sama_video.cli.app import main

    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.argv = ["sama", *arguments]
    main()


def run_sama(arguments: Sequence[object], seconds: float | None = None, after: Callable[[], bool] | None = None) -> int:
    """Runs `sama` in a process of its own, and kills it `seconds` after something has happened (None: its start).

    Returns:
        The exit code, -9 for one that was killed.
    """
    process = FORKSERVER.Process(target=_sama, args=([str(argument) for argument in arguments],))
    process.start()
    while after is not None and process.is_alive() and not after():
        time.sleep(0.001)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


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

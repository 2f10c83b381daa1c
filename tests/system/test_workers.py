"""Helping processes leave Ctrl-C to the one they help."""

import os
import signal
import time

import pytest

from sama_video.system.workers import worker_pool


def test_ctrl_c_is_the_parent_s():
    with worker_pool(1) as pool:
        worker = pool.submit(os.getpid).result(120)
        os.kill(worker, signal.SIGINT)
        assert pool.submit(os.getpid).result(120) == worker


def run_much(pool, futures):
    with pool:
        futures += [pool.submit(time.sleep, 0.01) for _ in range(1000)]
        futures[0].result(120)
        raise KeyboardInterrupt


def test_what_has_not_begun_is_dropped():
    futures = []
    with pytest.raises(KeyboardInterrupt):
        run_much(worker_pool(1), futures)
    assert sum(future.cancelled() for future in futures) > 500

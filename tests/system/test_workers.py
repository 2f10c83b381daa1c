"""Helping processes leave Ctrl-C to the one they help."""

import math
import os
import signal
import time

import pytest

from sama_video.system.workers import in_a_process, worker_pool


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


def test_one_process_works_ahead_in_order_and_on_no_more_than_it_is_given():
    taken = []

    def tasks():
        for number in range(5):
            taken.append(number)
            yield number

    results = in_a_process(math.factorial, tasks())
    assert next(results) == 1
    assert taken == [0, 1]
    assert list(results) == [1, 2, 6, 24]
    assert list(in_a_process(math.factorial, [])) == []

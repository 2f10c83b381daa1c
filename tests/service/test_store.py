"""Jobs on disk: each runs for one at a time and ends once, whoever dies."""

import multiprocessing
import threading

import pytest

from sama_video.service.store import JobStore, QueueFullError
from sama_video.system.errors import UserError

REQUEST = {"prompt": "make it red", "name": "a.mp4", "source": "source.mp4", "mask": None, "settings": {}, "seeds": 1}


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "jobs")


def add(store, **options):
    job_id, _ = store.new_folder()
    return store.add(job_id, REQUEST, **options)


def test_the_highest_priority_comes_first_and_of_equal_ones_the_oldest(store):
    jobs = [add(store), add(store, priority=5), add(store), add(store, priority=5)]
    assert [job.number for job in jobs] == [1, 2, 3, 4]
    assert [store.claim("a").number for _ in jobs] == [2, 4, 1, 3]
    assert store.claim("a") is None
    assert [job.number for job in store.list(limit=2)] == [4, 3]
    assert [job.number for job in store.list(before=3)] == [2, 1]
    later = store.set_priority(add(store).id, 7)
    assert later.priority == 7


def test_only_who_claimed_a_job_ends_it_and_once(store):
    add(store)
    job = store.claim("first")
    assert store.tell(job, "editing", 1, 4, 0)
    store.release(most_claims=3)  # the worker died
    assert store.get(job.id).state == "queued"
    assert not store.tell(job, "editing", 2, 4, 0)
    assert not store.end(job, "done", {})
    again = store.claim("second")
    assert (again.id, again.claims, again.phase) == (job.id, 2, "")
    assert not store.end(job, "done", {})
    assert store.end(again, "done", {"results": ["result.mp4"]})
    assert not store.end(again, "failed", {})
    ended = store.get(job.id)
    assert (ended.state, ended.outcome) == ("done", {"results": ["result.mp4"]})


def test_a_job_whose_workers_keep_dying_fails(store):
    job = add(store)
    for _ in range(3):
        assert store.claim("x").id == job.id
        store.release(most_claims=3)
    assert store.get(job.id).state == "failed"
    assert "died 3 times" in store.get(job.id).outcome["error"]
    assert store.claim("x") is None


def test_stopping_before_during_and_after(store):
    waiting, running = add(store), add(store, priority=1)
    claimed = store.claim("x")
    assert claimed.id == running.id
    assert store.stop(waiting.id).state == "cancelled"
    assert store.stop(running.id).state == "running"
    assert not store.tell(claimed, "editing", 1, 2, 0)
    assert store.end(claimed, "cancelled", {})
    assert store.stop(running.id).state == "cancelled"
    dying = add(store)
    store.claim("x")
    store.stop(dying.id)
    store.release(most_claims=3)  # what was to be stopped is not begun again
    assert store.get(dying.id).state == "cancelled"
    with pytest.raises(KeyError):
        store.stop("nobody")


def test_a_full_queue_takes_no_more(store):
    add(store, longest_queue=2)
    add(store, longest_queue=2)
    with pytest.raises(QueueFullError, match="2 jobs wait already"):
        add(store, longest_queue=2)
    assert store.num_waiting() == 2
    store.claim("x")
    add(store, longest_queue=2)


def test_removing_takes_the_files_and_needs_an_end(store):
    job = add(store)
    with pytest.raises(UserError, match="has not ended"):
        store.remove(job.id)
    store.stop(job.id)
    store.remove(job.id)
    assert not store.folder_of(job.id).exists()
    with pytest.raises(KeyError):
        store.get(job.id)
    _, orphan = store.new_folder()
    store.sweep(older_than=60)
    assert orphan.exists()
    store.sweep(older_than=-1)
    assert not orphan.exists()


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot keep jobs in"):
        JobStore(tmp_path / "file")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "jobs.sqlite3").write_bytes(b"no table" * 1000)
    with pytest.raises(UserError, match="cannot keep jobs in"):
        JobStore(tmp_path / "jobs")


def take(folder, taken):
    store = JobStore(folder)
    while (job := store.claim(str(id(taken)))) is not None:
        taken.put(job.number)


def test_many_at_once_take_every_job_once(store):
    context = multiprocessing.get_context("fork")
    taken = context.Queue()
    threads = [threading.Thread(target=lambda: [add(store) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    processes = [context.Process(target=take, args=(store.folder, taken)) for _ in range(3)]
    for process in processes:
        process.start()
    numbers = sorted(taken.get(timeout=60) for _ in range(40))
    for process in processes:
        process.join()
    assert numbers == list(range(1, 41))
    assert taken.empty()

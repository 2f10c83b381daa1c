"""`sama serve` as it runs: a server, its worker and clients, each in a process of its own, and some of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from sama_video.client import Client
from sama_video.editing import EditSettings, edit_video
from sama_video.pipelines.loading import load_pipeline
from sama_video.service.worker import READY
from sama_video.system.errors import UserError
from sama_video.video import VideoReader
from tests import tiny
from tests.clips import write_clip
from tests.commands import sama


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.pipeline(native_num_frames=9, default_num_inference_steps=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "second"
    tiny.pipeline(seed=1, native_num_frames=9, default_num_inference_steps=3).save_pretrained(folder)
    return folder


@contextmanager
def serving(folder, model, *options, cwd=None):
    """The client of a service that runs in `folder`, and the server's process."""
    command = [sys.executable, "-m", "sama_video.cli", "serve", "--folder", folder, "--port", "0", "--model", model]
    server = subprocess.Popen(
        [*map(str, command), *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=cwd
    )
    try:
        said = server.stdout.readline()
        assert "sama serves at" in said
        with Client(said.split()[3], token="secret" if "--token" in options else None) as client:
            yield client, server
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        finally:
            server.kill()


def worker_of(folder):
    """The process id of a worker that has loaded its model."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            return json.loads((folder / READY).read_text())["pid"]
        except (OSError, ValueError):
            time.sleep(0.1)
    raise AssertionError("no worker")


def test_an_edit_over_http_is_that_of_the_command(model, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 13, sound=True)
    expected = tmp_path / "expected.mp4"
    edit_video(load_pipeline(str(model)), clip, "make it red", expected, EditSettings(seed=3, strength=0.5))
    folder = tmp_path / "jobs"
    with serving(folder, model) as (client, _):
        job = client.edit(clip, "make it red", seed=3, strength=0.5)
        states = list(client.events(job["id"]))
        done = states[-1]
        assert done["state"] == "done", done
        assert {"editing", "writing"} & {state["phase"] for state in states}
        assert client.save(done, tmp_path / "saved.mp4").read_bytes() == expected.read_bytes()
        several = client.wait(client.edit(clip, "make it red", seeds=2, suffix=".webm", num_frames=5)["id"])
        assert several["results"] == ["result_seed0.webm", "result_seed1.webm"]
        assert several["frames"] == 5
        client.save(several, tmp_path / "second.webm", which=1)
        assert VideoReader(tmp_path / "second.webm").info.num_frames in (0, 5)
        shown = client._http.get(f"/api/jobs/{done['id']}/files/{done['results'][0]}.json")
        assert shown.json()["source"]["path"] == "source.mp4"
        assert str(tmp_path) not in shown.text
        failed = client.wait(client.edit(clip, "make it red", start=99.0)["id"])
        assert failed["state"] == "failed"
        assert failed["error"] == "source.mp4 shows nothing at 99 s; choose an earlier start"
        with pytest.raises(UserError, match=r"job \d is failed: source.mp4 shows nothing"):
            client.save(failed, tmp_path / "x.mp4")
        second = sama("serve", "--folder", folder, "--port", "0", "--model", model)
        assert second.returncode == 2
        assert "another service uses" in second.stderr


@pytest.mark.slow
def test_a_running_job_is_cancelled_and_the_next_one_runs(model, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 13)
    with serving(tmp_path / "jobs", model, "--token", "secret") as (client, _):
        first = client.edit(clip, "make it red", num_inference_steps=5000)
        second = client.edit(clip, "make it red")
        for state in client.events(first["id"]):
            if state["phase"] == "editing" and state["previews"]:
                client.cancel(first["id"])
        assert client.job(first["id"])["state"] == "cancelled"
        assert client.wait(second["id"])["state"] == "done"
        with pytest.raises(UserError, match="401"):
            Client(str(client._http.base_url), token="wrong").jobs()


@pytest.mark.slow
def test_a_server_stops_though_somebody_listens_and_another_goes_on(model, tmp_path):
    clip, folder = write_clip(tmp_path / "clip.mp4", 13), tmp_path / "jobs"
    with serving(folder, model) as (client, server):
        job = client.edit(clip, "make it red", num_inference_steps=300)
        listening = client.events(job["id"])
        while next(listening)["state"] != "running":
            pass
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    with serving(folder.relative_to(tmp_path), model.name, cwd=link_beside(model, tmp_path)) as (client, _):
        assert client.wait(job["id"])["state"] == "done"


@pytest.mark.slow
def test_jobs_choose_among_models_and_one_may_be_gone(model, other, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 9)
    expected = {}
    for folder in (model, other):
        edit_video(load_pipeline(str(folder)), clip, "make it red", tmp_path / f"{folder.name}.mp4")
        expected[folder.name] = (tmp_path / f"{folder.name}.mp4").read_bytes()
    assert expected["tiny"] != expected["second"]
    folder = tmp_path / "jobs"
    with serving(folder, model, "--model", str(other)) as (client, _):
        for name in ("second", "", "second"):
            job = client.wait(client.edit(clip, "make it red", model=name)["id"])
            assert job["state"] == "done", job
            assert job["request"]["model"] == (name or "tiny")
            saved = client.save(job, tmp_path / "saved.mp4").read_bytes()
            assert saved == expected[job["request"]["model"]]
        described = client.service()["models"]
        assert [one["model"] for one in described] == ["tiny", "second"]
        assert [one["steps"] for one in described] == [2, 3]
        with pytest.raises(UserError, match=r"\(422\): there is no model 'x' here; ask for one of tiny, second"):
            client.edit(clip, "make it red", model="x")
    with serving(folder, model) as (client, _):
        failed = client.wait(client.retry(job["id"])["id"])
        assert failed["error"].startswith("this service has no model second any more; ask for one of tiny")
        assert client.wait(client.edit(clip, "make it red")["id"])["state"] == "done"
    for options, words in (
        (("--model", str(other), "--lora", str(clip)), "a LoRA belongs to one model"),
        (("--model", str(model)), "share it"),
    ):
        refused = sama("serve", "--folder", folder, "--port", "0", "--model", model, *options)
        assert refused.returncode == 2
        assert words in refused.stderr


def link_beside(model, folder):
    """The folder, with the model in it: its name alone leads there from here."""
    (folder / model.name).symlink_to(model)
    return folder


@pytest.mark.slow
def test_every_job_ends_once_with_the_same_bytes_whoever_is_killed(model, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 13)
    folder, expected = tmp_path / "jobs", tmp_path / "expected.mp4"
    pipe = load_pipeline(str(model))
    ids, kills = [], 0
    while kills < 4:
        with serving(folder, model) as (client, server):
            if not ids:
                ids = [client.edit(clip, "make it red", seed=seed, num_inference_steps=40)["id"] for seed in range(8)]
            worker = worker_of(folder)
            time.sleep(0.7)
            os.kill(worker if kills % 2 else server.pid, signal.SIGKILL)
            kills += 1
    with serving(folder, model) as (client, _):
        for seed, job_id in enumerate(ids):
            job = client.wait(job_id)
            assert job["state"] == "done", job
            client.save(job, tmp_path / "saved.mp4")
            edit_video(pipe, clip, "make it red", expected, EditSettings(seed=seed, num_inference_steps=40))
            assert (tmp_path / "saved.mp4").read_bytes() == expected.read_bytes()
        assert [job["number"] for job in client.jobs()] == list(range(8, 0, -1))


def test_what_stops_a_service_before_it_starts(model, tmp_path):
    for options, words in [
        (("--host", "0.0.0.0"), "give a --token"),
        (("--model", "none/../x"), "unknown model"),
        (("--folder", "/proc/x"), "cannot keep jobs"),
        (("--port", "99999"), "--port"),
    ]:
        refused = sama("serve", "--folder", tmp_path / "jobs", "--model", model, *options)
        assert refused.returncode == 2, refused.stderr
        assert words in refused.stderr
    with pytest.raises(UserError, match=r"no service at http://127\.0\.0\.1:9"):
        Client("http://127.0.0.1:9").jobs()

"""The Dockerfile, without Docker: its files, its pip and its commands in a folder and an environment of their own.

Not covered: the base image and its Python, the user that it makes, the volume, how Docker sends signals.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from sama_video.client import Client
from sama_video.models.presets import ASSETS
from sama_video.video import VideoReader

ROOT = Path(__file__).parent.parent


def steps():
    """(instruction, its text) of the Dockerfile, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def command(instruction, port="8000", folder="/jobs"):
    """What an instruction runs, at another port and in another folder."""
    (text,) = (rest for name, rest in steps() if name == instruction)
    words = json.loads(text[text.index("[") :])
    return [word.replace("8000", str(port)).replace("/jobs", str(folder)) for word in words]


def copied():
    return [source for name, rest in steps() if name == "COPY" for source in rest.split()[:-1]]


def test_what_is_copied_is_there_and_let_through():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert let_through == set(copied())
    assert all((ROOT / source).exists() for source in copied())


def test_it_runs_as_nobody_in_particular_with_a_port_a_volume_and_a_check():
    found = dict(steps())
    assert found["USER"] != "root"
    assert found["EXPOSE"] in command("CMD")
    assert found["VOLUME"] in command("CMD")
    assert found["EXPOSE"] in found["HEALTHCHECK"]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The folder of an environment in which the pip steps were run, on copies of what is copied."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    app = folder / "app"
    app.mkdir()
    for name, rest in steps():
        if name == "COPY":
            for source in rest.split()[:-1]:
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, app / source)
        elif name == "RUN" and rest.startswith("pip "):
            pip = re.sub(r"--index-url \S+", "", rest)  # the tests' own index, whatever it is
            python = [folder / "venv" / "bin" / "python", "-m", *shlex.split(pip)]
            # Most of PyTorch is never imported here.
            subprocess.run(python, cwd=app, env=os.environ | {"PIP_NO_COMPILE": "1"}, check=True)
    yield folder
    shutil.rmtree(folder)  # PyTorch is large


@contextmanager
def started(image, token):
    """The image's command on a free port, the port, and a function that says whether it is healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{image / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SAMA_TOKEN")}
    environment |= {"PATH": path} | token
    where = port, image / "jobs"

    def is_healthy():
        check = subprocess.run(command("HEALTHCHECK", *where), env=environment, cwd=image, capture_output=True)
        return check.returncode == 0

    server = subprocess.Popen(
        command("CMD", *where), env=environment, cwd=image, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        yield server, port, is_healthy
    finally:
        server.terminate()
        server.communicate(timeout=60)


@pytest.mark.slow
def test_the_image_s_service_edits(image, tmp_path):
    with started(image, {"SAMA_TOKEN": "secret"}) as (server, port, is_healthy):
        deadline = time.monotonic() + 300
        while not is_healthy():
            assert server.poll() is None
            assert time.monotonic() < deadline
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(url).status_code == 401
        page = httpx.get(f"{url}/?token=secret", follow_redirects=True)
        assert page.status_code == 200
        assert "<html" in page.text
        with Client(url, "secret") as client:
            job = client.edit(ASSETS / "demo.mp4", "Make it black and white", num_frames=5)
            client.save(client.wait(job["id"]), tmp_path / "gray.mp4")
    assert sum(1 for _ in VideoReader(tmp_path / "gray.mp4").frames()) == 5
    assert server.returncode in (0, 143, -15)


@pytest.mark.slow
def test_without_a_token_the_image_says_what_it_needs(image):
    with started(image, {}) as (server, _, is_healthy):
        _, said = server.communicate(timeout=300)
        assert server.returncode == 2
        assert b"SAMA_TOKEN" in said
        assert not is_healthy()

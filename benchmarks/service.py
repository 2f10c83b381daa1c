"""`sama serve` under fire, with the nano: kills at random moments, then twenty clients at once.

    python benchmarks/service.py [--kills 50] [--jobs 100] [--clients 20]

Kills: every job must end once, with the bytes of a run that nobody disturbed. Load: seconds until the list of jobs is
answered while a job runs, over those of the idle service in the same run; the server's memory before and after.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
from common import setting

from sama_video.client import Client
from sama_video.editing import EditSettings, edit_video
from sama_video.pipelines.loading import load_pipeline
from sama_video.service.worker import READY
from sama_video.synth.engine import Engine, render_draft
from sama_video.synth.sprites import NANO_VOCABULARY
from sama_video.system.errors import UserError
from sama_video.video import write_lossless

PROMPT = "Make the colors warmer"
SEEDS = 5  # different jobs; the others ask for the same


class Server:
    """`sama serve` in a folder, started again after a kill."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Client:
        command = [sys.executable, "-m", "sama_video.cli", "serve", "--folder", str(self.folder), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        return Client(said.split()[3], timeout=120)

    @property
    def worker(self) -> int | None:
        try:
            return json.loads((self.folder / READY).read_text())["pid"]
        except (OSError, ValueError):
            return None

    def resident(self) -> float:
        """MiB of the server, not its worker."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def make_clip(folder: Path) -> Path:
    draft = Engine(split="known", vocabulary=NANO_VOCABULARY, seed=2).draft(0, moving=True)
    write_lossless(folder / "clip.mp4", render_draft(draft, 9, 96, 128).source, Fraction(25))
    return folder / "clip.mp4"


def under_kills(folder: Path, clip: Path, num_jobs: int, num_kills: int) -> None:
    pipe = load_pipeline("nano")
    expected = []
    for seed in range(SEEDS):
        edit_video(pipe, clip, PROMPT, folder / "expected.mp4", EditSettings(seed=seed))
        expected.append((folder / "expected.mp4").read_bytes())
    del pipe
    server, chance = Server(folder / "kills"), random.Random(0)
    client = server.start()
    ids = [client.edit(clip, PROMPT, seed=number % SEEDS)["id"] for number in range(num_jobs)]
    killed: Counter[str] = Counter()
    while killed.total() < num_kills:
        time.sleep(chance.uniform(0, 4))
        assert server.process is not None
        worker = server.worker
        if worker is not None and chance.random() < 0.5:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed["worker"] += 1
        elif chance.random() < 0.5:
            server.process.kill()
            server.process.wait()
            killed["server"] += 1
            client = server.start()
    ended: Counter[str] = Counter()
    claims = same = 0
    for number, job_id in enumerate(ids):
        job = wait(client, job_id)
        ended[job["state"]] += 1
        claims += job["claims"]
        if job["state"] == "done":
            client.save(job, folder / "saved.mp4")
            same += (folder / "saved.mp4").read_bytes() == expected[number % SEEDS]
    print(
        f"{dict(killed)} kills over {num_jobs} jobs: {dict(ended)}, {same} with the bytes of an undisturbed run; "
        f"{len(client.jobs(500))} jobs in the list, begun {claims} times"
    )
    server.process.send_signal(signal.SIGINT)
    server.process.wait()


def wait(client: Client, job_id: str) -> dict:
    while True:
        try:
            return client.wait(job_id)
        except UserError:
            time.sleep(0.5)


def latencies(client: Client, seconds: float) -> list[float]:
    taken, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.perf_counter()
        client.jobs(100)
        taken.append(time.perf_counter() - started)
        time.sleep(0.02)
    return taken


def under_load(folder: Path, clip: Path, num_clients: int, each: int) -> None:
    server = Server(folder / "load")
    client = server.start()
    while server.worker is None:
        time.sleep(0.2)
    wait(client, client.edit(clip, PROMPT)["id"])  # what is loaded late is there
    idle, before = latencies(client, 5), server.resident()
    refused: list[str] = []

    def ask(number: int) -> None:
        with Client(str(client._http.base_url), timeout=120) as own:
            for seed in range(each):
                try:
                    wait(own, own.edit(clip, PROMPT, seed=100 * number + seed)["id"])
                except UserError as error:
                    refused.append(str(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_clients)]
    for thread in threads:
        thread.start()
    busy, memory = [], []
    while any(thread.is_alive() for thread in threads):
        busy += latencies(client, 1)
        memory.append(server.resident())
    states = Counter(job["state"] for job in client.jobs(500))
    print(f"{num_clients} clients with {each} jobs each: {dict(states)}, {len(refused)} refused")
    for name, taken in (("idle", idle), ("while jobs run", busy)):
        print(
            f"the list of jobs, {name}: median {1000 * statistics.median(taken):.1f} ms, 99th percentile "
            f"{1000 * float(np.percentile(taken, 99)):.1f} ms of {len(taken)}"
        )
    print(f"ratio of the medians {statistics.median(busy) / statistics.median(idle):.2f}")
    print(f"the server's memory: {before:.0f} MiB before, {max(memory):.0f} at most, {memory[-1]:.0f} at the end")
    assert server.process is not None
    server.process.send_signal(signal.SIGINT)
    server.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--only", choices=["kills", "load"])
    arguments = parser.parse_args()
    print(setting())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = make_clip(folder)
        if arguments.only != "kills":
            under_load(folder, clip, arguments.clients, arguments.each)
        if arguments.only != "load":
            under_kills(folder, clip, arguments.jobs, arguments.kills)


if __name__ == "__main__":
    main()

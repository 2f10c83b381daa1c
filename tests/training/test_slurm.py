"""The cluster's script with stand-ins for SLURM's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "train_slurm.sh"
# srun lives until the run has been told to stop and has "saved".
STAND_INS = {
    "srun": 'echo "$@" > started; while [ ! -f signalled ]; do sleep 0.05; [ -f fails ] && exit 7; done; '
    "sleep 0.3; touch saved; exit 3",
    "scancel": 'echo "$@" > signalled',
    "scontrol": 'if [ "$1" = requeue ]; then [ -f saved ] && echo "$@" > requeued; else echo node1; fi',
}


def started(folder):
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURM_NNODES": "1", "SLURM_GPUS_PER_NODE": "8"}
    environment = os.environ | slurm | {"SLURM_CPUS_PER_TASK": "64", "PATH": f"{folder}:{os.environ['PATH']}"}
    process = subprocess.Popen(["bash", str(SCRIPT), "smoke", "runs/x"], cwd=folder, env=environment)
    deadline = time.monotonic() + 300
    while not (folder / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def test_a_job_whose_time_is_up_saves_and_comes_back(tmp_path):
    process = started(tmp_path)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(300) == 0
    assert (tmp_path / "signalled").read_text() == "--signal=TERM 7\n"
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert "--cpus-per-task=64 torchrun" in (tmp_path / "started").read_text()


def test_a_run_that_fails_does_not_come_back(tmp_path):
    process = started(tmp_path)
    (tmp_path / "fails").touch()
    assert process.wait(300) == 7
    assert not (tmp_path / "requeued").exists()

#!/bin/sh
# All GPUs of this machine (or two processes on its CPU). --resume starts anew where there is nothing to resume.
#   sh examples/train_torchrun.sh supervised-finetuning runs/finetuned --set data.num_workers=8
set -eu

recipe=$1
out=$2
shift 2
processes=${PROCESSES:-$(python -c "import torch; print(torch.cuda.device_count() or 2)")}

# How long torchrun lets the run finish its step and save after SIGTERM before it kills; its own default is 30 s.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-900}"

exec torchrun --standalone --nproc-per-node "$processes" -m sama_video.cli \
    train "$recipe" --out "$out" --resume "$@"

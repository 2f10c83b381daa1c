#!/bin/bash
# 64 GPUs under SLURM: one torchrun per node, one copy of the model on every two nodes. A job that is requeued goes on;
# 20 minutes before its time is up the run saves and the job requeues itself.
# The run's folder, the data and the models must lie where all nodes see them.
#   sbatch examples/train_slurm.sh factorized-pretraining runs/pretrained
#SBATCH --job-name=sama
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@1200
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

recipe=$1
out=$2
shift 2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# How long torchrun lets the run finish its step and save before it kills; its own default is 30 s.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=900

# To the tasks, not to srun, which would end them at once.
time_is_up=
trap 'time_is_up=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_PER_NODE" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$head:29500" \
    -m sama_video.cli train "$recipe" --out "$out" --resume \
    --set parallel.shard_size="$((2 * SLURM_GPUS_PER_NODE))" "$@" &

wait $! && code=0 || code=$?
if [ -n "$time_is_up" ]; then
    wait $! || true # the signal cut the first one short
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

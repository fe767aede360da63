#!/bin/bash
# A run on several nodes under Slurm: sbatch docs/launch/slurm.sh --config configs/base.py ...
# One process a node takes all of the node's GPUs. The job continues where it left off when its
# time is up, when a node fails, and when it is preempted.
#SBATCH --job-name=jaxgpt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# SIGTERM to this script ten minutes before the time is up: enough for a step and a save.
#SBATCH --signal=B:TERM@600

set -uo pipefail

# Out of this file's environment into the container or the virtual environment of the nodes.
if [[ -f .venv/bin/activate ]]; then
    source .venv/bin/activate
fi

# XLA's programs must be compiled once, not once a restart: a folder that outlives the job.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/xla}"

requeue_unless_done() {
    local code=$1
    # 75: unfinished, run it again (docs/interface.md). A killed step gives 137 or 143.
    if [[ $code -eq 75 || $code -eq 137 || $code -eq 143 ]]; then
        echo "exit code $code: requeued"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$code"
}

# --kill-on-bad-exit=0: hosts stop each other by themselves, and save first where they can.
srun --kill-on-bad-exit=0 python -m jaxgpt.train "$@" &
step=$!

# srun passes SIGTERM on to all processes; they agree on a step, save it and exit with 75.
signalled=0
trap 'signalled=1; kill -TERM "$step"' TERM

# A trap ends `wait` early, with a code of its own: then wait again for the step's.
while true; do
    wait "$step"
    code=$?
    [[ $signalled -eq 1 && $code -gt 128 ]] || break
    signalled=0
done
requeue_unless_done "$code"

#!/bin/bash
# One sweep as a Slurm job, from the top of the checkout; the arguments are those of experiments.py:
#   sbatch --time=08:00:00 launcher/slurm-job.sh --sweep pruning --dataset ETTm1
# Two minutes before its time ends, the sweep stops as it does for Ctrl-C, and the job queues again. It then goes on from
# there, as it does after a preemption or the loss of its node.
#SBATCH --job-name=sweep
#SBATCH --nodes=1 --ntasks=1 --cpus-per-task=8 --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --requeue --open-mode=append --signal=B:USR1@120

# A job's own TMPDIR is often too long for Ray's sockets, or is not there on the node
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp}

"${PYTHON:-.venv/bin/python}" experiments.py "$@" &
sweep=$!
trap 'kill -USR1 "$sweep"' USR1 # Slurm sends it to this shell only
trap 'kill -TERM "$sweep"' TERM
while true; do # a signal ends a wait, but not the sweep
  wait "$sweep"
  code=$?
  kill -0 "$sweep" 2>/dev/null || break
done
if [ "$code" = 138 ]; then # 128 + USR1: not finished, the same command goes on
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

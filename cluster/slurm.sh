#!/bin/bash
# A training run on a SLURM allocation: a Ray of its own inside it, requeued until the run is done.
#
#   ray get-auth-token --generate                # once: makes ~/.ray/auth_token; home is shared by the nodes
#   vi cluster/slurm.sh                          # nodes, GPUs, time, and how your Python is found (below)
#   sbatch cluster/slurm.sh configs/pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py --workers 16
#
# What follows the script's name goes to `python -m raydet3d.train`. Three minutes before the time limit SLURM sends
# USR1 to this script, which passes it on to the training: that saves, ends with 75, and the job is queued again under its
# number; --resume then goes on at the very step. A work dir on a file system that all nodes see is all it needs.
#SBATCH --job-name=raydet3d
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -euo pipefail

training=""
trap 'echo "the time is nearly over: saving"; [[ -z $training ]] || kill -USR1 "$training"' USR1
trap '[[ -z $training ]] || kill -TERM "$training"' TERM

# How Python is found on every node: a module, a virtual environment, or a container's.
source "${RAYDET3D_VENV:-$HOME/raydet3d-venv}/bin/activate"

export RAY_AUTH_MODE=token
[[ -f "$HOME/.ray/auth_token" ]] || { echo "no ~/.ray/auth_token: run 'ray get-auth-token --generate' once" >&2; exit 2; }

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
ip=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # so that two jobs on one node do not meet
export RAY_ADDRESS="$ip:$port"
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats)
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID"

echo "Ray's head on $head ($RAY_ADDRESS), ${#nodes[@]} nodes"
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$ip" --port="$port" "${resources[@]}" --block &
for _ in $(seq 60); do
  ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1 && break
  sleep 2
done
for node in "${nodes[@]:1}"; do
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" ray start --address="$RAY_ADDRESS" "${resources[@]}" --block &
done

python -m raydet3d.train "$@" --resume &
training=$!

# `wait` ends early when a signal comes: then wait on, for the training's own end.
code=0
wait "$training" || code=$?
while kill -0 "$training" 2> /dev/null; do
  code=0
  wait "$training" || code=$?
done

if [[ $code -eq 75 ]]; then # stopped, and can go on
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

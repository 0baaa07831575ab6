#!/bin/bash
# atlas-jax on a SLURM cluster: one process on each node, with all GPUs of the node.
#
#     sbatch --nodes=4 --gpus-per-node=8 deploy/slurm.sh paper_llama31_gemma16k --out /shared/runs/paper
#
# The arguments are those of `atlas-jax run`. --out must be a folder that all nodes see. A job that
# was killed goes on where it stopped when it is submitted again, with any number of nodes.
#SBATCH --job-name=atlas-jax
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=INT@60
#SBATCH --output=atlas-jax-%j.log
set -euo pipefail

if [ "$#" -eq 0 ]; then
  echo "usage: sbatch [--nodes=N --gpus-per-node=G] deploy/slurm.sh RECIPE [--out FOLDER ...]" >&2
  exit 2
fi

# Under srun JAX takes one GPU for each process unless it is told which ones.
gpus=${SLURM_GPUS_ON_NODE:-0}
if [ "$gpus" -gt 0 ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

# JAX finds the first node and the number of processes in the environment that srun makes.
# When one process dies, all end: the next submission goes on.
exec srun --kill-on-bad-exit=1 --label atlas-jax run "$@"

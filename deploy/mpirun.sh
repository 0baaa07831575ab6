#!/bin/bash
# atlas-jax under mpirun (Open MPI, MPICH, Intel MPI): one process for each GPU.
#
#     mpirun -n 32 deploy/mpirun.sh HEAD:8476 paper_llama31_gemma16k --out /shared/runs/paper
#
# HEAD: the host of process 0 as all others reach it, with a free port. The rest are the arguments
# of `atlas-jax run`. MPI only starts the processes; what they send each other, JAX sends.
set -euo pipefail

if [ "$#" -lt 2 ]; then
  echo "usage: mpirun -n N deploy/mpirun.sh HOST:PORT RECIPE [--out FOLDER ...]" >&2
  exit 2
fi
export JAX_COORDINATOR_ADDRESS=$1
shift
export JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-0}}}
exec atlas-jax run "$@"

#!/bin/bash
# atlas-jax on a Cloud TPU slice: the same line on every worker.
#
#     deploy/tpu_vm.sh my-slice us-east5-a paper_llama31_gemma16k --out /mnt/runs/paper
#
# Arguments: the TPU's name, its zone, then those of `atlas-jax run`. The package (with jax[tpu])
# must be installed on the workers, and --out lie on a disk that all of them see. With DRY_RUN=1 the
# command is printed and not run.
set -euo pipefail

if [ "$#" -lt 3 ]; then
  echo "usage: deploy/tpu_vm.sh NAME ZONE RECIPE [--out FOLDER ...]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2

# On a TPU JAX asks the metadata server who the workers are.
line="ATLAS_JAX_DISTRIBUTED=1 atlas-jax run$(printf ' %q' "$@")"
command=(gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$line")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi

#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster: fills in gke.yaml and hands it over.
#
# usage: launch/gke.sh apply|delete
#
# NAME: of the job; IMAGE: with this package and libtpu; ACCELERATOR, TOPOLOGY:
# of the node pool, such as tpu-v5-lite-podslice and 4x4; HOSTS: its nodes;
# CHIPS: of each; CLAIM: volume claim of data and runs, mounted at /data;
# CONFIG, WORKDIR: as of deeplab_jax.main, such as gs://BUCKET/RUN.
set -euo pipefail

action=${1:?must be apply or delete}
fields=()
for name in NAME IMAGE ACCELERATOR TOPOLOGY HOSTS CHIPS CLAIM CONFIG WORKDIR; do
  : "${!name:?$name must be set, see $0}"
  fields+=(-e "s|@$name@|${!name}|g")
done
sed "${fields[@]}" "$(dirname "$0")/gke.yaml" | kubectl "$action" -f -

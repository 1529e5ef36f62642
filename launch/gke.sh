#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster: fills in gke.yaml and hands it over.
#
# usage: launch/gke.sh apply|delete|--help
#
# NAME: of the job; IMAGE: with this package and libtpu; ACCELERATOR, TOPOLOGY:
# of the node pool, such as tpu-v5-lite-podslice and 4x4; HOSTS: its nodes;
# CHIPS: of each; CONFIG: as of deeplab_jax.main; WORKDIR: gs://BUCKET/runs/voc;
# DATA: gs://BUCKET/data, where `python -m deeplab_jax.prepare voc2012
# --data_dir gs://BUCKET/data` has put the data set; FLAGS: more of main, if any.
# The service account of the pods must be allowed to use the bucket.
set -euo pipefail

[[ ${1-} != --help ]] || exec sed -n '2,/^set/s/^#\( \|$\)//p' "$0"
action=${1:?must be apply or delete}
fields=(-e "s|@FLAGS@|${FLAGS-}|g")
for name in NAME IMAGE ACCELERATOR TOPOLOGY HOSTS CHIPS CONFIG WORKDIR DATA; do
  : "${!name:?$name must be set, see $0}"
  fields+=(-e "s|@$name@|${!name}|g")
done
sed "${fields[@]}" "$(dirname "$0")/gke.yaml" | kubectl "$action" -f -

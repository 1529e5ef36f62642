#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size, through preemptions.
# usage: launch/tpu_pod.sh create|run|continue|delete|--help [FLAGS of main]
# run trains on all workers; continue does, with a new slice whenever one was
# preempted, whose disks are gone. So keep run and data in a bucket:
#   launch/tpu_pod.sh continue --config configs/voc.py \
#     --workdir gs://BUCKET/runs/voc --config.data.data_dir=gs://BUCKET/data
# `python -m deeplab_jax.prepare voc2012 --data_dir gs://BUCKET/data` puts data
# there, once. TPU_NAME, TPU_ZONE: of the slice; TPU_TYPE, TPU_VERSION:
# v5litepod-16, v2-alpha-tpuv5-lite for v5e:4x4; REPOSITORY: what to clone.
set -euo pipefail
[[ ${1-} != --help ]] || exec sed -n '2,/^set/s/^#\( \|$\)//p' "$0"
for name in TPU_NAME TPU_ZONE TPU_TYPE TPU_VERSION REPOSITORY; do
  : "${!name:?$name must be set, see $0}"
done
action=${1:?must be create, run, continue or delete}
main="DEEPLAB_DISTRIBUTED=1 .venv/bin/python -m deeplab_jax.main"
flags=$([[ $# == 1 ]] || printf ' %q' "${@:2}")
tpu() { gcloud compute tpus tpu-vm "$1" "$TPU_NAME" --zone "$TPU_ZONE" "${@:2}"; }
on_all_workers() { tpu ssh --worker all --command "$1"; }
create() {
  tpu create --accelerator-type "$TPU_TYPE" --version "$TPU_VERSION" --spot
  on_all_workers "git clone $REPOSITORY deeplab_jax && cd deeplab_jax && \
    pip install uv && uv venv --python 3.11 && uv pip install -e '.[tpu]'"
}
run() { on_all_workers "cd deeplab_jax && $main$flags"; }
ready() { [[ $(tpu describe --format 'value(state)') == READY ]]; }
train() {
  until run && ready; do
    ! ready || exit 1 # The run failed, and not for lack of a slice.
    tpu delete --quiet && create
  done
}
case $action in
  create | run) "$action" ;;
  continue) train ;;
  delete) tpu delete --quiet ;;
  *) echo "$0: create, run, continue or delete, got $action" >&2 && exit 2 ;;
esac

#!/usr/bin/env bash
# Runs one training in several processes of this machine, joined over loopback.
#
# usage: PROCESSES=2 launch/local.sh --config configs/x.py --workdir DIR [FLAGS]
#
# PROCESSES: how many; with GPUs, each gets the one of its number.
# PORT: of the first process on localhost; any free one by default.
# PYTHON: the interpreter; python by default.
set -euo pipefail

: "${PROCESSES:?must be set: the number of processes}"
python=${PYTHON:-python}
free_port='import socket
with socket.socket() as s:
  s.bind(("localhost", 0))
  print(s.getsockname()[1])'
export JAX_COORDINATOR_ADDRESS="localhost:${PORT:-$("$python" -c "$free_port")}"
export JAX_NUM_PROCESSES=$PROCESSES

# Huge pages for arrays in main memory; see deeplab_jax/runtime.py.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

children=()
stop() { kill -TERM "${children[@]}" 2>/dev/null || true; }
# Told to stop, all save and end; one that fails takes the others with it.
trap 'stop; wait "${children[@]}"; exit' TERM INT
trap stop EXIT
for ((i = 0; i < PROCESSES; i++)); do
  JAX_PROCESS_ID=$i CUDA_VISIBLE_DEVICES=$i \
    "$python" -m deeplab_jax.main "$@" &
  children+=($!)
done
for _ in "${children[@]}"; do wait -n; done

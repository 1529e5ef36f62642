#!/usr/bin/env bash
# Runs one training in several processes of this machine, joined over loopback.
#
# usage: PROCESSES=2 launch/local.sh --config configs/x.py --workdir DIR [FLAGS]
#
# PROCESSES: how many; with GPUs, each gets the one of its number.
# RESTARTS: how often to start all of them again after one has failed, died or
#   hung; 0 by default.
# PORT: of the first process on localhost; any free one by default.
# PYTHON: the interpreter; python by default.
set -euo pipefail

: "${PROCESSES:?must be set: the number of processes}"
python=${PYTHON:-python} children=() left=$PROCESSES
free_port='import socket as s; print(s.create_server(("", 0)).getsockname()[1])'
export JAX_COORDINATOR_ADDRESS="localhost:${PORT:-$("$python" -c "$free_port")}"
# Huge pages for arrays in main memory; see deeplab_jax/runtime.py.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

# If this script is killed, the system closes the pipe, and its reader ends all.
exec {pipe}> >(trap '' TERM INT HUP; exec >&- 2>&-; mapfile -t all
  kill "${all[@]}" && sleep 20 && kill -KILL "${all[@]}")
stop() { kill "${children[@]}" 2>&- || true; }
end() { # One failed: the others would wait for it as long as it takes.
  stop
  for _ in {1..50}; do [[ -n $(jobs -pr) ]] && sleep 0.1; done
  kill -KILL "${children[@]}" 2>&- || true
}
wait_for_all() {
  for (( ; left; left--)); do wait -n || { : "${status:=$?}"; end; }; done
  return "${status:-0}"
}
trap 'trap "" TERM INT; stop; wait_for_all; exit' TERM INT # All save and end.
for ((i = 0; i < PROCESSES; i++)); do
  (
    echo "$BASHPID" >&"$pipe" # Before it is a run: none is ever forgotten.
    exec {pipe}>&-
    JAX_NUM_PROCESSES=$PROCESSES JAX_PROCESS_ID=$i CUDA_VISIBLE_DEVICES=$i \
      exec "$python" -m deeplab_jax.main "$@"
  ) &
  children+=($!)
done
wait_for_all && exit
if ((${RESTARTS:-0} > 0)); then
  echo "starting all processes again, $((--RESTARTS)) times more at most" >&2
  exec {pipe}>&- # Its reader has nothing left to end.
  RESTARTS=$RESTARTS exec "$BASH" "$0" "$@"
fi
exit "$status"

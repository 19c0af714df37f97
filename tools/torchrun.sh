#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: torchrun.sh GPUS SCRIPT [ARGUMENTS], SCRIPT being one in this folder.
set -euo pipefail
gpus=$1 script=$(dirname "$0")/$2
shift 2
nodes=${NNODES:-1}

if ! [[ $gpus =~ ^[1-9][0-9]*$ && $nodes =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS and NNODES must be integers >= 1, got '$gpus' and '$nodes'" >&2
    exit 2
fi
if [ "$nodes" -gt 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
    echo "error: NNODES=$nodes machines need MASTER_ADDR, the address of the one with NODE_RANK=0, and NODE_RANK" >&2
    exit 2
fi
if [ "$nodes" -gt 1 ] || [ -n "${PORT:-}" ]; then
    meet=(--nnodes="$nodes" --node-rank="${NODE_RANK:-0}" --master-addr="${MASTER_ADDR:-127.0.0.1}"
        --master-port="${PORT:-29500}")
else
    meet=(--standalone --local-addr=127.0.0.1) # a free port, so that several jobs fit on one machine
fi

# torchrun would give each process one thread, which is slow where there is no GPU
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
threads=$((cores / gpus > 1 ? cores / gpus : 1))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads} MKL_NUM_THREADS=${MKL_NUM_THREADS:-${OMP_NUM_THREADS:-$threads}}

# shellcheck disable=SC2086 # several options in one variable are meant to be split
exec ${PYTHON:-python} "$(dirname "$0")/torchrun.py" "${meet[@]}" --nproc-per-node="$gpus" ${TORCHRUN_ARGS:-} \
    "$script" "$@" --launcher pytorch

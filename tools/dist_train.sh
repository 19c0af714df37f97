#!/usr/bin/env bash
# Train on several GPUs, or in several processes on the CPU where there is no GPU:
#
#   tools/dist_train.sh CONFIG GPUS [ARGUMENTS OF tools/train.py]
#   tools/dist_train.sh configs/pab/r50_imagenet.py 8
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 tools/dist_train.sh configs/pab/r50_imagenet.py 8
#   TORCHRUN_ARGS='--max-restarts 3' tools/dist_train.sh configs/pab/r50_imagenet.py 8
#
# GPUS is the number of processes on each machine. On several machines, run it on each with its own NODE_RANK.
# TORCHRUN_ARGS are further options of torchrun; PYTHON is the interpreter. With --max-restarts, a job that lost a
# process goes on from its newest checkpoint by itself.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
export PAB_COMMAND="${PAB_COMMAND:-$(printf '%q ' "$0" "$@")}" # what to say when the run is interrupted
config=$1 gpus=$2
shift 2
exec "$(dirname "$0")/torchrun.sh" "$gpus" train.py "$config" "$@"

#!/usr/bin/env bash
# Evaluate a checkpoint in several processes, as tools/dist_train.sh trains:
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [ARGUMENTS OF tools/test.py]
#   tools/dist_test.sh configs/pab/r50_imagenet.py work_dirs/r50_imagenet/epoch_100.pth 8
#
# NNODES, NODE_RANK, MASTER_ADDR, PORT, TORCHRUN_ARGS and PYTHON are those of tools/dist_train.sh.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
config=$1 checkpoint=$2 gpus=$3
shift 3
exec "$(dirname "$0")/torchrun.sh" "$gpus" test.py "$config" "$checkpoint" "$@"

#!/usr/bin/env bash
# Train on a Slurm cluster, one process for each GPU:
#
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [ARGUMENTS OF tools/train.py]
#   GPUS=16 tools/slurm_train.sh gpu r50 configs/pab/r50_imagenet.py /data/r50 --resume
#
# GPUS (8) are needed in all, GPUS_PER_NODE (8, or GPUS if that is less) on each machine, with CPUS_PER_TASK (8) cores
# each; with ON_CPU=1 they are processes on CPUs instead, which meet by gloo. SRUN_ARGS are further options of srun;
# PYTHON is the interpreter; PORT is where the processes meet. With --resume a job that the cluster starts again goes on
# from its newest checkpoint, and starts anew if there is none.
set -euo pipefail
if [ $# -lt 4 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
# what to say when the run is interrupted: this command, with the variables that it was given
command=(env)
for variable in GPUS ON_CPU GPUS_PER_NODE CPUS_PER_TASK SRUN_ARGS PYTHON PORT; do
    [ -z "${!variable:-}" ] || command+=("$variable=${!variable}")
done
export PAB_COMMAND="${PAB_COMMAND:-$(printf '%q ' "${command[@]}" "$0" "$@")}"
partition=$1 name=$2 config=$3 work_dir=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
gres=(--gres=gpu:"$per_node")
[ "${ON_CPU:-0}" = 0 ] || gres=()
export MASTER_PORT=${PORT:-$((20000 + RANDOM % 20000))} # two jobs may share a machine

# shellcheck disable=SC2086 # several options in one variable are meant to be split
exec srun --partition="$partition" --job-name="$name" ${gres[@]+"${gres[@]}"} --ntasks="$gpus" \
    --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    ${PYTHON:-python} -u "$(dirname "$0")/train.py" "$config" --work-dir="$work_dir" --launcher=slurm "$@"

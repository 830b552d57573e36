#!/bin/bash
# Slurm, from the folder of this repository on a disk that all nodes see:
#   distill submit jobs/deepseek-v3-to-phi-4-mini.yaml --cluster clusters/slurm.sh        fills in name and number of nodes
#   sbatch --nodes=4 clusters/slurm.sh jobs/deepseek-v3-to-phi-4-mini.yaml [options of distill run]      the same by hand
# Preempted, or after a node was lost, Slurm queues it again, and the run resumes.
#SBATCH --job-name=distill
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=h200:8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
set -euo pipefail
job=${1:?usage: sbatch clusters/slurm.sh JOB [options of distill run]}
shift
root=${SLURM_SUBMIT_DIR:-$PWD}
runs=${RUNS:-$root/runs}
export PATH="$root/.venv/bin:$PATH" HF_HOME="${HF_HOME:-$root/.cache/huggingface}"
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | sha256sum | cut -d' ' -f1)
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300    # the nodes of a large job do not all start within Ray's 30 s
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
read -r ip _ < <(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address)
address=$ip:$((20000 + SLURM_JOB_ID % 20000))    # two jobs of one node do not meet
mkdir -p "$runs"
# Ray's own command ends with 0 where Ray does not start on the head: what counts is the code that distill left behind.
export CODE="$runs/.slurm-$SLURM_JOB_ID"
echo 1 > "$CODE"
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" --disable-usage-stats -- \
  bash -c '"$@" && echo 0 > "$CODE" || echo $? > "$CODE"' _ \
  distill run "$job" --runs "$runs" --cluster "$root/clusters/local.yaml" --fetch "$@" || true
code=$(< "$CODE")
rm -f "$CODE"
exit "$code"

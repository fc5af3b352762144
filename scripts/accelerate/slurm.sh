#!/usr/bin/env bash
# Two machines of eight GPUs under SLURM, put back into the queue before their time is up:
#
#     sbatch scripts/accelerate/slurm.sh scripts/run_mae.py RECIPE.yaml --output_dir runs/base …
#
# From the folder of this repository, which all machines see, as they see the data and runs/.
#SBATCH --job-name=mae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@900
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -u

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS=1

# A task is a process of the run. No launcher stands between, so that 15 minutes before the end USR1
# reaches each: they finish the update, save a checkpoint and end with 128 + 10. When one of them
# dies, the others end within a minute.
srun --wait=60 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec python "$@"
' task "$@" --resume_from_checkpoint last
status=$?

if [ "$status" -eq 138 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

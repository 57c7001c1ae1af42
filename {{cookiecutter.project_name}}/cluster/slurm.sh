#!/bin/bash
# Train on several machines under Slurm; what follows the name of this script goes to train.py:
#
#     sbatch cluster/slurm.sh -c config.json
#     sbatch --nodes=4 --time=2:00:00 cluster/slurm.sh -c config.json trainer.strategy=fsdp
#
# The job's run is in saved/<job>, or in $RUNS/<job>. Before its time is up it saves, goes back into the queue under the
# same number, and goes on from there. README.md, beside this script, says more.

#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
# Five minutes before that, this script gets SIGUSR1.
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# What your cluster needs: modules, the environment, the network that machines reach each other by.
# module load cuda
# . .venv/bin/activate
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0

processes=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
threads=$((${SLURM_CPUS_PER_TASK:-1} / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# Without it, a machine that takes the place of another waits for an address that nobody tells it.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# Seconds that a checkpoint may take when the job is stopped; torchrun would kill after 30.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RENDEZVOUS=$first:$((20000 + SLURM_JOB_ID % 20000)) PROCESSES=$processes

# One torchrun on each machine. The store by which they meet is on the first one.
# shellcheck disable=SC2016 # each machine fills in its own
agent='exec torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="$PROCESSES" --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$RENDEZVOUS" --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-conf="is_host=$((SLURM_NODEID == 0))" train.py "$@"'

# After a requeue the job goes on with its own run; if that was just finished, nothing is left to do.
runs=${RUNS:-saved}/$SLURM_JOB_ID
resume=()
for file in "$runs"/*/*/checkpoints/last.pth; do
    if [ -e "$file" ]; then resume=(-r "${file%/checkpoints/last.pth}"); fi
done

requeue=
trap 'requeue=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

# A machine that has stopped does not end the others, which may still be saving.
srun --kill-on-bad-exit=0 --wait=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    bash -c "$agent" torchrun "${resume[@]}" "$@" "trainer.save_dir=$runs" &
step=$!
wait "$step"
code=$?
if [ -n "$requeue" ]; then # the signal has ended that wait, and not the step
    wait "$step"
    code=$?
    [ "$code" -eq 0 ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

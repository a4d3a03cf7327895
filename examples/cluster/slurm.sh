#!/usr/bin/env bash
#SBATCH --job-name=llmctl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@300
set -euo pipefail

run=${RUN:-$PWD/runs/llama}
data=${DATA:-$PWD/data}
model=${MODEL:-llama:base}

if [ -e "$run/config.yaml" ]; then
  exec srun llmctl train --resume "$run"
fi
exec srun llmctl train --data "$data" --model "$model" --parallel fsdp --out "$run"

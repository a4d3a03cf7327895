#!/usr/bin/env bash
# A gate for CI: ends with 10, and so fails the job, where the translator's BLEU on held-out data is below the bound.
#   examples/ci/gate.sh RUN PREPARED [BOUND]
set -euo pipefail
run=${1:?usage: gate.sh RUN PREPARED [BOUND]}
data=${2:?usage: gate.sh RUN PREPARED [BOUND]}
bound=${3:-90}

llmctl eval --model "$run" --data "$data" --split test \
  --metric bleu --metric chrf --require "bleu>=$bound" \
  --junit scores.xml --markdown scores.md

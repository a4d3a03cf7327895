#!/usr/bin/env bash
# A gate for CI: ends with 10, and so fails the job, where the translator's BLEU on held-out data is below the bound.
#   examples/ci/gate.sh RUN PREPARED [BOUND [OPTIONS OF EVAL…]]
set -euo pipefail
usage='usage: gate.sh RUN PREPARED [BOUND [OPTIONS OF EVAL…]]'
run=${1:?$usage}
data=${2:?$usage}
bound=${3:-95}

llmctl eval --model "$run" --data "$data" --split test \
  --metric bleu --metric chrf --require "bleu>=$bound" \
  --junit scores.xml --markdown scores.md --force "${@:4}"

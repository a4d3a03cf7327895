#!/usr/bin/env bash
# Makes the files beside it with llmctl 0.1 (commit ad2b6c0). They are kept as they are: a later llmctl must read them.
#   LLMCTL_0_1='llmctl' ./make.sh        # a command that runs llmctl 0.1
# It works in the folder /tmp/llmctl-0.1, whose name stands in what 0.1 writes; a test that copies the files puts its own there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
llmctl=${LLMCTL_0_1:-llmctl}
place=/tmp/llmctl-0.1
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 NO_COLOR=1 GIT_CEILING_DIRECTORIES=/tmp
rm -rf "$place"
mkdir -p "$place"
cp -r "$here/inputs" "$here/recipe.yaml" "$place"
cd "$place"

$llmctl preprocess inputs/plain.txt --task lm --document paragraph --vocab-size 300 --set block_size=32 --workers 1 --out data/plain
$llmctl preprocess inputs/pairs.jsonl --task translation --vocab-size 300 --workers 1 --out data/pairs
$llmctl preprocess inputs/labels.jsonl --task classification --tokenizer word --vocab-size 300 --workers 1 --out data/labels

small=(--precision fp32 --batch-size 8 --seed 0 --set log_every=1 --set eval_every=5 --set save_every=5
  --set keep_checkpoints=1 --set model.dropout=0.1)
rest="--max-steps 60 --set optimizer.lr=0.01"
transformer="$rest --set model.layers=1 --set model.hidden=16 --set model.heads=2 --set model.inner=32 --set model.context=64"
declare -A train=(
  [decoder]="--data data/plain --model gpt2 $transformer"
  [encoder-decoder]="--data data/pairs --model lstm-seq2seq --max-steps 300 --set optimizer.lr=0.02 --set model.hidden=24 --set model.embedding=24"
  [encoder]="--data data/plain --model bert --set corruption=0.2 $transformer"
  [classifier]="--data data/labels --model lstm-classifier $rest --set model.hidden=8 --set model.embedding=8"
)
for name in decoder encoder-decoder encoder classifier; do
  $llmctl train ${train[$name]} "${small[@]}" --out "finished/$name"
  # The same run, asked to stop once it has a checkpoint of step 10.
  $llmctl train ${train[$name]} "${small[@]}" --out "stopped/$name" &
  until [ -e "stopped/$name/checkpoints/step-00000010/MANIFEST.json" ]; do sleep 0.002; done
  kill -TERM $!
  code=0; wait $! || code=$?
  [ "$code" = 75 ]
done

ask() { $llmctl generate --model "finished/$1" --temperature 0 --max-new-tokens 16 --output "finished/$1/generated.jsonl" "${@:2}"; }
ask decoder --prompt 'From fairest' --prompt 'Shall I compare' --prompt '明月'
ask encoder-decoder --prompt 'Sep 2028' --prompt 'May 16, 1967, 4:08 PM' --prompt '10 hours'
$llmctl generate --model finished/classifier --output finished/classifier/generated.jsonl \
  --prompt 'A very slow and aimless movie.' --prompt 'I love this phone.' --prompt 'The food was good.'
$llmctl eval --model finished/decoder --data data/plain --split train --out finished/decoder/scored
$llmctl eval --model finished/encoder-decoder --data data/pairs --split train --out finished/encoder-decoder/scored
$llmctl eval --model finished/classifier --data data/labels --split train --out finished/classifier/scored

# Pictures and the checkpoints of finished runs are not needed; the name of the machine is removed.
rm -r finished/*/checkpoints finished/*/plots
find . -name .lock -delete
sed -i -e 's|^\( *"host": \).*|\1"machine",|' -e 's|^\( *\)"/[^"]*/llmctl/__main__.py"|\1"llmctl"|' {finished,stopped}/*/run.json
rm -rf "$here"/{data,finished,stopped}
cp -r data finished stopped "$here"

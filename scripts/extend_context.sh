#!/usr/bin/env bash
# The demonstration of docs/results/context_extension.md, from nothing: a model of 1.9 M parameters reads English news
# in rows of 128 tokens, goes on with text that asks for what was said before, and is extended to 1,024 tokens in
# three ways. Each is measured by place and by needle, beside the model as it was.
#   bash scripts/extend_context.sh wikinews_en.jsonl.gz [STEPS]    # in the folder that is to hold data/ and runs/
set -euo pipefail
news=$(realpath "$1")
steps=${2:-100}
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/kernels:$here"
samosa() { nice -n 5 python -m samosa_jax "$@"; }

# Held-out documents are chosen by their text: those of the long news are held out of all news, too.
clean=(--config "$here/configs/data/wikinews.yaml" --val-documents=null --val-frac=0.05 --input "$news")
samosa train_tokenizer --input "$news" --vocab-size 1024 --out data/tokenizer
samosa prepare "${clean[@]}" --tokenizer data/tokenizer --out data/news
samosa prepare "${clean[@]}" --min-chars=3500 --tokenizer data/tokenizer --out data/long_news
python "$here/scripts/lookup_documents.py" --count 6000 --chars 280 --filler 0.3 --out data/short_lookups.jsonl
python "$here/scripts/lookup_documents.py" --count 800 --chars 2600 --filler 0.6 --out data/long_lookups.jsonl
for kind in short long; do
  samosa prepare --input "data/${kind}_lookups.jsonl" --val-frac=0.02 \
    --tokenizer data/tokenizer --out "data/${kind}_lookups"
done

samosa train --config="$here/configs/recipes/short_context.yaml" --data=data/news --log.display=plain
go_on() { samosa train --config="$here/configs/stages/continue.yaml" --log.display=plain "$@"; }
go_on --init_from=runs/short_context --name=recall --data=data/news=0.5,data/short_lookups=0.5 \
  --train.num_steps=300 --train.batch_tokens=2048 --train.device_batch_size=16 \
  --eval.every_steps=0 --eval.max_tokens=60000 --sample.every_steps=0

extend() {
  go_on --config="$here/configs/recipes/long_context.yaml" --init_from=runs/recall --train.num_steps="$steps" \
    --data=data/long_news=0.6,data/long_lookups=0.4 "$@"
}
extend --name=longer_rows
extend --name=larger_base --model.rope_base=92000
extend --name=yarn --model.rope_scaling_type=yarn
for run in recall longer_rows larger_base yarn; do
  samosa evaluate "runs/$run" --tasks=needle --context_len=1024
  samosa evaluate "runs/$run" --tasks=positions --limit=58 --context_len=1024 --bpb_data=data/long_news
done
python "$here/scripts/windowed_loss.py" runs/recall data/long_news --length=1024 --limit=58
python "$here/scripts/context_results.py" runs/recall runs/longer_rows runs/larger_base runs/yarn \
  --old_len=128 --picture=context_extension.png

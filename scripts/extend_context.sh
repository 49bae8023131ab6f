#!/usr/bin/env bash
# The demonstration of docs/results/context_extension.md, from nothing: a model of 1.9 M parameters reads English news
# and texts that ask for what was said before, in rows of 128 tokens, and is extended to 1,024 tokens in three ways.
# Each is measured by place and by needle, beside the model as it was.
#   bash scripts/extend_context.sh wikinews_en.jsonl.gz [STEPS]    # in the folder that is to hold data/ and runs/
set -euo pipefail
news=$(realpath "$1")
steps=${2:-150}
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/kernels:$here"
samosa() { nice -n 5 python -m samosa_jax "$@"; }

# Held-out documents are chosen by their text: those of the long news are held out of all news, too.
clean=(--config "$here/configs/data/wikinews.yaml" --val-documents=null --val-frac=0.05 --input "$news")
samosa train_tokenizer --input "$news" --vocab-size 1024 --out data/tokenizer
samosa prepare "${clean[@]}" --tokenizer data/tokenizer --out data/news
samosa prepare "${clean[@]}" --min-chars=3500 --tokenizer data/tokenizer --out data/long_news
lookups() { python "$here/scripts/lookup_documents.py" "$@"; }
lookups --count 40000 --chars 330 --filler 0.15 --repeats 0.7 --seed s --out data/short_lookups.jsonl
lookups --count 1500 --chars 2600 --filler 0.6 --repeats 0.5 --seed l --out data/long_lookups.jsonl
for kind in short long; do
  samosa prepare --input "data/${kind}_lookups.jsonl" --val-frac=0.02 \
    --tokenizer data/tokenizer --out "data/${kind}_lookups"
done

samosa train --config="$here/configs/recipes/short_context.yaml" --log.display=plain \
  --data=data/news=0.25,data/short_lookups=0.75
extend() {
  samosa train --config="$here/configs/stages/continue.yaml" --config="$here/configs/recipes/long_context.yaml" \
    --init_from=runs/short_context --log.display=plain --train.num_steps="$steps" \
    --data=data/long_news=0.4,data/long_lookups=0.6 "$@"
}
extend --name=longer_rows
extend --name=larger_base --model.rope_base=92000
extend --name=yarn --model.rope_scaling_type=yarn
for run in short_context longer_rows larger_base yarn; do
  samosa evaluate "runs/$run" --tasks=needle --context_len=1024
  samosa evaluate "runs/$run" --tasks=positions --limit=58 --context_len=1024 --bpb_data=data/long_news
done
python "$here/scripts/windowed_loss.py" runs/short_context data/long_news --length=1024 --limit=58
python "$here/scripts/context_results.py" runs/short_context runs/longer_rows runs/larger_base runs/yarn \
  --old_len=128 --picture=context_extension.png

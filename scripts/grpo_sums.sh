#!/usr/bin/env bash
# The demonstration of docs/results/grpo.md, from nothing: a model of a million parameters learns from 3,300
# conversations to answer sums with the calculator, then from rewards alone to do it reliably. No network.
#   bash scripts/grpo_sums.sh        # in the folder that is to hold data/ and runs/; about half an hour on two CPU cores
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/kernels:$here"
samosa() { python -m samosa_jax "$@"; }

samosa prepare synth sums --count 3300 --out data/sums.jsonl
# The tokenizer's text: what is said and called, of other sums.
samosa prepare synth sums --count 4000 --seed 1 --out data/sums_words.jsonl
python - > data/sums_words.txt <<'PYTHON'
import json
from samosa_jax.data.chat.conversation import parse_conversation
for line in open("data/sums_words.jsonl", encoding="utf-8"):
    for message in parse_conversation(json.loads(line)).messages:
        print(message.text or message.tool_call.text())
PYTHON
samosa train_tokenizer --input data/sums_words.txt --vocab-size 512 --out data/sums_tokenizer
samosa prepare chat data/sums.jsonl --tokenizer data/sums_tokenizer --out data/sums --val-documents 100
samosa train --config="$here/configs/recipes/sums.yaml" --data=data/sums --log.display=plain
for seed in 0 1 2; do
  samosa train --config="$here/configs/stages/grpo.yaml" --config="$here/configs/recipes/sums_grpo.yaml" \
    --init_from=runs/sums --name="sums_grpo_$seed" --seed="$seed" \
    --log.display=plain
done
python "$here/scripts/grpo_results.py" runs/sums_grpo_0 runs/sums_grpo_1 runs/sums_grpo_2 --picture grpo_arithmetic.png

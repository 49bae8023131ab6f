#!/usr/bin/env bash
# The whole pipeline on one node of eight H100s: tokenizer, base, midtraining, SFT, DPO, GRPO, evaluation, export, report.
#
#   bash scripts/speedrun.sh            # samosa_d24; `samosa plan --config=configs/samosa_d24.yaml` says what it takes
#   bash scripts/speedrun.sh --tiny     # the same lines, on a CPU, offline, in minutes: to see that all of it works
#
# Run it in the folder that is to hold data/, runs/ and exports/. Stopped at any moment, the same command goes on:
# what is finished is passed over, and training resumes where it stood. Of several hosts each runs the same line.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/kernels:$here${PYTHONPATH:+:$PYTHONPATH}"

case "${1:-}" in
  "")
    vocab_size=32768 tokenizer_bytes=2000000000
    text=("hf://karpathy/climbmix-400b-shuffle/*.parquet")
    prepare=(--config "$here/configs/data/climbmix.yaml")
    base=(--config="$here/configs/samosa_d24.yaml")
    # From the hub, with the rules that they are filtered by; and how often an epoch of each stage shows what.
    hub=("smoltalk pool" "mmlu_auxiliary_train pool --disable long_enough" "gsm8k pool" "openr1_math reasoning" "open_thoughts reasoning")
    synthetic=("joint_think_tool 40000" "temporal 10000" "arithmetic 20000" "spelling 100000" "identity 2000" "multi_turn 10000")
    mid="smoltalk=1 mmlu_auxiliary_train=1 gsm8k=2 spelling=1 identity=3"
    sft="joint_think_tool=6 openr1_math=1 open_thoughts=1 temporal=2 arithmetic=2 multi_turn=2 identity=3 smoltalk=0.2"
    held_out=1000 pairs=20000
    chat=(--train.batch_tokens=524288)
    grpo=(--rl.tasks=gsm8k=0.7,joint_think_tool=0.3 --train.num_steps=200 --train.batch_tokens=262144)
    tasks=bpb,core,mmlu,arc_easy,arc_challenge,gsm8k,humaneval,spelling,probes
    evaluate=(--tasks="$tasks" --gate="$here/configs/gates/sft.yaml")
    ;;
  --tiny)
    vocab_size=1024 tokenizer_bytes=1000000
    text=(embedded)
    prepare=(--input embedded --max-bytes 1000000)
    base=(
      --config="$here/configs/quickstart.yaml" --model.vocab_size=1024 --model.num_layers=2 --model.model_dim=64 --model.num_heads=2
      --model.num_kv_heads=2 --model.head_dim=32 --model.mlp_dim=256 --train.num_steps=20 --schedule.warmup_steps=2 --sample.every_steps=0
    )
    hub=()
    synthetic=("joint_think_tool 60" "arithmetic 60" "spelling 60" "identity 40")
    mid="joint_think_tool=1 arithmetic=1 spelling=1 identity=1"
    sft="joint_think_tool=1 arithmetic=1 identity=2"
    held_out=8 pairs=60
    chat=(--train.batch_tokens=2048 --train.device_batch_size=4 --schedule.warmup_steps=1 --sample.every_steps=0)
    # So young a model has nothing to learn from, which the first look at it would say.
    grpo=(
      --rl.tasks=arithmetic --train.num_steps=2 --train.batch_tokens=2048 --train.device_batch_size=4 --rl.prompts=2 --rl.samples=2
      --rl.max_tokens=24 --rl.held_out.prompts=2 --rl.ignore_preflight=true --rl.preflight_prompts=2
    )
    evaluate=(--tasks=bpb,arithmetic,spelling --limit=4)
    ;;
  *)
    echo "speedrun: found ${1@Q}; expected nothing, or --tiny" >&2
    exit 2
    ;;
esac

samosa() {
  printf '\n$ samosa %s\n' "$*"
  python -m samosa_jax "$@"
}

# once PATH COMMAND ...: passes over a command whose PATH is there already; each writes PATH last, and whole.
once() {
  local made=$1
  shift
  [[ -e $made ]] || samosa "$@"
}

# sources "NAME=WEIGHT ..." -> data/NAME=WEIGHT,...
sources() {
  local list=() one
  for one in $1; do list+=("data/$one"); done
  (IFS=, && echo "${list[*]}")
}

# Text, and a base model of it.
once data/tokenizer train_tokenizer --input "${text[@]}" --vocab-size "$vocab_size" --max-bytes "$tokenizer_bytes" --out data/tokenizer
samosa prepare "${prepare[@]}" --tokenizer data/tokenizer --out data/text
samosa train "${base[@]}" --data=data/text --name=base

# Conversations: other people's, filtered, and our own, with thoughts, tools and a name.
mkdir -p data/chat
for entry in "${hub[@]}"; do
  read -r name rules <<<"$entry"
  # shellcheck disable=SC2086 # the rules are words
  once "data/chat/$name.jsonl" prepare filter --config "$here/configs/data/chat/$name.yaml" --rules $rules --out "data/chat/$name.jsonl"
done
for entry in "${synthetic[@]}"; do
  read -r name count <<<"$entry"
  once "data/chat/$name.jsonl" prepare synth "$name" --count "$count" --out "data/chat/$name.jsonl"
done
for entry in "${hub[@]}" "${synthetic[@]}"; do
  name=${entry%% *}
  once "data/$name" prepare chat "data/chat/$name.jsonl" --tokenizer data/tokenizer --out "data/$name" --val-documents "$held_out" --on-bad-row skip
done
once data/chat/pairs.jsonl prepare synth preference --count "$pairs" --out data/chat/pairs.jsonl
once data/pairs prepare chat data/chat/pairs.jsonl --preferences --tokenizer data/tokenizer --out data/pairs --val-documents "$held_out"

# A model that talks, thinks and calculates; then preferences, then rewards.
samosa train --config="$here/configs/stages/midtrain.yaml" --init_from=runs/base --data="$(sources "$mid")" "${chat[@]}"
samosa train --config="$here/configs/stages/sft.yaml" --init_from=runs/mid --data="$(sources "$sft")" "${chat[@]}"
samosa train --config="$here/configs/stages/dpo.yaml" --init_from=runs/sft --data=data/pairs "${chat[@]}"
samosa train --config="$here/configs/stages/grpo.yaml" --init_from=runs/dpo "${grpo[@]}"

# What came of it.
samosa evaluate runs/grpo "${evaluate[@]}" --bpb_data=data/text --probes="$here/configs/probes" --persona="$here/configs/personas/samosachaat.yaml"
once exports/grpo export runs/grpo --out=exports/grpo
samosa report runs/grpo
printf '\nDone: exports/grpo is the model, runs/grpo/report.html what happened; `samosa chat runs/grpo` talks to it.\n'

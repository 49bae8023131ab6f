"""What PyTorch finds in an exported folder: the answers of whoever downloads it.

    python -m samosa_jax.convert.reading hf FOLDER WORK

reads the questions in the folder WORK and writes the answers there. It runs in a process of its own, which
knows the exported files alone and no checkpoint.
"""

import importlib
import importlib.util
import json
import os
import pickle
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from samosa_jax.convert.questions import (
    Answers,
    Questions,
    RenderedChat,
    load_questions,
    save_answers,
    tensor_digest,
)


def read_hf(folder: Path, questions: Questions) -> Answers:
    """By transformers; code in the folder is run if config.json names some."""
    import transformers

    has_code = any(folder.glob("modeling_*.py"))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=has_code, local_files_only=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chats = []
    for chat in questions.chats:
        messages, options = chat["messages"], {key: chat[key] for key in chat if key != "messages"}
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        chats.append(RenderedChat(str(text), list(ids)))
    return Answers(
        tensors=tensor_digests(model.state_dict()),
        logits=forward(model, questions),
        continuations=continue_greedily(model, questions),
        ids=[tokenizer(text, add_special_tokens=False)["input_ids"] for text in questions.texts],
        chats=chats,
    )


def read_torch(folder: Path, questions: Questions) -> Answers:
    """By chat.py in the folder: its network, its tokenizer, and what it gives its network to read."""
    spec = importlib.util.spec_from_file_location("exported_chat", folder / "chat.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder / 'chat.py'} is no module")
    program = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = program  # where its dataclasses look for their module
    spec.loader.exec_module(program)
    network, text = program.load(folder, torch.device("cpu"))
    with torch.no_grad():
        rows = [network(torch.tensor(row[None]).long())[0].numpy() for row in questions.rows]
        continuations = [
            _argmax_tokens(program, network, prompt, num_new)
            for prompt, num_new in zip(questions.prompts, questions.num_new, strict=True)
        ]
    return Answers(
        tensors=tensor_digests(network.state_dict()),
        logits=np.stack(rows),
        continuations=continuations,
        ids=[text.encode(one) for one in questions.texts],
        chats=[RenderedChat(None, _chat_prompt(program, network, text, chat)) for chat in questions.chats],
    )


def _argmax_tokens(program: ModuleType, network: Any, prompt: list[int], num_new: int) -> list[int]:
    """Greedy text with the program's cache, up to the token that config.json says ends an answer."""
    tokens, cache = list(prompt), program.KeyValueCache(len(prompt) + num_new)
    end = json.loads((Path(program.__file__ or "").parent / "config.json").read_text())["eos_token_id"]
    while len(tokens) < len(prompt) + num_new and end not in tokens[len(prompt) :]:
        tokens.append(int(network(torch.tensor([tokens]), cache=cache)[0, -1].argmax()))
    return tokens[len(prompt) :]


def _chat_prompt(program: ModuleType, network: Any, text: Any, chat: dict[str, Any]) -> list[int] | None:
    """The tokens of a prompt as chat.py writes them; None for what it cannot say (tools, thoughts)."""
    messages = chat["messages"]
    contents = [str(message["content"]) for message in messages]
    is_plain = [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2) + [
        "user"
    ]
    if not is_plain or "tools" in chat or "<think>" in "".join(contents):
        return None
    talk = program.Chat(network, text, options=program.parse_flags(["--temp=0", "--max_tokens=1"]))
    talk.turns = [
        program.Turn(question, answer=text.encode(answer))
        for question, answer in zip(contents[:-1:2], contents[1::2], strict=True)
    ]
    seen: list[list[int]] = []
    hook = network.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].tolist()))
    turn, num_forgotten = talk.ask(contents[-1])
    if num_forgotten:
        return None
    next(talk.answer(turn), None)
    hook.remove()
    return seen[0]


def read_gguf(folder: Path, questions: Questions) -> Answers:
    """By transformers, which takes the network from the file's metadata, and by sentencepiece."""
    import transformers
    from transformers.utils.chat_template_utils import render_jinja_template

    path = folder / "model.gguf"
    fields, tensors = _read_gguf_file(path)
    config = transformers.AutoConfig.from_pretrained(folder, gguf_file=path.name, local_files_only=True)
    # Which llama.cpp reads for every architecture, but transformers for Llama alone.
    config.head_dim = fields[f"{config.model_type}.attention.key_length"]
    config.rope_parameters |= _rope_scaling_of(fields, config.model_type)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, gguf_file=path.name, dtype=torch.float32, local_files_only=True
    )
    model.generation_config.eos_token_id = fields["tokenizer.ggml.eos_token_id"]
    model.generation_config.pad_token_id = fields["tokenizer.ggml.padding_token_id"]
    processor = _sentencepiece_of(fields)
    chats = []
    for chat in questions.chats:
        (text,), _ = render_jinja_template(
            conversations=[chat["messages"]],
            chat_template=fields["tokenizer.chat_template"],
            tools=chat.get("tools"),
            add_generation_prompt=chat["add_generation_prompt"],
        )
        chats.append(RenderedChat(text, None))
    return Answers(
        tensors=tensors,
        logits=forward(model, questions),
        continuations=continue_greedily(model, questions),
        # Of U+2581, with which sentencepiece and llama.cpp write a space, and of NUL, ours knows more.
        ids=[None if set(text) & {"\0", "\u2581"} else processor.encode(text) for text in questions.texts],
        chats=chats,
    )


def _rope_scaling_of(fields: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Which llama.cpp reads for every architecture, but transformers for gpt-oss alone."""
    start = f"{architecture}.rope.scaling"
    if f"{start}.type" not in fields:
        return {}
    scaling = {"rope_type": fields[f"{start}.type"], "factor": float(fields[f"{start}.factor"])}
    if scaling["rope_type"] == "yarn":
        scaling["original_max_position_embeddings"] = fields[f"{start}.original_context_length"]
    return scaling


def _read_gguf_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Metadata, and the digest of every tensor."""
    import gguf
    import ml_dtypes

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    digests = {}
    for tensor in reader.tensors:
        numbers = tensor.data
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            numbers = numbers.view(ml_dtypes.bfloat16)
        digests[tensor.name] = tensor_digest(numbers.astype(np.float32))
    return fields, digests


def _sentencepiece_of(fields: Mapping[str, Any]) -> Any:
    """sentencepiece with the vocabulary of the file, whose merging llama.cpp does in the same order."""
    import sentencepiece

    proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.unk_id = fields["tokenizer.ggml.unknown_token_id"]
    proto.trainer_spec.bos_id = proto.trainer_spec.eos_id = proto.trainer_spec.pad_id = -1
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = fields["tokenizer.ggml.add_space_prefix"]
    proto.normalizer_spec.remove_extra_whitespaces = fields["tokenizer.ggml.remove_extra_whitespaces"]
    proto.normalizer_spec.escape_whitespaces = True
    columns = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    for piece, score, kind in zip(*columns, strict=True):
        proto.pieces.add(piece=piece, score=score, type=kind)
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def forward(model: Any, questions: Questions) -> np.ndarray:
    """Logits of every row, (R, T, vocab_size)."""
    with torch.no_grad():
        rows = [model(torch.tensor(row[None]).long()).logits[0].numpy() for row in questions.rows]
    return np.stack(rows)


def continue_greedily(model: Any, questions: Questions) -> list[list[int]]:
    """What `generate` writes, with the cache and until the token that the folder says ends an answer."""
    continuations = []
    for prompt, num_new in zip(questions.prompts, questions.num_new, strict=True):
        tokens = torch.tensor([prompt])
        written = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            temperature=None,
            top_k=None,
            max_new_tokens=num_new,
        )
        continuations.append(written[0, len(prompt) :].tolist())
    return continuations


def tensor_digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: tensor_digest(tensor.float().numpy()) for name, tensor in tensors.items()}


def read_nanochat(folder: Path, questions: Questions) -> Answers:
    """By nanochat's equations, with the configuration that the files give, and by the pickled tiktoken."""
    from samosa_jax.convert.nanochat import open_nanochat
    from samosa_jax.convert.nanochat_forward import NanochatForward

    checkpoint = open_nanochat(next(folder.glob("model_*.pt")))
    compute = NanochatForward(checkpoint.config, checkpoint.tensors)
    encoding = pickle.loads((folder / "tokenizer.pkl").read_bytes())  # written by this program a moment ago
    end = encoding.encode_single_token("<|assistant_end|>")
    continuations = []
    for prompt, num_new in zip(questions.prompts, questions.num_new, strict=True):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + num_new and end not in tokens[len(prompt) :]:
            tokens.append(int(compute(np.array([tokens]))[0, -1].argmax()))
        continuations.append(tokens[len(prompt) :])
    return Answers(
        tensors=tensor_digests({name: torch.from_numpy(x) for name, x in checkpoint.tensors.items()}),
        logits=compute(questions.rows),
        continuations=continuations,
        ids=[encoding.encode_ordinary(text) for text in questions.texts],
        chats=[RenderedChat(None, None) for _ in questions.chats],
    )


READERS = {"hf": read_hf, "torch": read_torch, "gguf": read_gguf, "nanochat": read_nanochat}


def main(argv: list[str]) -> None:
    """Answers the questions in a folder."""
    name, folder, work = argv
    os.environ["HF_HUB_OFFLINE"] = "1"
    # What code in the folder becomes is kept by name in a cache, where older code of that name may be.
    os.environ["HF_MODULES_CACHE"] = str(Path(work) / "modules")
    with redirect_stdout(sys.stderr):
        save_answers(READERS[name](Path(folder), load_questions(Path(work))), Path(work))


if __name__ == "__main__":
    main(sys.argv[1:])

"""README.md of an export: what the model is, how to load it, how it was made and how good it is."""

from collections.abc import Iterator, Sequence

import yaml

from samosa_jax.config import to_dict
from samosa_jax.config.architecture import NoTwin
from samosa_jax.convert.exported import ExportedModel
from samosa_jax.convert.gguf_format import GGUF_FILE
from samosa_jax.convert.lineage import Stage

_HF_USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER"TRUST)
prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hello!"}], add_generation_prompt=True, return_tensors="pt"
)
answer = model.generate(**prompt)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
```"""
_USES = {
    "torch": "```sh\npip install torch safetensors tokenizers\npython chat.py\n```",
    "nanochat": (
        "Copy `model_000000.pt` and `meta_000000.json` to nanochat's `base_checkpoints/TAG/`, and "
        "`tokenizer.pkl` and `token_bytes.pt` to its `tokenizer/`."
    ),
    "gguf": f"```sh\nllama-cli -m {GGUF_FILE} --jinja\n```",
}


def model_card(model: ExportedModel, lineage: Sequence[Stage], *, format: str) -> str:
    """The text. `lineage` goes from the last stage to the first."""
    return "\n".join(_lines(model, lineage, format)) + "\n"


def _lines(model: ExportedModel, lineage: Sequence[Stage], format: str) -> Iterator[str]:
    config = model.network.config
    is_stock = not isinstance(model.twin, NoTwin)
    head = {
        "pipeline_tag": "text-generation",
        "tags": ["samosa-jax", model.known_as(format)],
    }
    if format == "hf":
        head = {"library_name": "transformers", **head}
    yield from ("---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "")
    yield from (f"# {model.name}", "")
    yield (
        f"{model.num_params:,} parameters ({model.known_as(format)}, {model.dtype}), {config.vocab_size:,} "
        f"tokens of vocabulary, {config.context_len:,} of context. Trained and exported by samosa_jax."
    )
    yield from ("", "## Use", "")
    if format == "hf":
        yield _HF_USE.replace("FOLDER", model.name).replace(
            "TRUST", "" if is_stock else ", trust_remote_code=True"
        )
        if isinstance(model.twin, NoTwin):
            yield from ("", f"It needs the code in this folder: {model.twin.option} is no stock option.")
    else:
        yield _USES[format]
    yield from ("", "`samosa.json` has the SHA-256 of every file and tensor, and what was verified.")
    yield from ("", "## Training", "")
    for stage in lineage:
        yield from _stage_lines(stage)
    if lineage and lineage[-1].config["init_from"]:
        yield from (f"It began with {lineage[-1].config['init_from']}, which was not there any more.", "")
    yield from ("## Configuration", "", "```yaml")
    yield yaml.safe_dump({"model": to_dict(config)}, sort_keys=False).strip()
    yield "```"
    if lineage:
        others = {key: value for key, value in lineage[0].config.items() if key != "model"}
        yield from ("", f"The last stage's other settings ({lineage[0].name}):", "", "```yaml")
        yield yaml.safe_dump(others, sort_keys=False, allow_unicode=True).strip()
        yield "```"


def _stage_lines(stage: Stage) -> Iterator[str]:
    if stage.imported_from:
        yield f"**imported** ({stage.name}): from {stage.imported_from}; what trained it is not known here"
    else:
        size = f"{stage.step:,} steps, {stage.tokens:,} tokens, {stage.hours:.2f} hours"
        yield f"**{stage.stage}** ({stage.name}): {size}"
    yield ""
    if stage.hardware:
        yield f"- hardware: {stage.hardware}"
    if stage.cost is not None:
        yield f"- cost: {stage.cost:.2f}"
    for path, fingerprint in stage.data.items():
        yield f"- data: {path} (SHA-256 {fingerprint})"
    for name, value in stage.evaluation.items():
        yield f"- evaluation: {name} {value:.4f}"
    yield f"- checkpoint: SHA-256 of its seal {stage.checkpoint_sha256}"
    yield ""

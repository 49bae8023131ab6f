"""`samosa NAME ...` is `python -m samosa_jax.NAME ...`. Imports a command only when it is called."""

import difflib
import importlib
import sys

COMMANDS = {
    "quickstart": "from nothing to a chat model of your own, on this machine",
    "train_tokenizer": "train a tokenizer on your text",
    "prepare": "turn text into token shards; verify and inspect them",
    "plan": "what a run will take: memory, time, money, disk and data",
    "train": "train a model, or go on with a run",
    "evaluate": "score a trained model on benchmarks, tasks and probes; hold it against a gate",
    "ablate": "train a baseline and its ablations, and say which changes matter",
    "scaling": "fit how loss falls with size, predict the next depth and check it",
    "lm_eval": "run tasks of the lm-evaluation-harness on a trained model",
    "report": "write what a run has done as one page, with its lineage",
    "compare": "compare two runs: which differences are real",
    "chat": "chat with a trained model on the terminal",
    "serve": "serve a trained model over HTTP: OpenAI's API, and a web page",
    "bench_decode": "measure how fast answers are written",
    "export": "write a trained model for transformers, PyTorch or llama.cpp, and verify it there",
    "import": "begin from a model of Hugging Face, nanochat or NovaMind",
    "doctor": "what is wrong with this machine or its software, and the mend",
    "push": "upload a run, a checkpoint or an export to the Hugging Face hub",
    "pull": "download one from the hub, and verify it",
}
MODULES = {"import": "import_weights", "lm_eval": "lm_eval_harness"}  # where the name is not the module's


def main() -> None:
    """Runs the command that argv names. Exits with 2 if there is none of that name."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help", "help"):
        print(overview())
        return
    command = name.replace("-", "_")
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        print(f"error: {name!r} is no command; {hint}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(f"samosa_jax.{MODULES.get(command, command)}")
    run = importlib.import_module("samosa_jax.command_line").run
    run(module.main, arguments)


def overview() -> str:
    """One line per command."""
    lines = [f"  samosa {name:<16} {note}" for name, note in COMMANDS.items()]
    return "\n".join(
        ["Train a chat language model from nothing.", "", *lines, "", "samosa NAME --help says more."]
    )


if __name__ == "__main__":
    main()

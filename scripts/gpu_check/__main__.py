"""Runs the parts of the check one after the other and writes what they found.

bash scripts/gpu_check.sh OUT_FOLDER [--quick] [--budget SECONDS] [--parts LIST] [--limit PART=SECONDS]
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from scripts.gpu_check.jobs import Job, Outcome, Runner
from scripts.gpu_check.records import read_bench
from scripts.gpu_check.report import markdown, one_line, wrong_kernels

PARTS = ("numerics", "bench", "train", "decode")  # after "environment", which always runs
LIMITS = {"environment": 90, "numerics": 150, "bench": 45, "train": 100, "decode": 60}  # seconds of a process
DECODE_RESERVE = 45  # seconds that training leaves for it
BENCH_ALWAYS = "--heads 16/4 --repeats 10 --max-seconds 3"
BENCH = {
    "H128 T2048 documents": f"--head-dims 128 --lengths 2048 --masks documents:800 {BENCH_ALWAYS}",
    "H128 T8192 causal": f"--head-dims 128 --lengths 8192 --masks causal {BENCH_ALWAYS}",
    "H64 T2048 documents": f"--head-dims 64 --lengths 2048 --masks documents:800 {BENCH_ALWAYS}",
    "H64 T8192 causal": f"--head-dims 64 --lengths 8192 --masks causal {BENCH_ALWAYS}",
    "H128 T8192 window": f"--head-dims 128 --lengths 8192 --masks window:1024 {BENCH_ALWAYS}",
}
QUICK_BENCH = {
    "H64 T128 causal": "--head-dims 64 --lengths 128 --masks causal --heads 2/1 --tokens 256 "
    "--passes forward --repeats 2 --max-seconds 1"
}
SMALLEST_MODEL = "124M"
LARGER_MODELS = ("1.1B", "350M")
TRAINABLE = ("hopper", "triton", "cudnn", "chunked")  # the reference would hold every score in memory
# Several processes at once, which need no fast matrix products, and so no search for them.
SHARED_DEVICE = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0",
}
WHOLE_DEVICE = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}  # so that what JAX may take is what must fit


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"gpu_check: {message}", file=sys.stderr)
        sys.exit(2)


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def part_list(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name!r} is no part; use some of {','.join(PARTS)}")
    return [part for part in PARTS if part in names]


def part_limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in LIMITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not PART=SECONDS with a part of {','.join(LIMITS)}")
    try:
        return name, seconds(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} in {text!r} is not a number of seconds") from error


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="gpu_check.sh", description="Checks and times kernels and training steps on one GPU."
    )
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="where gpu_check.json and .md go")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: a minute on two CPU cores")
    parser.add_argument(
        "--budget", type=seconds, default=540.0, metavar="SECONDS", help="for all parts together"
    )
    parser.add_argument("--parts", type=part_list, default=list(PARTS), metavar="LIST", help=",".join(PARTS))
    parser.add_argument("--limit", type=part_limit, action="append", default=[], metavar="PART=SECONDS")
    arguments = parser.parse_args(argv)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{arguments.out} cannot be made a folder ({error.strerror})")
    return arguments


class Check:
    """One run of the check: which processes, in which order, given what the earlier ones found."""

    def __init__(self, arguments: argparse.Namespace, runner: Runner) -> None:
        self.runner = runner
        self.environment: dict[str, Any] = {}
        self._quick: bool = arguments.quick
        self._parts: list[str] = arguments.parts
        self._limits = LIMITS | dict(arguments.limit)

    def run(self) -> None:
        (outcome,) = self.runner.run([self._job("environment", "environment", "environment")])
        if outcome.status != "ok":
            return  # without a device nothing else can run
        (self.environment,) = outcome.results
        for part in self._parts:
            getattr(self, f"_{part}")()

    def _job(self, part: str, name: str, module: str, *arguments: str, **environment: str) -> Job:
        quick = ("--quick",) if self._quick and part in ("numerics", "decode") else ()
        return Job(
            part=part,
            name=name,
            module=module if "." in module else f"scripts.gpu_check.{module}",
            arguments=(*arguments, *quick),
            limit=self._limits[part],
            environment=environment,
        )

    def _numerics(self) -> None:
        """Every implementation in a process of its own: one that breaks the device breaks no other."""
        jobs = [
            self._job("numerics", f"numerics {what}", "numerics", "--what", what, **SHARED_DEVICE)
            for what in (*self._able_kernels(), "cross_entropy", "newton_schulz", "decode")
        ]
        self.runner.run(jobs, at_once=max(2, (os.cpu_count() or 1) // 3))

    def _able_kernels(self) -> list[str]:
        """The implementations of attention that say they can run here; the reference is no kernel."""
        refusals: dict[str, str | None] = self.environment["attention"]
        return [name for name, refusal in refusals.items() if refusal is None and name != "reference"]

    def _bench(self) -> None:
        """A process a shape: the benchmark writes at its end, and a time limit must not take everything."""
        cases = QUICK_BENCH if self._quick else BENCH
        jobs = [
            self._job("bench", f"bench {name}", "samosa_kernels.bench", "--name", "bench", *flags.split())
            for name, flags in cases.items()
        ]
        impls = ("--impls", ",".join(self._able_kernels()))
        self.runner.run(
            [
                dataclasses.replace(
                    job, arguments=(*job.arguments, *impls), read=read_bench, environment=WHOLE_DEVICE
                )
                for job in jobs
            ]
        )

    def _train(self) -> None:
        if self._quick:
            self._train_all([("tiny", self.environment["training"]["tiny"]["auto"])])
            return
        smallest = self._trainable(SMALLEST_MODEL)
        if not smallest:
            message = "no implementation of attention passed its numerics"
            self.runner.add(
                Outcome(part="train", name="train", status="not run", seconds=0.0, message=message)
            )
            return
        able = {model: self._trainable(model) for model in (SMALLEST_MODEL, *LARGER_MODELS)}
        # First what a user gets, at every size; then what else there is, at the size that is quickest.
        self._train_all([(model, names[0]) for model, names in able.items() if names])
        self._train_all([(SMALLEST_MODEL, name) for name in smallest[1:]])
        best = self._fastest(SMALLEST_MODEL)
        self._train_all([(model, best) for model in LARGER_MODELS if best in able[model][1:]])

    def _fastest(self, model: str) -> str:
        """The implementation of attention with which the model trained fastest; "" if none did."""
        results = [result for one in self.runner.outcomes if one.part == "train" for result in one.results]
        speeds = {
            found["attention"]: found["tokens_per_second"] for found in results if found["model"] == model
        }
        return max(speeds, key=lambda name: speeds[name], default="")

    def _train_all(self, cases: list[tuple[str, str]]) -> None:
        jobs = [
            self._job(
                "train",
                f"train {model} {attention}",
                "train_step",
                *("--model", model, "--attention", attention),
                **WHOLE_DEVICE,
            )
            for model, attention in cases
        ]
        reserve = DECODE_RESERVE if "decode" in self._parts and not self._quick else 0
        self.runner.run(jobs, reserve=reserve)

    def _trainable(self, model: str) -> list[str]:
        """Implementations that can train the model and passed their numerics, the one of "auto" first."""
        choices = self.environment["training"][model]
        names = dict.fromkeys((choices["auto"], *TRAINABLE))
        return [name for name in names if name in choices["able"] and self._passed(name)]

    def _passed(self, attention: str) -> bool:
        """Some shapes right and none wrong; one that does not compile may be another than training's."""
        if "numerics" not in self._parts or attention == "reference":
            return True
        for outcome in self.runner.outcomes:
            if outcome.name == f"numerics {attention}":
                verdicts = {result["verdict"] for result in outcome.results}
                return outcome.status == "ok" and "pass" in verdicts and "FAIL" not in verdicts
        return False

    def _decode(self) -> None:
        self.runner.run([self._job("decode", "decode", "decode", **WHOLE_DEVICE)])


def main(argv: list[str] | None = None) -> int:
    arguments = parse(sys.argv[1:] if argv is None else argv)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:

        def tell(outcome: Outcome) -> None:
            print(one_line(outcome), flush=True)
            write()

        def write() -> None:
            """After every part, so that whoever is stopped early has all that was found."""
            result = {
                "ok": bool(runner.outcomes)
                and all(one.status in ("ok", "absent") for one in runner.outcomes),
                "wrong_kernels": wrong_kernels(runner.outcomes),
                "quick": arguments.quick,
                "budget_seconds": arguments.budget,
                "seconds": time.monotonic() - begun,
                "environment": check.environment,
                "parts": [outcome.as_dict() for outcome in runner.outcomes],
            }
            (arguments.out / "gpu_check.json").write_text(
                json.dumps(result, indent=1) + "\n", encoding="utf-8"
            )
            (arguments.out / "gpu_check.md").write_text(markdown(result), encoding="utf-8")
            (arguments.out / "gpu_check.log").write_text(runner.logs(), encoding="utf-8")

        runner = Runner(Path(folder), deadline=begun + arguments.budget, tell=tell)
        check = Check(arguments, runner)
        check.run()
        write()
    if wrong := wrong_kernels(runner.outcomes):
        print(f"WRONG NUMBERS from {', '.join(wrong)}")
    print(f"{time.monotonic() - begun:.0f} s in all; {arguments.out / 'gpu_check.md'} has the tables")
    return 0 if all(one.status in ("ok", "absent") for one in runner.outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

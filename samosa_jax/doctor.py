"""Looks for what is wrong with this machine or its software, and says how to mend it.

    samosa doctor
    samosa doctor --seconds=1    # multiplies for a second, not for ten

Ends with 1 if something is wrong, so that a script may stop there before the money is spent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from samosa_jax.checkup.finding import Finding, State, fine, note
from samosa_jax.checkup.software import check_extras, check_software, installed_versions
from samosa_jax.command_line import parse_dataclass, run
from samosa_jax.errors import UserError
from samosa_jax.reporting.document import Cell, Section, Table, Tone
from samosa_jax.reporting.terminal_page import print_sections

WRONG_EXIT = 1
TONES: dict[State, Tone] = {"fine": "good", "note": "muted", "wrong": "bad"}


@dataclass(frozen=True, kw_only=True)
class DoctorFlags:
    """The flags of `doctor`."""

    seconds: float = 10.0  # of multiplying; 0: no measurement


def main(argv: list[str]) -> None:
    """Prints what was found. Raises SystemExit with 1 if something is wrong."""
    flags = parse_dataclass(argv, DoctorFlags, description="Check this machine and its software.")
    if flags.seconds < 0:
        raise UserError(f"--seconds is {flags.seconds}; it must be at least 0")
    findings = list(examine(seconds=flags.seconds))
    rows = [
        (
            Cell(finding.state, tone=TONES[finding.state]),
            finding.subject,
            finding.found,
            finding.mend,
        )
        for finding in findings
    ]
    header = ("", "looked at", "found", "mend")
    print_sections(
        [
            Section(
                name="checkup",
                title="samosa doctor",
                blocks=[Table(caption="", header=header, rows=rows, numeric=False)],
            )
        ]
    )
    faults = [finding for finding in findings if finding.state == "wrong"]
    if faults:
        print(f"\n{len(faults)} of {len(findings)} are wrong: {', '.join(fault.subject for fault in faults)}")
        raise SystemExit(WRONG_EXIT)
    print(f"\nnothing is wrong ({len(findings)} checks)")


def examine(*, seconds: float) -> Iterator[Finding]:
    """Everything, in the order in which one thing needs the other: software that does not fit ends it."""
    versions = installed_versions()
    software = list(check_software(versions))
    yield from software
    if all(finding.state != "wrong" for finding in software):
        yield from examine_machine(versions, seconds=seconds)
    yield from check_extras()


def examine_machine(versions: Mapping[str, str], *, seconds: float) -> Iterator[Finding]:
    """What needs JAX to look at; it is imported here, because a broken one must not stop the checkup."""
    from samosa_jax.gpu_settings import use_gpu_settings

    use_gpu_settings()  # before JAX is asked for a device
    from samosa_jax.checkup import machine
    from samosa_jax.checkup.speed import check_speed
    from samosa_jax.compilation_cache import cache_folder
    from samosa_jax.training.environment import available_memory_bytes, device_memory_bytes

    faults = list(machine.check_backend())
    if faults:
        yield from faults
        return
    plugins = {name: version for name, version in versions.items() if name.startswith("jax-cuda")}
    yield from machine.check_devices(machine.driver_version(), plugins)
    yield from machine.check_memory(available_memory_bytes(), device_memory_bytes())
    yield machine.check_processors()
    yield machine.check_disk(Path())
    yield machine.check_cache(cache_folder())
    yield check_compiling()
    yield from check_sandbox()
    if seconds:
        yield from check_speed(seconds=seconds)


def check_compiling() -> Finding:
    """Whether `samosa plan` can ask the compiler."""
    from samosa_kernels import aot

    reason = aot.why_not()
    if reason is None:
        return fine("compiling for GPUs", "samosa plan asks the compiler")
    missing, _, mend = reason.partition("; ")
    return note("compiling for GPUs", f"samosa plan uses its closed model: {missing}", mend)


def check_sandbox() -> Iterator[Finding]:
    """What holds programs that a model writes; nothing runs any unless it is told to."""
    from samosa_jax.rollout.tools.sandbox import protections

    try:
        found = protections()
    except (OSError, RuntimeError) as error:
        yield note("sandbox", f"cannot be tried: {error}", "do not let a model run programs here")
        return
    open_ways = [protection.name for protection in found if not protection.is_active]
    if open_ways:
        yield note(
            "sandbox",
            f"does not stop: {', '.join(open_ways)}",
            "run programs that a model writes in a virtual machine of their own",
        )
    else:
        yield fine("sandbox", f"all {len(found)} protections hold")


if __name__ == "__main__":
    run(main)

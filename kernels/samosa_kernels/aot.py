"""Compiling for a GPU that is not there, and reading what its assembler says of every kernel.

XLA compiles for a described device (targets/*.txtpb) as well as for a present one, down to machine code: it
needs the CUDA plugin of jax and NVIDIA's assembler, no driver. So a machine without a GPU can tell the memory
of a program, its collectives, and whether a kernel keeps its values in registers; not how fast it is.

    mesh = topology("h100")
    compilation = compile_for(function, jax.ShapeDtypeStruct((8, 128), "bfloat16"), mesh=mesh)
    assert not any(kernel.spill_store_bytes for kernel in compilation.ptxas)
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec


class _Toolchain(NamedTuple):
    """What the `aot` extra installs for one major version of CUDA."""

    plugins: tuple[str, ...]  # of exactly the version of jax
    nvidia: tuple[str, ...]  # of any version of that major version of CUDA
    runtime_version: tuple[int, int]


_TOOLCHAINS = {
    12: _Toolchain(
        plugins=("jax-cuda12-plugin", "jax-cuda12-pjrt"),
        nvidia=("nvidia-cuda-nvcc-cu12", "nvidia-cuda-runtime-cu12", "nvidia-nvjitlink-cu12"),
        runtime_version=(12, 9),
    ),
    13: _Toolchain(
        plugins=("jax-cuda13-plugin", "jax-cuda13-pjrt"),
        nvidia=("nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-nvjitlink", "nvidia-nvvm"),
        runtime_version=(13, 0),
    ),
}


class PtxasReport(NamedTuple):
    """What the assembler says of one kernel, and the shared memory it is launched with."""

    name: str
    registers: int  # of a thread; of a kernel that redistributes registers among warpgroups: before it does
    spill_store_bytes: int
    spill_load_bytes: int
    shared_bytes: int  # static and dynamic
    warnings: tuple[str, ...]  # lines with a code, as C7510..C7514: wgmma products run one after the other

    @property
    def serialized(self) -> bool:
        """Whether wgmma products wait for each other, at a fraction of the rate."""
        return any("wgmma" in warning and "serialized" in warning for warning in self.warnings)


class Compilation(NamedTuple):
    """A program that is compiled, not loaded."""

    executable: jax.stages.Compiled
    peak_bytes: int  # of device memory while it runs, arguments and results included, of one device
    ptxas: tuple[PtxasReport, ...]  # of every kernel in it: Pallas's and those that XLA made


def why_not() -> str | None:
    """None where this machine can compile for a GPU; else one line: what is missing and what installs it."""
    toolchain = _TOOLCHAINS[_cuda_major()]
    complaints = []
    for package in (*toolchain.plugins, *toolchain.nvidia):
        version = _version(package)
        if version is None:
            complaints.append(f"{package} is missing")
        elif package in toolchain.plugins and version != jax.__version__:
            complaints.append(f"{package} is {version} beside jax {jax.__version__}")
    if not complaints:
        return None if _find_ptxas() else "the packages of the aot extra are installed without a ptxas"
    return (
        f"cannot compile for a GPU: {', '.join(complaints)}; "
        f"pip install 'jax[cuda{_cuda_major()}-local]=={jax.__version__}' {' '.join(toolchain.nvidia)}"
    )


def topology(device: str = "h100", num_devices: int = 1, *, axis_name: str = "data") -> jax.sharding.Mesh:
    """A mesh of GPUs of one host that can be compiled for and hold no arrays.

    `device` is one of those described in targets/: "a100", "h100", "h200" or "rtx4090".

    ValueError on any other device, RuntimeError with `why_not` where the packages are missing.
    """
    targets = resources.files("samosa_kernels") / "targets"
    known = sorted(file.name.split(".")[0] for file in targets.iterdir() if file.name.endswith(".txtpb"))
    if device not in known:
        raise ValueError(f"no description of device {device!r}; there are {', '.join(known)}")
    reason = why_not()
    if reason is not None:
        raise RuntimeError(reason)
    major, minor = _TOOLCHAINS[_cuda_major()].runtime_version
    target = (targets / f"{device}.txtpb").read_text(encoding="utf-8")
    described = topologies.get_topology_desc(
        platform="cuda",
        target_config=f"{target}runtime_version {{ major: {major} minor: {minor} patch: 0 }}\n",
        topology=f"1x1x{num_devices}",  # slices, hosts, devices of a host
    )
    return topologies.make_mesh(described, (num_devices,), (axis_name,))


def compile_for(function: Callable[..., Any], *arguments: Any, mesh: jax.sharding.Mesh) -> Compilation:
    """Compiles function(*arguments) for the devices of `mesh`, which need not exist.

    Arguments are pytrees of jax.ShapeDtypeStruct or arrays, of which only shapes count; without a sharding of
    this mesh they are replicated. A function that is jitted already keeps its options (donation, shardings).
    Raises what the compiler raises, as on more shared memory than there is, and RuntimeError if a kernel was
    compiled without a report, which would read as one without fault.
    """
    replicated = NamedSharding(mesh, PartitionSpec())

    def described(argument: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(argument, "sharding", None)
        placed = isinstance(sharding, NamedSharding) and sharding.mesh == mesh
        return jax.ShapeDtypeStruct(
            argument.shape, argument.dtype, sharding=sharding if placed else replicated
        )

    jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
        lowered = jitted.trace(*jax.tree.map(described, arguments)).lower(lowering_platforms=("cuda",))
        with without_persistent_cache(), _ptxas_output_of_mosaic() as output:
            # "ptx" names no pass, so that nothing but what is read here is written.
            executable = lowered.compile({"xla_dump_to": folder, "xla_dump_emitter_re": "ptx"})
        reports = (*_mosaic_reports(lowered, output), *_xla_reports(Path(folder)))
    memory = executable.memory_analysis()
    if memory is None:
        raise RuntimeError("the compiler gave no memory analysis")
    return Compilation(executable=executable, peak_bytes=memory.peak_memory_in_bytes, ptxas=reports)


def _cuda_major() -> int:
    """That of the plugin that is here; else that of the newest jax for this Python."""
    here = [major for major in _TOOLCHAINS if _version(f"jax-cuda{major}-plugin")]
    return max(here) if here else 12 if sys.version_info < (3, 12) else 13


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _find_ptxas() -> Path | None:
    """The assembler that the compiler uses too: that of NVIDIA's Python packages."""
    spec = importlib.util.find_spec("nvidia")
    places = ("cuda_nvcc",) if _cuda_major() == 12 else ("cu13",)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = (Path(folder) / place / "bin" / "ptxas" for folder in folders for place in places)
    return next((path for path in found if path.is_file()), None)


@contextlib.contextmanager
def without_persistent_cache() -> Iterator[None]:
    """For what only the compiler says: a program read from the cache is not assembled, so not reported on,
    and one for devices that are not here cannot be read from it at all.
    """
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # which remembers whether it is enabled
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


# Mosaic GPU keeps what it compiled as long as the process lives, under a hash of the kernel: so do we.
_MOSAIC_REPORTS: dict[bytes, PtxasReport] = {}


@contextlib.contextmanager
def _ptxas_output_of_mosaic() -> Iterator[list[str]]:
    """Fills the list with what ptxas says of Mosaic GPU's kernels, which is written to standard output.

    From C++, so the file descriptor is led elsewhere. What else was written is passed on afterwards.
    """
    lines: list[str] = []
    c_library = ctypes.CDLL(None)
    before = os.environ.get("MOSAIC_GPU_DUMP_PTXAS")
    os.environ["MOSAIC_GPU_DUMP_PTXAS"] = "1"
    sys.stdout.flush()
    c_library.fflush(None)
    standard_output = os.dup(1)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 1)
        try:
            yield lines
        finally:
            sys.stdout.flush()
            c_library.fflush(None)
            os.dup2(standard_output, 1)
            os.close(standard_output)
            if before is None:
                del os.environ["MOSAIC_GPU_DUMP_PTXAS"]
            else:
                os.environ["MOSAIC_GPU_DUMP_PTXAS"] = before
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                is_report = line.startswith("ptxas ") or "bytes stack frame" in line or not line.strip()
                lines.append(line) if is_report else print(line)


class _MosaicKernel(NamedTuple):
    hash: bytes
    name: str
    shared_bytes: int


def _mosaic_reports(lowered: jax.stages.Lowered, output: list[str]) -> list[PtxasReport]:
    kernels = {kernel.hash: kernel for kernel in _mosaic_kernels(lowered)}
    spoken = _parse_ptxas("\n".join(output))
    for kernel in kernels.values():
        if kernel.hash in _MOSAIC_REPORTS:
            continue
        entry = f"{kernel.name}_mosaic_gpu_kernel"
        report = next((report for report in spoken if report.name == entry), None)
        if report is None:
            raise RuntimeError(
                f"ptxas said nothing of {kernel.name}: this process compiled it before, elsewhere"
            )
        spoken.remove(report)
        _MOSAIC_REPORTS[kernel.hash] = report._replace(
            name=kernel.name, shared_bytes=report.shared_bytes + kernel.shared_bytes
        )
    return [_MOSAIC_REPORTS[kernel_hash] for kernel_hash in kernels]


def _mosaic_kernels(lowered: jax.stages.Lowered) -> Iterator[_MosaicKernel]:
    """The calls of Mosaic GPU kernels: each carries its kernel as a module, which knows its launch."""
    module: Any = lowered.compiler_ir("stablehlo")
    module.context.allow_unregistered_dialects = True  # a kernel is written in a dialect made for storing
    for operation in _operations(module.operation):
        if operation.name != "stablehlo.custom_call":
            continue
        if not str(operation.attributes["call_target_name"]).startswith('"mosaic_gpu'):
            continue
        config = operation.attributes["mhlo.backend_config"]
        kernel = type(module).parse(config["module"].value_bytes, module.context)
        # The operands of a launch end with the bytes of dynamic shared memory.
        shared = [
            launch.operands[-1].owner.attributes["value"].value
            for launch in _operations(kernel.operation)
            if launch.name.endswith("gpu.launch")
        ]
        name = str(kernel.operation.attributes["sym_name"]).strip('"')
        yield _MosaicKernel(config["kernel_hash"].value_bytes, name, sum(shared))


def _operations(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _operations(inner.operation)


def _xla_reports(folder: Path) -> list[PtxasReport]:
    """Of the kernels that XLA compiled, Triton's among them: it wrote their assembler text here."""
    launches = "\n".join(path.read_text() for path in folder.glob("*.thunk_sequence.txt"))
    dynamic = {
        name: int(size) for name, size in re.findall(r"(\S+) grid: .*shared_memory: (\d+) bytes", launches)
    }
    ptxas = _find_ptxas()
    assert ptxas is not None  # why_not
    reports = []
    for path in sorted(folder.glob("*.ptx")):
        if not path.stat().st_size:
            continue
        text = path.read_text()
        target = re.search(r"^\.target (\w+)", text, re.MULTILINE)
        if target is None:
            raise RuntimeError(f"{path.name} names no architecture that it is for")
        command = [str(ptxas), "-v", f"-arch={target[1]}", "-o", f"{path}.cubin", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ptxas failed on {path.name}: {done.stderr.strip()}")
        for report in _parse_ptxas(done.stderr):
            # The text declares Triton's shared memory without a size: the launch has it.
            is_open = re.search(r"\.extern \.shared [^;]*\[\];", text) is not None
            if is_open and report.name not in dynamic:
                raise RuntimeError(f"the shared memory of {report.name} is in no launch of the program")
            shared = dynamic[report.name] if is_open else report.shared_bytes
            reports.append(report._replace(shared_bytes=shared))
    return reports


def _parse_ptxas(output: str) -> list[PtxasReport]:
    """The reports of ptxas -v, in its order. Its warnings name the kernel and come before them."""
    warnings = re.findall(r"^ptxas \w+\s*: (\(C\d+\).*)$", output, re.MULTILINE)
    reports = []
    for section in output.split("Compiling entry function ")[1:]:
        name = section.split("'")[1]
        own = tuple(warning for warning in warnings if f"'{name}'" in warning)
        numbers = {
            pattern: re.search(rf"(\d+) {pattern}", section)
            for pattern in ("bytes spill stores", "bytes spill loads", "registers", "bytes smem")
        }
        stores, loads, registers, shared = (int(found[1]) if found else None for found in numbers.values())
        if stores is None or loads is None or registers is None:
            raise RuntimeError(f"ptxas output that is not understood: {section}")
        reports.append(PtxasReport(name, registers, stores, loads, shared or 0, own))
    return reports

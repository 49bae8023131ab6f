"""The sandbox: programs run as they should, and cannot do what `protections` says they cannot."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samosa_jax.rollout.tools.registry import Registry, ToolContext
from samosa_jax.rollout.tools.sandbox import (
    DEFAULT_LIMITS,
    Protection,
    PythonTool,
    SandboxLimits,
    protections,
    run_python,
)
from samosa_jax.rollout.tools.sandbox_child import ABSENT, REFUSED, REFUSED_WITH, SOCKETPAIR

PATIENT = SandboxLimits(wall_seconds=60.0, cpu_seconds=30)


@pytest.fixture(scope="module")
def holds() -> dict[str, Protection]:
    return {protection.name: protection for protection in protections()}


def need(holds: dict[str, Protection], name: str) -> None:
    """Skips aloud where this kernel lacks a protection."""
    if not holds[name].is_active:
        pytest.skip(f"this kernel does not give the protection {name!r}: {holds[name].detail}")


def test_a_program_runs_with_input_output_and_an_exit_status():
    code = "import sys; print(input()[::-1]); print('ünd', file=sys.stderr); sys.exit(3)"
    result = run_python(code, stdin="héllo\n", limits=PATIENT)
    assert (result.exit_status, result.stdout, result.stderr) == (3, "olléh\n", "ünd\n")
    assert (result.is_truncated, result.timed_out, result.killed_by) == (False, False, None)


def test_a_program_is_main_in_an_empty_folder_and_an_empty_environment():
    code = """
import dataclasses, os, sys, typing
@dataclasses.dataclass
class A:
    x: typing.List[int]
print(__name__, A.__module__, os.listdir("."), dict(os.environ), sys.argv, sys.stdin.read() == "")
open("file", "w").write("kept while it runs")
print(open("file").read())
"""
    result = run_python(code, limits=PATIENT)
    assert result.stderr == ""
    assert result.stdout == "__main__ __main__ [] {} ['main.py'] True\nkept while it runs\n"


def test_nothing_is_left_of_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os; os.makedirs('a/b'); open('a/b/c', 'w'); os.chmod('a/b', 0); print(os.getcwd())"
    result = run_python(code, limits=PATIENT)
    assert Path(result.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "last_line"),
    [
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("x = '\ud800'", "surrogates not allowed"),
        ("def f(): f()\nf()", "maximum recursion depth exceeded"),
        ("import numpy", "No module named 'numpy'"),
        ("import samosa_jax", "No module named 'samosa_jax'"),
    ],
)
def test_tracebacks_are_the_program_s_own(code: str, last_line: str):
    result = run_python(code, limits=PATIENT)
    assert result.exit_status == 1
    assert result.stderr.rstrip().endswith(last_line)
    assert "sandbox_child" not in result.stderr


def test_a_traceback_shows_lines():
    result = run_python("def f():\n    return 1 / 0  # here\nf()", limits=PATIENT)
    assert 'File "main.py", line 2, in f\n    return 1 / 0  # here' in result.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import hashlib; print(hashlib.md5(b'').hexdigest()[:2])",
        "import asyncio\nasync def f(): await asyncio.sleep(0.01); print('d4')\nasyncio.run(f())",
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "with Pool(4) as pool: print(*pool.map(str.lower, ['D', '4']), sep='')",
        "import tempfile\nwith tempfile.TemporaryFile('w+') as f: f.write('d4'); f.seek(0); print(f.read())",
        "import sqlite3; print(*sqlite3.connect(':memory:').execute(\"select 'd4'\").fetchone())",
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *a: print('d4'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(0.1)",
    ],
)
def test_the_standard_library_works(code: str):
    result = run_python(code, limits=PATIENT)
    assert (result.stdout, result.stderr, result.exit_status) == ("d4\n", "", 0)


def test_output_is_kept_up_to_a_limit():
    result = run_python("print('ab' * 10**6)", limits=replace(PATIENT, output_bytes=5))
    assert (result.stdout, result.is_truncated, result.exit_status) == ("ababa", True, 0)


def test_a_program_that_waits_is_stopped():
    start = time.monotonic()
    code = "import time; print('before', flush=True); time.sleep(60)"
    result = run_python(code, limits=SandboxLimits(wall_seconds=1.0))
    assert time.monotonic() - start < 30
    assert (result.timed_out, result.killed_by, result.exit_status) == (True, "wall time", None)
    assert result.stdout == "before\n"


def test_a_program_may_run_for_ever():
    assert run_python("print(1)", limits=replace(PATIENT, wall_seconds=float("inf"))).stdout == "1\n"


def test_signals_are_named():
    result = run_python("import ctypes; ctypes.string_at(0)", limits=PATIENT)
    assert (result.exit_status, result.killed_by) == (None, "SIGSEGV")


@pytest.mark.parametrize("field", ["wall_seconds", "cpu_seconds", "memory_bytes", "output_bytes", "threads"])
def test_limits_are_above_zero(field: str):
    with pytest.raises(ValueError, match=f"{field} is 0; expected more than zero"):
        SandboxLimits(**{field: 0})


@pytest.mark.skipif(sys.platform != "linux", reason="the protections are Linux's")
def test_what_linux_always_gives_is_active(holds: dict[str, Protection]):
    always = {"memory", "size of a file", "open files", "environment", "cpu time", "wall time"}
    assert {name for name in always if not holds[name].is_active} == set()
    assert len(holds) == 18
    for protection in holds.values():
        assert protection.detail.startswith(("refused", "ended by", "NOT PROTECTED"))


def test_a_fork_bomb_is_contained(holds: dict[str, Protection]):
    need(holds, "new processes")
    result = run_python("import os\nwhile True:\n    os.fork()", limits=PATIENT)
    assert result.exit_status == 1
    assert "Error" in result.stderr


@pytest.mark.parametrize(
    ("column", "header"), [(0, "x86_64-linux-gnu/asm/unistd_64.h"), (1, "asm-generic/unistd.h")]
)
def test_the_numbers_of_system_calls_are_the_kernel_s(column: int, header: str):
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip(f"the kernel's headers are not installed: no {path}")
    text = path.read_text()
    numbers = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    partly = {name: columns for name, (columns, _, _) in REFUSED_WITH.items()}
    for name, columns in {**REFUSED, **partly, "socketpair": SOCKETPAIR}.items():
        assert numbers.get(name, ABSENT) == columns[column], name


def test_memory_of_many_small_pieces_is_bounded(holds: dict[str, Protection]):
    need(holds, "memory")
    code = "import resource\npieces = []\nwhile True: pieces.append(bytes(2**20))"
    result = run_python(code, limits=replace(PATIENT, memory_bytes=128 << 20))
    assert result.exit_status == 1
    assert "MemoryError" in result.stderr


def test_a_program_cannot_give_itself_more(holds: dict[str, Protection]):
    need(holds, "new processes")
    code = """
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
for action in (
    lambda: resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6)),
    lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)),
    lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
    lambda: os.sched_setaffinity(os.getppid(), {0}),
    lambda: os.kill(os.getppid(), 19),
    lambda: os.execv("/bin/sh", ["sh"]),
):
    try:
        action()
        print("done")
    except (OSError, ValueError):
        print("refused")
number_of_ioprio_set = {"x86_64": 251, "aarch64": 30}[os.uname().machine]
for call, arguments in (
    (libc.unshare, (0x10000000,)),
    (libc.mount, (b"t", b".", b"tmpfs", 0, b"")),
    (libc.prctl, (1, 0)),  # no death with whoever runs it
    (libc.syscall, (number_of_ioprio_set, 1, os.getppid(), 3 << 13)),
):
    print("refused" if call(*arguments) == -1 else "done")
"""
    assert run_python(code, limits=PATIENT).stdout == "refused\n" * 10


def test_a_program_writes_to_no_socket_and_signals_no_process_by_way_of_what_it_may_have(
    tmp_path: Path, holds: dict[str, Protection]
):
    """A pair of sockets and a pipe are its own; their peers and owners are not for it to choose."""
    need(holds, "new processes")
    place = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outside:
        outside.bind(place)
        outside.setblocking(False)
        code = f"""
import fcntl, os, socket, struct
reader, _ = os.pipe()
a, b = socket.socketpair()
for action in (
    lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b"x", {place!r}),
    lambda: socket.socketpair(type=socket.SOCK_SEQPACKET),
    lambda: a.connect({place!r}),
    lambda: fcntl.fcntl(reader, fcntl.F_SETOWN, os.getppid()),
    lambda: fcntl.fcntl(reader, 15, struct.pack("ii", 1, os.getppid())),
    lambda: fcntl.ioctl(a, 0x8901, struct.pack("i", os.getppid())),
    lambda: fcntl.ioctl(a, 0x8902, struct.pack("i", os.getppid())),
):
    try:
        action()
        print("done")
    except OSError:
        print("refused")
a.send(b"streams work")
print(b.recv(99))
"""
        result = run_python(code, limits=PATIENT)
        assert result.stdout == "refused\n" * 7 + "b'streams work'\n", result.stderr
        with pytest.raises(BlockingIOError):
            outside.recv(1)


def test_a_program_that_ignores_the_signal_of_its_cpu_time_is_killed():
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    result = run_python(code, limits=replace(PATIENT, cpu_seconds=1))
    assert (result.exit_status, result.timed_out, result.killed_by) == (None, False, "SIGKILL")


def test_without_user_namespaces_what_is_missing_is_told(holds: dict[str, Protection]):
    """A kernel that refuses them gives no folder in memory; the other protections do not depend on them."""
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    within = ["unshare", "--map-root-user", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*within, forbid], capture_output=True).returncode:
        pytest.skip("user namespaces cannot be forbidden here, as there are none")
    code = (
        "import json; from samosa_jax.rollout.tools.sandbox import protections;"
        "print(json.dumps({p.name: p.is_active for p in protections()}))"
    )
    command = [*within, f'{forbid}; exec "$0" -c "$1"', sys.executable, code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    active = json.loads(done.stdout)
    assert not active.pop("size of all files")
    # Files and system calls are held by what needs no namespace.
    assert active == {name: p.is_active for name, p in holds.items() if name in active}


@settings(max_examples=10)
@given(st.text(), st.text())
def test_whatever_a_program_is_there_is_a_result(code: str, stdin: str):
    result = run_python(code, stdin=stdin, limits=PATIENT)
    assert result.exit_status in (0, 1)
    assert not result.timed_out


@given(st.text().filter(lambda text: "\r" not in text))
@settings(max_examples=10)
def test_input_arrives_as_it_is_given(text: str):
    code = "import sys; print(ascii(sys.stdin.read()))"
    result = run_python(code, stdin=text, limits=PATIENT)
    assert result.stdout == ascii(text.encode("utf-8", "replace").decode()) + "\n"


def test_the_tool_shows_what_a_program_printed_and_how_it_failed():
    registry = Registry([PythonTool(replace(DEFAULT_LIMITS, output_bytes=1000))])
    context = ToolContext(deadline=time.monotonic() + 60)

    def answer(code: str) -> str:
        result = registry.call("python", {"code": code}, context)
        assert not result.is_error
        return result.text

    assert answer("print(6 * 7)") == "42"
    assert answer("6 * 7") == "[the program printed nothing]"
    assert answer("print(1); 1 / 0").startswith("1\nTraceback")
    assert answer("print('x' * 2000)").endswith("x\n[the output was longer]")
    stopped = answer("print(1, flush=True); import ctypes; ctypes.string_at(0)")
    assert stopped == "1\n[the program was stopped: SIGSEGV]"


def test_the_tool_is_done_before_its_deadline():
    registry = Registry([PythonTool()])
    context = ToolContext(deadline=time.monotonic() + 2.0)
    result = registry.call("python", {"code": "print('here', flush=True)\nwhile True: pass"}, context)
    assert result.text == "here\n[the program was stopped: wall time]"
    assert context.seconds_left() > 0

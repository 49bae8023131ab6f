"""The sandboxed process: takes every right from itself that this kernel lets it take, then runs a program.

`sandbox.run_python` starts this file by its path with `python -I -S`, so it knows the standard library alone.
Its argument is a file descriptor with the JSON object {"code", "limits"}. Each protection stands alone: where
the kernel refuses one the others hold, and `sandbox.protections` tells which do.

Linux interfaces, by ctypes: unshare(2), mount(2), landlock(7), capset(2), seccomp(2).
"""

import ctypes
import errno
import json
import linecache
import os
import resource
import signal
import struct
import sys
import traceback
import types
from collections.abc import Iterator, Mapping

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22

# clone(2)
_CLONE_THREAD, _CLONE_NEWNS = 0x10000, 0x20000
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x8000000, 0x10000000, 0x40000000

# landlock(7); these three numbers are the same on every architecture
_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_GET_VERSION, _LANDLOCK_PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_ON_FILES = 1 << 0 | 1 << 1 | _READ_FILE | 1 << 14 | 1 << 15  # rights that a single file can carry
_SHARED_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

# seccomp(2): by machine its AUDIT_ARCH, then the numbers of system calls
_ARCHITECTURES: Mapping[str, tuple[int, int]] = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
ABSENT = -1
_CLONE, _PRLIMIT, _CLONE3 = (56, 220), (302, 261), (435, 435)
REFUSED: Mapping[str, tuple[int, int]] = {
    # new processes and programs
    "fork": (57, ABSENT),
    "vfork": (58, ABSENT),
    "execve": (59, 221),
    "execveat": (322, 281),
    # sockets, also those that are files, which a network namespace does not cover
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # other processes of the same user
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "ioprio_set": (251, 30),
    # memory that outlives its mapping, and so is not counted with the process
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    # parts of the kernel that no program here needs
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
# asyncio needs a pair of streams. A pair of datagram sockets could also write to any socket that is a file.
SOCKETPAIR = (53, 199)
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPES = 1, 1, 0xF
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT, _AT_SECOND_ARGUMENT = 0, 4, 16, 24  # in struct seccomp_data
# Calls that are refused with some values of an argument. Whoever owns a file gets the signals of its events,
# and that may be any process of the same user.
REFUSED_WITH: Mapping[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    "fcntl": ((72, 25), _AT_SECOND_ARGUMENT, (8, 15)),  # F_SETOWN, F_SETOWN_EX
    "ioctl": ((16, 29), _AT_SECOND_ARGUMENT, (0x8901, 0x8902)),  # FIOSETOWN, SIOCSPGRP
    "prctl": ((157, 167), _AT_FIRST_ARGUMENT, (_PR_SET_PDEATHSIG,)),  # to outlive whoever runs it
}
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_X32_BIT = 0x40000000  # a second set of numbers on x86_64


def main() -> None:
    with open(int(sys.argv[1]), encoding="utf-8") as file:
        request = json.load(file)
    protect(request["limits"])
    run(request["code"])


def protect(limits: Mapping[str, int]) -> None:
    """Takes away what can be taken away, for good."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
        is_counted_alone = _enter_namespaces(libc, limits["disk_bytes"])
        _restrict_files(libc)
        _drop_capabilities(libc)
        _set_rlimits(limits, limits_threads=is_counted_alone or os.uname().machine not in _ARCHITECTURES)
        _restrict_system_calls(libc)
    else:
        _set_rlimits(limits, limits_threads=True)


def run(code: str) -> None:
    """Runs the program as __main__; a traceback shows its own lines alone."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["main.py"]
    os.environ.clear()  # Python itself has set LC_CTYPE
    linecache.cache["main.py"] = (len(code), None, code.splitlines(keepends=True), "main.py")
    try:
        exec(compile(code, "main.py", "exec"), module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        below = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, below)
        sys.exit(1)


def _prctl(libc: ctypes.CDLL, option: int, *values: int) -> int:
    padded = (*values, 0, 0, 0, 0)[:4]
    return libc.prctl(option, *(ctypes.c_ulong(value) for value in padded))


def _syscall(libc: ctypes.CDLL, number: int, *arguments: int | bytes | None) -> int:
    # Variable arguments have no declared width; registers are as wide as a long.
    return libc.syscall(
        ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    )


def _enter_namespaces(libc: ctypes.CDLL, disk_bytes: int) -> bool:
    """A network without interfaces, and a working folder in memory that ends with the process.

    Returns whether there is a user namespace: in it threads are counted apart from the user's other ones.
    """
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWNS) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError:
            return True  # without a map nothing can be created in a folder in memory
    folder = os.getcwd()
    options = f"size={disk_bytes},nr_inodes=1024,mode=700".encode()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), options) == 0:
        os.chdir(folder)
    return True


def _restrict_files(libc: ctypes.CDLL) -> None:
    """Landlock: all rights in the working folder, reading what Python imports from, and nothing else."""
    version = _syscall(libc, _LANDLOCK_CREATE, None, 0, _LANDLOCK_GET_VERSION)
    if version < 1:
        return
    every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    network = 3 if version >= 4 else 0  # bind and connect by TCP
    scopes = 3 if version >= 6 else 0  # abstract sockets and signals to outside
    attributes = struct.pack("QQQ", every, network, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _syscall(libc, _LANDLOCK_CREATE, attributes, len(attributes), 0)
    if ruleset < 0:
        return
    readable = (*sys.path, *_SHARED_LIBRARIES, *_DEVICES[1:])
    rights = dict.fromkeys(readable, _READ_FILE | _READ_DIR) | {".": every, _DEVICES[0]: every}
    for path, allowed in rights.items():
        _allow_beneath(libc, ruleset, path, allowed & every)
    _syscall(libc, _LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _allow_beneath(libc: ctypes.CDLL, ruleset: int, path: str, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not there, so there is nothing to allow
    if not os.path.isdir(path):
        allowed &= _ON_FILES
    rule = struct.pack("=Qi", allowed, place)
    _syscall(libc, _LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)
    os.close(place)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    version_3, itself = 0x20080522, 0
    libc.capset(struct.pack("Ii", version_3, itself), bytes(24))


def _set_rlimits(limits: Mapping[str, int], *, limits_threads: bool) -> None:
    """`limits_threads` is False where no process can be started and the user's other threads would count."""
    cpu = limits["cpu_seconds"]
    wanted: dict[int, int | tuple[int, int]] = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),  # SIGXCPU, which can be told apart, and then SIGKILL
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    if limits_threads:
        wanted[resource.RLIMIT_NPROC] = limits["threads"]
    for limit, value in wanted.items():
        soft, hard = value if isinstance(value, tuple) else (value, value)
        _, highest = resource.getrlimit(limit)
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        try:
            resource.setrlimit(limit, (soft, hard))
        except (OSError, ValueError):
            continue  # macOS knows RLIMIT_AS and does not set it


def _restrict_system_calls(libc: ctypes.CDLL) -> None:
    """A seccomp filter: no processes but this one, no sockets to others, no hand on other processes."""
    if os.uname().machine not in _ARCHITECTURES:
        return
    architecture, column = _ARCHITECTURES[os.uname().machine]
    program = b"".join(struct.pack("HBBI", *step) for step in _filter_steps(architecture, column))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(header, len(header))
    _prctl(libc, _PR_SET_SECCOMP, 2, ctypes.addressof(pointer))


def _filter_steps(architecture: int, column: int) -> Iterator[tuple[int, int, int, int]]:
    """(operation, steps to skip if true, steps to skip if false, operand) of classic BPF."""
    refuse = (_RETURN, 0, 0, _FAIL | errno.EPERM)
    yield (_LOAD, 0, 0, _AT_ARCHITECTURE)
    yield (_IF_EQUAL, 1, 0, architecture)
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _AT_NUMBER)
    yield (_IF_AT_LEAST, 0, 1, _X32_BIT)
    yield refuse
    for numbers in REFUSED.values():
        if numbers[column] != ABSENT:
            yield (_IF_EQUAL, 0, 1, numbers[column])
            yield refuse
    for numbers, argument, values in REFUSED_WITH.values():
        yield (_IF_EQUAL, 0, 2 * len(values) + 2, numbers[column])
        yield (_LOAD, 0, 0, argument)
        for value in values:
            yield (_IF_EQUAL, 0, 1, value)
            yield refuse
        yield (_RETURN, 0, 0, _ALLOW)
    yield (_IF_EQUAL, 0, 7, SOCKETPAIR[column])
    yield (_LOAD, 0, 0, _AT_FIRST_ARGUMENT)
    yield (_IF_EQUAL, 0, 3, _AF_UNIX)
    yield (_LOAD, 0, 0, _AT_SECOND_ARGUMENT)
    yield (_AND, 0, 0, _SOCK_TYPES)
    yield (_IF_EQUAL, 1, 0, _SOCK_STREAM)
    yield refuse
    yield (_RETURN, 0, 0, _ALLOW)
    # The C library falls back to clone, whose flags a filter can read.
    yield (_IF_EQUAL, 0, 1, _CLONE3[column])
    yield (_RETURN, 0, 0, _FAIL | errno.ENOSYS)
    yield (_IF_EQUAL, 0, 3, _CLONE[column])
    yield (_LOAD, 0, 0, _AT_FIRST_ARGUMENT)
    yield (_IF_ANY_BIT, 5, 0, _CLONE_THREAD)
    yield refuse
    # Limits of its own (pid 0) alone; the accumulator still holds the number here.
    yield (_IF_EQUAL, 0, 3, _PRLIMIT[column])
    yield (_LOAD, 0, 0, _AT_FIRST_ARGUMENT)
    yield (_IF_EQUAL, 1, 0, 0)
    yield refuse
    yield (_RETURN, 0, 0, _ALLOW)


if __name__ == "__main__":
    main()

"""Running a program that nobody has read: limits of time and memory, no network, no writing.

The program gets namespaces of its own (unshare(2)): a network without a device, all file systems
read-only (mount_setattr(2)), and no sight of other processes, which it could end. Where the system
does not allow that, nothing is run. It can still read what its user can: run the programs of a
model that you do not trust in a container all the same.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile

from jaxgpt.errors import UsageError

_NO_NAMESPACE = 97
# A program that leaves by itself, before its tests, has not passed them.
_PASSED = 98
# Runs in the child, before the program that it reads.
_PRELUDE = f"""
import ctypes, os, resource, struct, sys
seconds, max_bytes = int(sys.argv[1]), int(sys.argv[2])
program = sys.stdin.read()
libc = ctypes.CDLL(None, use_errno=True)
USER, NETWORK, MOUNTS, PROCESSES = 0x10000000, 0x40000000, 0x20000, 0x20000000
MOUNT_SETATTR, HERE, RECURSIVE, READ_ONLY, PRIVATE = 442, -100, 0x8000, 1, 1 << 18
read_only = struct.pack("QQQQ", READ_ONLY, 0, PRIVATE, 0)
if libc.unshare(USER | NETWORK | MOUNTS | PROCESSES) or libc.syscall(
    MOUNT_SETATTR, HERE, b"/", RECURSIVE, read_only, len(read_only)
):
    sys.exit({_NO_NAMESPACE})
# The first child is the first process of its namespace; with it all others end.
if child := os.fork():
    sys.exit(max(1, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
libc.prctl(1, 9)  # Killed when the parent is.
for name, limit in (("CPU", seconds), ("AS", max_bytes), ("FSIZE", 0), ("CORE", 0),
                    ("NOFILE", 64), ("NPROC", 64)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
sys.stdin = open(os.devnull)
exec(compile(program, "program", "exec"), {{"__name__": "__main__"}})
os._exit({_PASSED})
"""


def runs_without_error(program: str, seconds: int = 10, max_bytes: int = 1 << 30) -> bool:
    """Return whether a Python program ends by itself, without an error, within the limits.

    Args:
        program: its source.
        seconds: most seconds, of its processor and by the clock.
        max_bytes: most bytes of memory.

    Raises:
        UsageError: the system allows no namespaces.
    """
    with tempfile.TemporaryDirectory(prefix="jaxgpt-sandbox-") as folder:
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", _PRELUDE, str(seconds), str(max_bytes)],
            cwd=folder,
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            child.communicate(program.encode("utf-8", "replace"), timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(child)
    if child.returncode == _NO_NAMESPACE:
        raise UsageError(
            "programs of a model are run only where they have no network and can write nothing, "
            "and this system does not allow it (user namespaces, Linux 5.12 or later); leave out "
            "--run-code: --samples FILE keeps the programs"
        )
    return child.returncode == _PASSED


def _end(child: subprocess.Popen) -> None:
    """Kill the child and what it has started: it leads a session, and thus a group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()

"""Processes of their own, forked from one that has imported torch: importing it anew takes longer than most tests.

Each is what ``python -c CODE`` or ``python -m neurosens_fast WORDS`` would be, but for the interpreter's start and end.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Nothing of this package: what it does when it is imported belongs to the tests. No thread may run in what is forked.
_IMPORTED = ("torch", "torch.distributed", "safetensors.torch", "sklearn.datasets", "pandas", "matplotlib.pyplot")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(_IMPORTED))


class Process:
    """A running process: the part of :class:`subprocess.Popen` that tests need."""

    def __init__(
        self,
        *words: str | Path,
        code: str | None = None,
        folder: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start ``neurosens-fast WORDS``, or ``code`` with these words, in ``folder``; ``environment`` is added."""
        self._streams = [tempfile.NamedTemporaryFile("r", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        whole = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        arguments = [str(word) for word in words], code, folder, whole, [file.name for file in self._streams]
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, ``-signal`` of one that was killed, ``None`` while the process runs."""
        return self._process.exitcode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Both streams, once the process has ended; one that does not end is killed and an error."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        for file in self._streams:
            file.seek(0)
        out, err = (file.read() for file in self._streams)
        return out, err

    def wait(self, timeout: float = 120) -> int:
        """The exit status, once there is one."""
        self.communicate(timeout)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _run(words: list[str], code: str | None, folder: Path, environment: dict[str, str], streams: list[str]) -> None:
    for descriptor, path in zip((1, 2), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if code is None:
        sys.argv = ["neurosens-fast", *words]
        runpy.run_module("neurosens_fast", run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *words]
        exec(compile(code, "<code of a test>", "exec"), {"__name__": "__main__"})


def together(*words: str | Path, count: int = 2) -> list[Process]:
    """Start ``neurosens-fast WORDS`` as ``torchrun --nproc-per-node COUNT`` does, with what it tells each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    told = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [Process(*words, environment={**told, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]


_BEGIN = """
import sys
from pathlib import Path

import torch

folder, rank, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count)
"""

# Without an orderly end, in which threads of torch and gloo that still run now and then abort the process.
_END = """
import os
sys.stdout.flush()
os._exit(0)
"""


def run_processes(script: str, folder: Path, count: int = 2) -> None:
    """Run ``script`` in ``count`` processes of one group, with ``folder``, ``rank`` and ``torch`` defined.

    Fails with what the processes printed unless all of them end well.
    """
    code = _BEGIN + textwrap.dedent(script) + _END
    started = [Process(folder, str(rank), str(count), code=code) for rank in range(count)]
    try:
        outputs = ["".join(process.communicate()) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.poll() for process in started] == [0] * count, "\n".join(outputs)

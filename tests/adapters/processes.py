"""Several processes that talk through gloo."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BEGIN = """
import sys
from pathlib import Path

import torch

folder, rank, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count)
"""


# Without the interpreter's own end, in which threads of torch and gloo that still run now and then abort the process.
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
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(rank), str(count)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * count, "\n".join(outputs)

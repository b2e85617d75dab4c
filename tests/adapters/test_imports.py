"""The libraries of the adapters are loaded by the adapters alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_nothing_else_imports_them() -> None:
    code = (
        "import sys, neurosens_fast, neurosens_fast.adapters, neurosens_fast.audit, neurosens_fast.models\n"
        "import neurosens_fast.adapters.attacks\n"
        "assert not {'lightning', 'pytorch_lightning', 'torchmetrics', 'timm'} & sys.modules.keys()\n"
        "assert not {'torchattacks', 'foolbox', 'pyautoattack'} & sys.modules.keys()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)

"""Try an installed neurosens_fast from outside its checkout: import, operators against the reference, metadata."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.resources
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Fail with an assertion where the installed package is not whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--not-from", type=Path, required=True, help="the checkout that must not be imported")
    checkout = parser.parse_args().not_from.resolve()

    import torch

    import neurosens_fast
    from neurosens_fast import ops, reference

    extension = importlib.import_module("neurosens_fast._C")
    for module in (neurosens_fast, extension):
        place = Path(str(module.__file__)).resolve()
        assert checkout not in place.parents, f"{place} is the checkout, not the installed package"
    info = extension.build_info()
    installed = importlib.metadata.version("neurosens-fast")
    assert info["version"] == installed, f"the extension is {info['version']}, the package {installed}"
    assert importlib.resources.files("neurosens_fast").joinpath("py.typed").is_file(), "py.typed is missing"
    template = importlib.resources.files("neurosens_fast.audit.document").joinpath("report.html.jinja")
    assert template.is_file(), "the template of HTML reports is missing"
    files = importlib.metadata.files("neurosens-fast") or []
    assert any(file.name == "LICENSE" for file in files), "the licence is missing"

    generator = torch.Generator().manual_seed(0)
    benign = torch.randn(4, 6, 5, 3, generator=generator)
    adversarial = benign + 0.1 * torch.randn(4, 6, 5, 3, generator=generator)
    torch.testing.assert_close(
        ops.neuron_sensitivity(benign, adversarial), reference.neuron_sensitivity(benign, adversarial)
    )
    torch.testing.assert_close(ops.pair_statistics(benign, adversarial), reference.pair_statistics(benign, adversarial))

    report = subprocess.run(
        [sys.executable, "-P", "-m", "neurosens_fast.env"], capture_output=True, text=True, check=True
    )
    assert info["compiler"] in report.stdout, f"neurosens_fast.env does not know the extension:\n{report.stdout}"
    print(f"smoke test passed: neurosens_fast {installed} in {Path(str(neurosens_fast.__file__)).parent}")


if __name__ == "__main__":
    main()

"""How many arithmetic operations a run of a network takes."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def flops(run: Callable[[], object]) -> int:
    """Those of convolutions and matrix products, a multiply-add as two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())

"""Batches on the device: on CUDA the next one is on its way while the present one is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from neurosens_fast.capture import leaves, mapped

from .setting import Setting
from .source import NumberedBatch


def moved_ahead(source: Iterable[NumberedBatch], setting: Setting) -> Iterator[NumberedBatch]:
    """The batches of ``source`` on the device of ``setting``, inputs cast."""
    if not setting.on_cuda:
        yield from (_moved(batch, setting) for batch in source)
        return
    copies = torch.cuda.Stream(setting.device)
    waiting: tuple[NumberedBatch, torch.cuda.Event] | None = None
    for batch in source:
        copies.wait_stream(torch.cuda.current_stream(setting.device))  # which may have made what is copied
        batch = _pinned(batch)
        with torch.cuda.stream(copies):
            coming = _moved(batch, setting), copies.record_event()
        if waiting is not None:
            yield _arrived(*waiting, setting.device)
        waiting = coming
    if waiting is not None:
        yield _arrived(*waiting, setting.device)


def _moved(batch: NumberedBatch, setting: Setting) -> NumberedBatch:
    inputs, labels = setting.batch(batch.inputs, batch.labels)
    return replace(batch, inputs=inputs, labels=labels)


def _pinned(batch: NumberedBatch) -> NumberedBatch:
    """The batch in memory from which a device copies while the host goes on, where it is in the host's."""

    def pin(leaf: Tensor) -> Tensor:
        return leaf.pin_memory() if leaf.device.type == "cpu" and not leaf.is_pinned() else leaf

    return replace(batch, inputs=mapped(batch.inputs, pin), labels=pin(batch.labels))


def _arrived(batch: NumberedBatch, copied: torch.cuda.Event, device: torch.device | None) -> NumberedBatch:
    present = torch.cuda.current_stream(device)
    present.wait_event(copied)
    for tensor in (*leaves(batch.inputs), batch.labels):
        tensor.record_stream(present)  # its memory must not go to another copy while it is still read
    return batch

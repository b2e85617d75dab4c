"""The audit: attack every batch, run benign and adversarial inputs together, reduce every tapped layer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike

import torch
from torch import nn

from neurosens_fast.capture import Layers, Taps
from neurosens_fast.support.processes import rank_and_world

from .batches import Data, sample_count
from .checkpoint import Checkpoint
from .descriptions import describe_callable, describe_data, describe_layers, describe_model
from .identity import weights_fingerprint
from .loop import NO_SAMPLE, go_over, nothing
from .paired_run import PairedRun
from .progress import Report
from .report import AuditReport
from .setting import AttackCallable, Setting, check_count
from .source import Share
from .together import combined


def audit(
    model: nn.Module,
    data: Data,
    attack: AttackCallable,
    layers: Layers = "activations",
    *,
    channel_dims: Mapping[str, int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    verify: bool = True,
    seed: int = 0,
    model_description: str | None = None,
    data_description: str | None = None,
    attack_description: str | None = None,
    workers: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 10.0,
    resume: bool = False,
    distributed: bool = False,
) -> AuditReport:
    """Sensitivity and every other metric of each neuron of the tapped layers, as an :class:`AuditReport`.

    ``data`` gives batches ``(x, y)``: inputs ``[N, ...]`` (a tensor, or a tuple or dict of tensors) and
    labels ``[N]``; or samples, from a map-style data set or an iterable, which are joined to batches of
    ``batch_size``; or it is one tuple of two tensors. At most ``max_samples`` samples are used. ``attack``
    is any callable ``(x, y) -> x_adv``. ``layers`` is anything that ``capture.select_layers`` takes: a group
    of ``capture.LAYER_GROUPS``, names, globs, or a function; ``channel_dims`` maps names or globs to the
    channel axis where the rule of ``capture.channels`` does not fit.

    Batches are moved to ``device`` (default: the model's, and it must be the model's). ``dtype`` bfloat16 or
    float16 runs the paired forward under autocast, float32 or float64 casts the inputs. ``progress`` shows a
    bar on a terminal, or is called with samples done and total. ``verify`` compares, for a few samples, every
    layer within the pair and alone, which catches layouts ``[L, N, C]`` and layers that mix samples.

    ``checkpoint`` is a folder. Every ``checkpoint_seconds`` the state of the audit is written into it, at the end the
    report as ``audit.safetensors``; with ``resume`` an audit that was ended there, in whatever way, goes on and gives
    the same report as an unbroken one, bit for bit. ``distributed`` deals whole batches to the processes of the default
    process group of ``torch.distributed``, each of which calls this function alike and gets the report of all.
    ``workers`` processes read a map-style data set; a ``DataLoader`` has its own number.

    Benign and adversarial inputs share one forward in evaluation mode, and each layer is read once;
    memory beyond that forward is that of the statistics. The model's modes, hooks, ``.grad``,
    ``requires_grad`` and buffers, and the global random states are afterwards as they were before, also
    when an exception passes through. Inside, the random states depend on ``seed`` and the number of the batch. Where
    a CUDA device runs out of memory the batch goes through in smaller parts.

    Raises ``ValueError`` or ``TypeError``, naming the layer or argument and the mend: unknown layer,
    layer that never runs, output that is no floating-point tensor, weights that are not finite, data without
    samples or labels, adversarial inputs of another shape. ``ReportError`` for a folder that holds another audit, or
    cannot be written.
    """
    setting = Setting(model, attack, device, dtype)
    for name, value in (("batch_size", batch_size), ("max_samples", max_samples)):
        check_count(name, value)
    facts = {
        "model": model_description or describe_model(setting.model),
        "attack": attack_description or describe_callable(attack),
        "data": data_description or describe_data(data),
        "layer_choice": describe_layers(layers),
        "dtype": str(dtype or "as given").removeprefix("torch."),
    }
    run = PairedRun(setting, attack, Taps(setting.model, layers, channel_dims), channel_dims, verify)

    def report() -> AuditReport:
        return run.report(facts, seed)

    rank, world = rank_and_world() if distributed else (0, 1)
    share = Share(rank=rank, world=world)
    store = None
    if checkpoint is not None:
        identity = facts | {
            "weights": weights_fingerprint(setting.model),
            "channel_dims": dict(channel_dims or {}),
            "batch_size": batch_size,
            "max_samples": max_samples,
            "samples": sample_count(data, max_samples),
            "seed": seed,
            "torch": torch.__version__,
        }
        store = Checkpoint(checkpoint, identity, share, report, checkpoint_seconds)
        before = store.open(resume)
        if before is not None:
            run.go_on_from(before)
            share = replace(share, start=store.next, also=store.sample)
    with nullcontext() if store is None else store.kept_after_errors():
        go_over(
            data,
            run,
            setting,
            batch_size=batch_size,
            max_samples=max_samples,
            progress=progress if rank == 0 else False,
            title="audit",
            seed=seed,
            share=share,
            workers=workers,
            before=nothing if store is None else store.check_data,
            after=nothing if store is None else store.passed,
        )
        if store is not None and world > 1:
            store.save()  # to wait for the others may take long
        result = report() if world == 1 else combined(report(), setting.device or torch.device("cpu"))
        if not result.samples:
            raise ValueError(NO_SAMPLE)
        if store is not None:
            store.complete(result)
    return result

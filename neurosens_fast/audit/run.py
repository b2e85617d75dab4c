"""The audit: attack every batch, run benign and adversarial inputs together, reduce every tapped layer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import nn

from neurosens_fast.attacks import Attack, Worst
from neurosens_fast.capture import Layers, PairedModels, Taps, untouched
from neurosens_fast.support.processes import process_count, rank_and_world

from .batches import Data, sample_count
from .checkpoint import AuditState, Checkpoint, check_checkpoint
from .descriptions import describe_callable, describe_data, describe_layers, describe_model
from .identity import selected, structure_fingerprint, weights_fingerprint
from .loop import NO_SAMPLE, go_over, nothing
from .pair_data import pair_data
from .paired_run import AuditRun, PairedRun
from .progress import Report
from .report import AuditReport
from .scores import ScoreWriter
from .setting import AttackCallable, Setting, check_counts
from .source import Share
from .together import combined
from .two_models import TwoModelRun


def audit(
    model: nn.Module,
    data: Data,
    attack: AttackCallable | None,
    layers: Layers = "activations",
    *,
    channel_dims: Mapping[str, int] | None = None,
    tokens: str = "all",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    verify: bool = True,
    fuse: bool = True,
    seed: int = 0,
    model_description: str | None = None,
    data_description: str | None = None,
    attack_description: str | None = None,
    workers: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 10.0,
    resume: bool = False,
    distributed: bool = False,
    by_class: bool = False,
    scores: str | PathLike[str] | None = None,
) -> AuditReport:
    """Sensitivity and every other metric of each neuron of the tapped layers, as an :class:`AuditReport`.

    ``data`` gives batches ``(x, y)``: inputs ``[N, ...]`` (a tensor, or a tuple or dict of tensors) and
    labels ``[N]``; or samples, from a map-style data set or an iterable, which are joined to batches of
    ``batch_size``; or it is one tuple of two tensors. At most ``max_samples`` samples are used. ``attack``
    is any callable ``(x, y) -> x_adv``; None says that the data hold pairs such as corrupted or paraphrased
    inputs: tensors, samples of a map-style data set, or batches, each ``(benign, other)`` or ``(benign, other,
    labels)``. ``layers`` is anything that ``capture.select_layers`` takes: a group of ``capture.LAYER_GROUPS``,
    names, globs, or a function; ``channel_dims`` maps names or globs to the channel axis where the rule of
    ``capture.channels`` does not fit. ``tokens`` says which positions of token layouts count, ``"all"``, ``"cls"`` or
    ``"last"``; under an ``attention_mask`` in dict inputs padding counts nowhere.

    Batches are moved to ``device`` (default: the model's, and it must be the model's). ``dtype`` bfloat16 or
    float16 runs the paired forward under autocast, float32 or float64 casts the inputs. ``progress`` shows a
    bar on a terminal, or is called with samples done and total. ``verify`` compares, for a few samples, every
    layer within the pair and alone, which catches layouts ``[L, N, C]`` and layers that mix samples.

    ``checkpoint`` is a folder. Every ``checkpoint_seconds`` the state of the audit is written into it, at the end the
    report as ``audit.safetensors``; with ``resume`` an audit that was ended there, in whatever way, goes on and gives
    the same report as an unbroken one, bit for bit. ``distributed`` deals whole batches to the processes of the default
    process group of ``torch.distributed``, each of which calls this function alike and gets the report of all.
    ``workers`` processes read a map-style data set; a ``DataLoader`` has its own number.

    With ``fuse`` the pairs run on a private copy of the model, where it allows one: batch norm is folded, and a tapped
    ReLU is measured in the pass that computes it. Results differ from those of the model itself by rounding only;
    ``AuditReport.fused`` names these layers, ``not_fused`` says why there are none.

    ``by_class`` adds up sensitivity for each class too (``AuditReport.class_sensitivity``). ``scores`` is a folder to
    which one row per sample is written, which :func:`read_scores` reads. Either takes one more read of each layer.

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
    check_counts(batch_size=batch_size, max_samples=max_samples)
    setting = Setting(model, attack, device, dtype)
    job = _Job(data if attack is not None else pair_data(data), batch_size, max_samples, progress, seed, workers)
    taps = Taps(setting.model, layers, channel_dims, tokens)
    facts = {
        "model": model_description or describe_model(setting.model),
        "attack": attack_description or (describe_callable(attack) if attack is not None else "pairs in the data"),
        "data": data_description or describe_data(data),
        **_common_facts(layers, tokens, dtype),
    }
    identity = {"channel_dims": dict(channel_dims or {}), "fuse": fuse, "attack_seeds": _seeds(attack)}
    share = _share(distributed)
    writer = None if scores is None else ScoreWriter(scores, share)
    run = PairedRun(setting, attack, taps, channel_dims, verify, fuse, by_class, writer)
    models = (setting.model,)
    return job.done(run, models, facts, identity, share, checkpoint, checkpoint_seconds, resume)


def audit_pairs(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    layers: Layers = "activations",
    *,
    layers_b: Mapping[str, str] | None = None,
    channel_dims: Mapping[str, int] | None = None,
    tokens: str = "all",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 128,
    max_samples: int | None = None,
    progress: bool | Report = True,
    verify: bool = True,
    seed: int = 0,
    model_a_description: str | None = None,
    model_b_description: str | None = None,
    data_description: str | None = None,
    workers: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 10.0,
    resume: bool = False,
    distributed: bool = False,
    by_class: bool = False,
    scores: str | PathLike[str] | None = None,
) -> AuditReport:
    """How much every neuron differs between two models on the same inputs, as an :class:`AuditReport`.

    Float against quantised, before against after fine-tuning: "benign" in the report is what ``model_a`` puts out,
    "adversarial" what ``model_b`` does. ``layers`` is chosen on ``model_a``; a layer is compared with the one of the
    same name in ``model_b``, or with the one to which ``layers_b`` maps its name, and must have the same shape. Both
    models must be on one device. The activations of ``model_a`` are kept for one batch. Everything else is as in
    :func:`audit`. A choice of this package.
    """
    check_counts(batch_size=batch_size, max_samples=max_samples)
    setting = Setting(model_a, None, device, dtype)
    other = Setting(model_b, None, device, dtype)
    models = PairedModels(setting.model, other.model, layers, channel_dims, layers_b, tokens)
    names = (
        model_a_description or describe_model(setting.model),
        model_b_description or describe_model(other.model),
    )
    facts = {
        "model": f"{names[0]} and {names[1]}",
        "attack": "none, the second model instead",
        "data": data_description or describe_data(data),
        **_common_facts(layers, tokens, dtype),
    }
    identity = {"channel_dims": dict(channel_dims or {}), "layers_b": dict(layers_b or {})}
    share = _share(distributed)
    writer = None if scores is None else ScoreWriter(scores, share)
    run = TwoModelRun(setting, models, verify, by_class, writer)
    job = _Job(data, batch_size, max_samples, progress, seed, workers)
    with untouched(other.model):
        other.check_weights()
        return job.done(
            run, (setting.model, other.model), facts, identity, share, checkpoint, checkpoint_seconds, resume
        )


@dataclass
class _Job:
    """Going over data, once for each audit."""

    data: Any
    batch_size: int
    max_samples: int | None
    progress: bool | Report
    seed: int
    workers: int

    def done(
        self,
        run: AuditRun,
        models: tuple[nn.Module, ...],
        facts: dict[str, str],
        identity: dict[str, Any],
        share: Share,
        checkpoint: str | PathLike[str] | None,
        seconds: float,
        resume: bool,
    ) -> AuditReport:
        """The report of the whole audit, in every process."""

        def report() -> AuditReport:
            return run.report(facts, self.seed)

        store = None
        check_checkpoint(checkpoint, seconds, resume)
        if checkpoint is not None:
            identity = {**facts, **identity} | {
                "weights": ", ".join(map(weights_fingerprint, models)),
                "structure": ", ".join(map(structure_fingerprint, models)),
                "layers": selected(run.rows.selection),
                "batch_size": self.batch_size,
                "max_samples": self.max_samples,
                "samples": sample_count(self.data, self.max_samples),
                "seed": self.seed,
                "by_class": run.classes is not None,
                "scores": run.scores is not None,
                "torch": torch.__version__,
            }
            store = Checkpoint(checkpoint, identity, share, AuditState(run, report), seconds)
            share = store.open(resume)
        with ExitStack() as stack:
            stack.callback(run.close)
            if store is not None:
                stack.enter_context(store.kept_after_errors())
            if run.scores is not None:
                run.scores.begin(resumed=store is not None and store.found)
            self._go_over(run, share, store)
            if run.scores is not None:
                run.scores.flush()
            if store is not None and share.world > 1 and run.samples:
                store.save()  # to wait for the others may take long
            device = run.setting.device or torch.device("cpu")
            result = report() if share.world == 1 else combined(report(), device)
            if not result.samples:
                raise ValueError(NO_SAMPLE)
            if store is not None:
                store.complete(result)
        return result

    def _go_over(self, run: AuditRun, share: Share, store: Checkpoint | None) -> None:
        go_over(
            self.data,
            run,
            run.setting,
            batch_size=self.batch_size,
            max_samples=self.max_samples,
            progress=self.progress if share.rank == 0 else False,
            title="audit",
            seed=self.seed,
            share=share,
            workers=self.workers,
            before=nothing if store is None else store.check_data,
            after=nothing if store is None else store.passed,
        )


def _share(distributed: bool) -> Share:
    rank, world = rank_and_world() if distributed else (0, 1)
    if distributed and world == 1 and process_count() > 1:
        raise ValueError("distributed=True needs a process group; call torch.distributed.init_process_group first")
    return Share(rank=rank, world=world)


def _seeds(attack: AttackCallable | None) -> list[int | None]:
    """The seeds of an attack, or of those it is made of: descriptions do not tell them."""
    parts = attack.attacks if isinstance(attack, Worst) else [attack]
    return [part.seed for part in parts if isinstance(part, Attack)]


def _common_facts(layers: Layers, tokens: str, dtype: torch.dtype | None) -> dict[str, str]:
    dtype_name = str(dtype or "as given").removeprefix("torch.")
    return {"layer_choice": describe_layers(layers), "tokens": tokens, "dtype": dtype_name}

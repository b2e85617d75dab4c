"""The model as one call of an attack sees it: logits, and gradients for the input alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neurosens_fast.attacks.losses import Objective
from neurosens_fast.capture import logits_of
from neurosens_fast.folding import (
    TRIAL_SAMPLES,
    NotTraced,
    PrivateCopy,
    agreement,
    fingerprint,
    has_hooks,
    is_special,
    suits_channels_last,
    tolerance,
)
from neurosens_fast.ops import supports_winograd
from neurosens_fast.support.messages import one_line

from .graphs import EvaluationGraph
from .switches import Choice, Switches

_MOST_GRAPHS = 16  # each holds the activations of a batch; attacks that drop samples go through many sizes
_RUN_AS_THEY_ARE = ("torch._dynamo", "torch.nn.parallel", "torch.distributed")


class Evaluation(NamedTuple):
    """The losses ``[N]`` of an objective at some images, their gradient ``[N, *S]`` and the logits ``[N, classes]``.

    Valid until the next evaluation: a CUDA graph writes into the same memory.
    """

    gradient: Tensor
    losses: Tensor
    logits: Tensor


def memory_format_of(images: Tensor) -> torch.memory_format:
    """The memory format that ``images`` have, or would have as a dense tensor."""
    last = images.dim() == 4 and not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class Engine:
    """Runs ``model`` for an attack named ``name``, whose ``own_rule`` may replace compaction.

    Kept by the attack, it keeps a private copy and CUDA graphs.

    :meth:`begin` prepares a call; within it the model is in evaluation mode. Nothing is ever written to the model.
    """

    def __init__(self, model: nn.Module, switches: Switches, name: str, own_rule: str = "") -> None:
        self.model, self.switches, self.name, self.own_rule = model, switches, name, own_rule
        self.choices: list[Choice] = []
        self._run: Callable[[Tensor], Any] = model
        self._private: PrivateCopy | None = None
        self._print: tuple[Any, ...] | None = None
        self._problem = self._not_traced = ""
        self._graphs: dict[tuple[Any, ...], EvaluationGraph] = {}
        self._use_graph = False
        self._dtype: torch.dtype | None = None
        self.memory_format: torch.memory_format = torch.contiguous_format

    def begin(self, images: Tensor, evaluations: int, named_loss: bool) -> None:
        """Choose how to run for ``images``, with ``evaluations`` forwards ahead; ``choices`` says what and why."""
        self.choices = []
        self._run, self.memory_format = self.model, memory_format_of(images)
        self._dtype = self._dtype_for(images)
        wanted = self.switches
        spatial = suits_channels_last(images)
        private = None
        if not wanted["exact"] and (wanted["fold"] or wanted["channels_last"] or wanted["dtype"]):
            private = self._prepared(images, evaluations, spatial)
        if private is not None:
            self._run = private.run
            if private.channels_last:
                self.memory_format = torch.channels_last
        self._record(private, images, evaluations, spatial)
        self._choose_graph(images, named_loss)

    @property
    def untouched(self) -> bool:
        """Whether the logits of this engine are those of the untouched model."""
        return self._run is self.model and self._dtype is None

    def placed(self, images: Tensor) -> Tensor:
        """A copy of ``images`` in the memory format of the call."""
        return images.detach().clone(memory_format=self.memory_format)

    def logits(self, images: Tensor, exact: bool = False) -> Tensor:
        """The logits ``[N, classes]`` without a gradient; ``exact``: those of the untouched model."""
        with torch.no_grad():
            if exact:
                return self._logits(self.model, images.contiguous())
            with self._autocast(images):
                return self._logits(self._run, images)

    def evaluate(self, images: Tensor, objective: Objective) -> Evaluation:
        """Losses, gradient for ``images`` and logits; nothing else is differentiated."""

        def compute(images: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
            return self._evaluate(images, replace(objective, tensors=tensors))

        if not self._use_graph:
            return Evaluation(*compute(images, objective.tensors))
        key = (
            *(images.shape, images.dtype, images.stride(), objective.function, objective.sign),
            *((tensor.shape, tensor.dtype) for tensor in objective.tensors),
        )
        if key not in self._graphs:
            if len(self._graphs) >= _MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            try:
                self._graphs[key] = EvaluationGraph(compute, images, objective.tensors)
            except RuntimeError as error:  # a forward that waits for the device, or allocates outside of torch
                self._use_graph = False
                self.choices = [choice for choice in self.choices if choice.switch != "graph"]
                self.choices.append(Choice("graph", False, f"the model cannot be captured ({one_line(error, 90)})"))
                return Evaluation(*compute(images, objective.tensors))
        return Evaluation(*self._graphs[key](images, objective.tensors))

    # --- how one call runs --------------------------------------------------------------------------------

    def _dtype_for(self, images: Tensor) -> torch.dtype | None:
        """The dtype that autocast brings the model to; it leaves float64 alone."""
        wanted = self.switches["dtype"]
        return None if wanted is torch.float32 or images.dtype == torch.float64 else wanted

    def _autocast(self, images: Tensor) -> AbstractContextManager[Any]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(images.device.type, dtype=self._dtype, cache_enabled=False)

    def _evaluate(self, images: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
        images = images.detach().requires_grad_(True)
        with torch.enable_grad():
            with self._autocast(images):
                logits = self._logits(self._run, images)
            losses = objective(logits)
            total = losses.sum()
            slope = torch.autograd.grad(total, images, allow_unused=True)[0] if total.requires_grad else None
        if slope is None:
            raise ValueError(
                f"{self.name}: the model's output has no gradient for its input; look for detach(), no_grad() or a "
                "rounding step in its forward, or use an attack without gradients such as Square"
            )
        return slope.detach(), losses.detach(), logits.detach()

    def _logits(self, run: Callable[[Tensor], Any], images: Tensor) -> Tensor:
        output = run(images)
        logits = logits_of(output, images.shape[0])
        if logits is None:
            got = f"shape {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"{self.name} needs a model that returns logits [N, classes], got {got}; wrap the model in a module "
                "that returns them"
            )
        return logits

    # --- the private copy ---------------------------------------------------------------------------------

    def _prepared(self, images: Tensor, evaluations: int, spatial: bool) -> PrivateCopy | None:
        """The private copy with the model's present weights, or None; ``_problem`` says why."""
        model = self.model
        if isinstance(model, torch.jit.ScriptModule) or type(model).__module__.startswith(_RUN_AS_THEY_ARE):
            self._problem = "the model is compiled or parallel, and runs as it is"
            return None
        if evaluations < 2:
            self._problem = "a single pass would not repay the copy"
            return None
        now = self._fingerprint(images)
        if now != self._print:
            self._private, self._not_traced, self._graphs = None, "", {}
            self._print = now
            try:
                self._private = self._traced(model, images, spatial)
            except NotTraced as reason:
                self._not_traced = str(reason)
            self._print = self._fingerprint(images)  # a forward may change attributes of its module
        elif self._private is not None:
            self._private.refresh()
        self._problem = self._not_traced
        return self._private

    def _fingerprint(self, images: Tensor) -> tuple[Any, ...]:
        # The number of axes too: batch norm behind a linear layer can be folded for [N, F], not for [N, L, F].
        return fingerprint(self.model, is_special), images.dim(), self._dtype_for(images)

    def _traced(self, model: nn.Module, images: Tensor, spatial: bool) -> PrivateCopy:
        wanted = self.switches
        wide = PrivateCopy(model, wanted["fold"], False, None)
        if not (wide.folded or wide.convolutions or self._dtype or images.is_cuda):
            raise NotTraced("the model has no batch norm behind a layer and no 2-D convolution")
        wide.refresh()
        few = images[:TRIAL_SAMPLES].detach()
        with torch.no_grad():
            theirs = self._logits(model, few)
            try:
                with wide.checked():
                    ours = self._logits(wide.run, few)
            except NotTraced:
                raise
            except Exception as error:  # whatever a traced graph raises
                raise NotTraced(f"the traced copy fails ({one_line(error, 90)})") from error
        if not agreement(ours, theirs, tolerance(theirs.dtype)):
            raise NotTraced("the traced copy gives other logits: the forward depends on its input, or is random")
        channels_last = wanted["channels_last"] and spatial
        if not channels_last and self._dtype is None:
            return wide
        final = PrivateCopy(model, wanted["fold"], channels_last, self._dtype, winograd=4 if wanted["winograd"] else 0)
        final.refresh()
        if final.channels_last:
            try:
                with torch.no_grad(), self._autocast(few):
                    self._logits(final.run, few.contiguous(memory_format=torch.channels_last))
            except Exception:  # whatever a graph raises that wants contiguous memory, as view() does
                final = PrivateCopy(model, wanted["fold"], False, self._dtype)
                final.refresh()
        return final

    def _record(self, private: PrivateCopy | None, images: Tensor, evaluations: int, spatial: bool) -> None:
        def note(switch: str, used: bool, yes: str, no: str) -> None:
            self.choices.append(Choice(switch, used, yes if used else no))

        exact, wanted = self.switches["exact"], self.switches
        off = "exact=True" if exact else "switched off"
        missing = "" if private is not None else self._problem
        folded = 0 if private is None else private.folded
        note(
            *("fold", wanted["fold"] and folded > 0),
            f"{folded} batch norms folded into the layers before them, on a private copy",
            off if not wanted["fold"] else missing or "no batch norm stands behind a layer without hooks",
        )
        note(
            *("channels_last", self.memory_format == torch.channels_last),
            "images and convolutions lie in channels_last memory",
            off
            if not wanted["channels_last"]
            else missing
            if spatial and missing
            else "the model fails on activations in channels_last memory; reshape() in the place of view() would do"
            if spatial and private is not None and private.convolutions
            else "the inputs are no images [N, C, H, W], or there is no 2-D convolution",
        )
        convolutions = 0 if private is None else private.winograd_convolutions
        last = self.memory_format == torch.channels_last
        note(
            *("winograd", convolutions > 0),
            f"{convolutions} convolutions run by Winograd's algorithm where the size of their images suits it",
            off
            if not wanted["winograd"]
            else missing
            or (
                "images and convolutions do not lie in channels_last memory"
                if not last
                else "it needs float32, or bfloat16 without AMX, on a CPU with AVX2 or AVX-512"
                if not supports_winograd(images.device, self._dtype or images.dtype)
                else "no convolution 3x3 of stride 1 and padding 1 has at least 16 input and 32 output channels"
            ),
        )
        note(
            *("dtype", self._dtype is not None),
            f"the model runs in {str(self._dtype)[6:]}, perturbation and loss in {str(images.dtype)[6:]}",
            off
            if exact
            else f"the model runs in the dtype of the images, {str(images.dtype)[6:]}"
            + (", which autocast leaves alone" if wanted["dtype"] is torch.bfloat16 else ""),
        )
        note(
            *("compaction", wanted["compaction"] and not self.own_rule),
            "samples that fell are dropped" + (", at halving sizes" if images.is_cuda else ""),
            self.own_rule or (off if exact else "every sample gets all steps (compaction=False)"),
        )

    def _choose_graph(self, images: Tensor, named_loss: bool) -> None:
        reason = "forward and backward pass are replayed from a CUDA graph"
        if not self.switches["graph"]:
            reason = "exact=True" if self.switches["exact"] else "switched off"
        elif not images.is_cuda:
            reason = f"the images are on {images.device.type}"
        elif not named_loss:
            reason = "the loss is a function of yours, whose code would run once only"
        elif any(has_hooks(module) for module in self.model.modules()):
            reason = "hooks of the model would run once only"
        elif self._run is self.model:
            reason = f"there is no private copy whose tensors stay in place: {self._problem or 'fold=False'}"
        self._use_graph = reason.startswith("forward")
        self.choices.append(Choice("graph", self._use_graph, reason))

"""The loss of SNS training: sensitive neurons shall react alike to benign and adversarial inputs."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from neurosens_fast.capture import Inputs, Layers, batch_length, select_layers
from neurosens_fast.support.messages import listing

from .attachment import Attachment
from .choice import Choice
from .collection import Collection
from .records import Recorder
from .settings import batches_per_choice, check_settings, innermost
from .taps import tap_names


class SNSLoss(nn.Module):
    """Mean distance between benign and adversarial activations of the most sensitive neurons of chosen layers.

    ``weight * sum over layers of the mean over the k most sensitive neurons of dist``, a float32 scalar (float64 for a
    float64 model), where ``dist`` of a neuron is that of ``ops.neuron_sensitivity`` in ``norm``::

        sns = SNSLoss(model, k=0.1)
        with sns.pairs():                                        # one forward of benign and adversarial together
            logits = model(torch.cat([x, x_adv]))
        loss = F.cross_entropy(logits[len(x):], y) + sns.loss()

        with sns.benign(): model(x)                              # or two, where batch norm shall see them apart
        with sns.adversarial(): logits = model(x_adv)
        loss = F.cross_entropy(logits, y) + sns.loss()

    Nothing of an activation is kept beyond what autograd needs, and nothing waits for the device. The model is not
    registered: an SNSLoss has no parameters. Its hooks are on the model until :meth:`detach`, the end of a
    ``with sns:`` or its own end. Works with ``torch.compile`` (after :meth:`prepare`), ``DistributedDataParallel`` and
    non-reentrant activation checkpointing.

    - ``layers``: anything that ``capture.select_layers`` takes; None means the tap modules of the model
      (:mod:`neurosens_fast.nn`), or its activations where it has none.
    - ``k``: neurons per layer, a count or a share as in ``ops.neuron_count``. ``scope="model"`` chooses k of all
      neurons of all layers together; the loss is then their mean distance.
    - ``norm``: 1, ``"mse"``, ``"l2"`` or ``"cosine"``. ``select_by="distance"`` chooses by it instead of by sensitivity
      (norm 1). ``detach_benign`` lets the gradient move the adversarial branch only.
    - ``refresh``: neurons are chosen anew in each ``"batch"``, every n-th time (int) or once per ``"epoch"``, when
      :meth:`refresh` is called. The choice is part of the state dict.
    - ``sync``: in a distributed run all processes choose the same neurons, by the sensitivities over all their pairs;
      ``process_group``: those of ``torch.distributed`` that are meant (None: all).
    - ``channel_dims``: name or glob -> channel axis, where the rule of ``capture.channels`` does not fit.

    Raises ``ValueError`` or ``TypeError`` for settings and layers that do not fit. Source: Zhang et al., IEEE TIP
    30:1291, 2021; the form of the loss, the scopes and the refreshing are choices of this package.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers | None = None,
        k: int | float = 0.1,
        norm: int | str = 1,
        scope: str = "layer",
        refresh: str | int = "batch",
        weight: float = 1.0,
        sync: bool = True,
        detach_benign: bool = False,
        select_by: str = "sensitivity",
        channel_dims: Mapping[str, int] | None = None,
        process_group: Any = None,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "model", "__class__")}
        check_settings(k, norm, scope, weight, select_by)
        super().__init__()
        self.weight = weight
        self._settings = settings
        self._select_by = select_by
        self._choice = Choice(k, scope, batches_per_choice(refresh), sync, process_group)
        model = innermost(model)
        taps = tap_names(model)
        selection = select_layers(model, (list(taps) or "activations") if layers is None else layers)
        if layers is None:
            selection.named.clear()  # nobody named them one by one: what cannot be measured is left out
        axes = {name: axis for name, axis in taps.items() if axis is not None and name in selection.modules}
        attachment = Attachment(model, selection, Recorder(norm, detach_benign), {**axes, **(channel_dims or {})})
        weakref.finalize(self, attachment.detach)
        self._attachment = attachment
        self._collection = Collection(attachment)

    # Collecting.

    def pairs(self) -> AbstractContextManager[None]:
        """Context in which the model is called once on ``[2N, ...]``, N benign, then their N adversarial samples."""
        return self._collection.open("pairs")

    def benign(self) -> AbstractContextManager[None]:
        """Context in which the model is called once on benign samples ``[N, ...]``; :meth:`adversarial` follows.

        Chosen layers' outputs are kept until then. Gradients may be off with ``detach_benign``.
        """
        return self._collection.open("benign")

    def adversarial(self) -> AbstractContextManager[None]:
        """Context in which the model is called once on the adversarial samples ``[N, ...]``, in the same order."""
        return self._collection.open("adversarial")

    def prepare(self, inputs: Inputs, verify: bool = True) -> None:
        """Look at the chosen layers with some benign ``inputs`` ``[N, ...]`` (a tensor, tuple or dict; a few suffice).

        Else this happens at the first paired forward; a compiled model needs it before. The model runs in evaluation
        mode without gradients, buffers and random state stay as they are. ``verify`` compares joined with separate
        samples (``capture.verify_pairing``). Raises ``ValueError`` or ``TypeError`` for a named layer that cannot be
        measured; one that came with a group is left out, see :attr:`skipped`.
        """
        length = batch_length(inputs)
        args = (inputs,) if isinstance(inputs, Tensor) else () if isinstance(inputs, Mapping) else tuple(inputs)
        kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
        self._collection.forget()
        self._attachment.prepare(args, kwargs, length, length, verify)

    # The loss.

    def loss(self) -> Tensor:
        """The loss ``[]`` of the last paired forward; once for each.

        Raises ``RuntimeError`` without such a forward, and ``ValueError`` where a named layer never ran or k is larger
        than a layer.
        """
        collected = self._collection.current()
        scores = collected.sensitivity
        if self._select_by == "distance":
            scores = torch.where(scores < 0, scores, collected.distances.detach())  # below 0: did not run
        self._choice.fit({row.name: row.channels for row in self._attachment.rows})
        places, shares = self._choice.places(scores, collected.samples)
        self._collection.finish()
        return self.weight * (collected.distances.index_select(0, places) * shares).sum()

    forward = loss

    def refresh(self) -> None:
        """Choose the neurons anew at the next :meth:`loss`."""
        self._choice.renew()

    # What was measured.

    @property
    def layers(self) -> list[str]:
        """Names of the rows, in the order of execution; before :meth:`prepare` those of the chosen modules."""
        return [row.name for row in self._attachment.rows] or list(self._attachment.selection.modules)

    @property
    def skipped(self) -> dict[str, str]:
        """Rows that came with a group and cannot be measured -> why."""
        return dict(self._attachment.found.skipped)

    @property
    def sensitivity(self) -> dict[str, Tensor]:
        """Row -> sensitivity ``[C]`` of every neuron in the last paired forward, without a gradient."""
        return self._collection.sensitivity

    @property
    def neurons(self) -> dict[str, Tensor]:
        """Row -> the neurons chosen last, int64 ``[k]``, most sensitive first; waits for the device."""
        return self._choice.neurons()

    def check(self) -> None:
        """Raise ``FloatingPointError`` naming neurons whose sensitivity was not finite since the last check.

        The only method that waits for the device in training.
        """
        found = [
            f"{name!r} neurons {listing(list(map(str, neurons)), 5)}"
            for name, neurons in self._collection.nonfinite().items()
        ]
        if found:
            raise FloatingPointError(
                f"the sensitivity is not finite in layer {', in layer '.join(found)}; look for an overflow in the "
                "first of them, or lower the learning rate"
            )

    # Life.

    def detach(self) -> None:
        """Remove all hooks from the model."""
        self._attachment.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def get_extra_state(self) -> dict[str, Any]:
        """The chosen neurons and how often they were used."""
        return self._choice.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on with the choice of :meth:`get_extra_state`."""
        self._choice.load(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> SNSLoss:
        """An SNSLoss on a copy of the model: on the same one where both are copied together."""
        model = copy.deepcopy(self._attachment.model, memo)
        if "_modules" not in model.__dict__:
            raise RuntimeError("an SNSLoss inside the model that it watches cannot be copied; keep it beside the model")
        copied = type(self)(model, **self._settings)
        copied.weight, copied.training = self.weight, self.training
        copied.set_extra_state(copy.deepcopy(self.get_extra_state()))
        if self._attachment.recorder.prepared:
            copied._attachment.install(self._attachment.found.copied())
        return copied

    def __getstate__(self) -> Any:
        raise TypeError("an SNSLoss hooks its model and cannot be pickled; save its state_dict()")

    def extra_repr(self) -> str:
        """The layers and the settings that differ from their defaults."""
        defaults = {name: value.default for name, value in inspect.signature(SNSLoss.__init__).parameters.items()}
        changed = [f"{name}={value!r}" for name, value in self._settings.items() if value != defaults[name]]
        return ", ".join([f"{len(self.layers)} layers", *changed])

"""Padding counts nowhere: padded batches against a float64 loop over samples without any padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurosens_fast import reference
from neurosens_fast.capture import (
    OutputHooks,
    Taps,
    attention_mask,
    functional_activations,
    list_layers,
    paired_forward,
    select_layers,
    shared_mask,
)
from neurosens_fast.statistics import METRICS, PairStatistics, metric, new_totals

from .test_taps import NoWaiting
from .transformers_like import LENGTHS, padded, text_classifier, texts

LAYERS = ["linear", "norms", "activations", "blocks", "word_embeddings"]


def outputs_of(model: nn.Module, sample: Tensor) -> dict[str, tuple[Tensor, int]]:
    """Row -> (float64 output, channel axis) of one sample that has no padding."""
    found: dict[str, tuple[Tensor, int]] = {}

    def keep(row: str, name: str, module: nn.Module, output: Any, axis: int | None) -> None:
        assert axis is not None
        found[row] = output.detach().double().clone(), axis

    with OutputHooks(model, select_layers(model, LAYERS), keep), torch.no_grad():
        model(input_ids=sample[None])
    return found


def one_by_one(
    model: nn.Module, benign: list[Tensor], adversarial: list[Tensor], tokens: str
) -> dict[str, dict[str, Tensor]]:
    """Every metric of every row, sample by sample without padding, by the reference in float64."""
    totals: dict[str, tuple[Tensor, Tensor]] = {}
    for sample, other in zip(benign, adversarial, strict=True):
        theirs = outputs_of(model, other)
        for row, (z, axis) in outputs_of(model, sample).items():
            z_adv = theirs[row][0]
            if z.dim() == 3:
                place = {"all": slice(None), "cls": slice(0, 1), "last": slice(-1, None)}[tokens]
                z, z_adv = z[:, place], z_adv[:, place]
            elif z.dim() == 4:  # [1, heads, L, D]
                place = {"all": slice(None), "cls": slice(0, 1), "last": slice(-1, None)}[tokens]
                z, z_adv = z[:, :, place], z_adv[:, :, place]
            sums, maxima = totals.setdefault(row, new_totals(z.shape[axis]))
            reference.accumulate_pair_statistics_(sums, maxima, z, z_adv, axis)
    return {row: {key: metric(key, *both, len(benign)) for key in METRICS} for row, both in totals.items()}


def taps_over(model: nn.Module, batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]], tokens: str) -> Taps:
    taps = Taps(model, LAYERS, tokens=tokens)
    for benign, adversarial in batches:
        taps.mask, taps.pairs = shared_mask(benign, adversarial), len(benign["input_ids"])
        with taps:
            paired_forward(model, benign, adversarial)
    return taps


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("tokens", ["all", "cls", "last"])
def test_padded_batches_equal_samples_without_padding(causal: bool, side: str, tokens: str) -> None:
    model = text_classifier(causal).double()
    benign, adversarial = texts(0), texts(1)
    batches = [  # of different lengths, the last of which has no padding
        tuple(padded(half[part], length, side) for half in (benign, adversarial))
        for part, length in ((slice(0, 3), 9), (slice(3, 5), 6), (slice(5, 6), 3))
    ]
    taps = taps_over(model, batches, tokens)  # type: ignore[arg-type]
    expected = one_by_one(model, benign, adversarial, tokens)
    assert list(taps.rows) == list(expected)
    assert {len(row.shape) for row in taps.rows.values()} == {1, 2, 3}, "pooled, tokens, heads"
    for row, metrics in expected.items():
        assert taps.statistics[row].samples == len(LENGTHS)
        for key, value in metrics.items():
            ours = taps.statistics[row].metric(key)
            torch.testing.assert_close(ours, value, rtol=1e-9, atol=1e-9, msg=f"{row} {key}")


def test_without_the_mask_padding_would_count() -> None:
    """The oracle above can fail: the same taps with no mask give other numbers."""
    model = text_classifier().double()
    benign, adversarial = (padded(texts(seed), 9, "right") for seed in (0, 1))
    masked, whole = taps_over(model, [(benign, adversarial)], "all"), Taps(model, LAYERS)
    with whole:
        paired_forward(model, benign, adversarial)
    for row in ("layers.0.intermediate_act_fn", "layers.1", "layers.0.attention.q_norm"):
        assert not torch.allclose(
            masked.statistics[row].metric("sensitivity"), whole.statistics[row].metric("sensitivity")
        )
    for row in ("pooler", "classifier"):
        assert torch.equal(masked.statistics[row].sums, whole.statistics[row].sums)


class Emits(nn.Module):
    """A layer ``odd`` that puts out the input in another layout."""

    def __init__(self, layout: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.odd = nn.Identity()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.layout(x))


@pytest.mark.parametrize(
    ("layout", "axis"),
    [
        (lambda x: x.flatten(2), -1),  # [2N, L, heads * D]
        (lambda x: x.flatten(2).transpose(1, 2), 1),  # [2N, C, L]
        (lambda x: x.transpose(1, 2), -1),  # [2N, heads, L, D]
        (lambda x: x, -1),  # [2N, L, heads, D]
        (lambda x: x, 2),  # heads as channels
        (lambda x: x.movedim(1, -1), 1),  # [2N, heads, D, L]
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_layout_of_tokens(layout: Callable[[Tensor], Tensor], axis: int, dtype: torch.dtype, device: str) -> None:
    """Masks with gaps, bool or float, against the reference on each sample's real tokens."""
    x = torch.randn(8, 5, 2, 3).to(device, dtype)
    mask = torch.tensor([[1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], device=device)
    for form in (mask, mask.bool(), mask.double()):
        taps = Taps(Emits(layout), ["odd"], {"odd": axis})
        taps.mask = form
        with taps:
            taps.model(x)
        neurons = layout(x).shape[axis]
        sums, maxima = new_totals(neurons)
        for row in range(4):
            z, z_adv = (layout(x[[at]][:, mask[row].bool()]).cpu() for at in (row, row + 4))
            reference.accumulate_pair_statistics_(sums, maxima, z, z_adv, axis)
        found = taps.statistics["odd"]
        assert found.samples == 4
        torch.testing.assert_close(found.sums.cpu(), sums, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.maxima.cpu(), maxima, rtol=0, atol=0)


def test_cls_and_last_without_a_mask() -> None:
    x = torch.randn(6, 4, 3)
    for tokens, place in (("cls", 0), ("last", 3)):
        with Taps(Emits(), ["odd"], {"odd": -1}, tokens) as taps:
            taps.model(x)
        expected = PairStatistics(3)
        expected.update(x[:3, place], x[3:, place])
        torch.testing.assert_close(taps.statistics["odd"].sums, expected.sums)
    image = torch.randn(6, 4, 5, 3)
    for shape, axis in ((x, 1), (image, -1), (image[:, :, 0, 0], 1)):
        whole = PairStatistics(shape.shape[axis])
        whole.update(shape[:3], shape[3:], axis)
        with Taps(Emits(), ["odd"], {"odd": axis}, "cls") as taps:
            taps.model(shape)
        assert torch.equal(taps.statistics["odd"].sums, whole.sums), "images and pooled outputs are measured whole"


@pytest.mark.parametrize("tokens", ["all", "cls", "last"])
def test_samples_without_a_real_token_add_nothing(tokens: str) -> None:
    x = torch.randn(6, 4, 3)
    x[[1, 4]] = torch.nan
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    taps, pooled = Taps(Emits(), ["odd"], {"odd": -1}, tokens), Taps(Emits(), ["odd"])
    taps.mask = mask
    with taps:
        taps.model(x)
        taps.mask = mask * 0
        taps.model(x)
    assert taps.statistics["odd"].samples == 2
    assert not len(taps.statistics["odd"].nonfinite())
    pooled.mask = mask
    with pooled:
        pooled.model(x.mean(1))
    assert pooled.statistics["odd"].samples == 3, "what is no token activation is measured as it is"
    empty = Taps(Emits(), ["odd"], {"odd": -1}, tokens)
    empty.mask = mask * 0
    with empty:
        empty.model(x)
    assert empty.statistics["odd"].samples == 0
    assert bool(empty.statistics["odd"].metric("sensitivity").isnan().all())


def test_a_full_mask_gives_the_same_bits_as_none() -> None:
    x = torch.randn(6, 4, 3)
    totals = []
    for mask in (None, torch.ones(3, 4)):
        taps = Taps(Emits(), ["odd"], {"odd": -1})
        taps.mask = mask
        with taps:
            taps.model(x)
        totals.append(taps.statistics["odd"])
    assert torch.equal(totals[0].sums, totals[1].sums)
    assert torch.equal(totals[0].maxima, totals[1].maxima)


def test_layers_never_wait_for_the_device(device: str) -> None:
    model = text_classifier().to(device)
    benign, adversarial = (
        {key: leaf.to(device) for key, leaf in padded(texts(seed), 9, "left").items()} for seed in (0, 1)
    )
    for tokens in ("all", "cls", "last"):
        taps = Taps(model, LAYERS, tokens=tokens)
        taps.mask = shared_mask(benign, adversarial)
        with NoWaiting(), taps:
            paired_forward(model, benign, adversarial)
        assert taps.statistics["layers.0"].samples == 6


def test_the_first_batch_decides_which_rows_have_tokens() -> None:
    taps = Taps(Emits(), ["odd"], {"odd": -1})
    taps.mask = torch.tensor([[1, 1, 0]])
    with taps:
        taps.model(torch.randn(2, 4, 3))  # images of 4 positions
        taps.mask = torch.tensor([[1, 1, 0, 0]])  # as long by chance
        taps.model(torch.ones(2, 4, 3))
    assert taps.statistics["odd"].samples == 2
    tokens = Taps(Emits(), ["odd"], {"odd": -1})
    tokens.mask = torch.tensor([[1, 1, 0]])
    with tokens:
        tokens.model(torch.randn(2, 3, 3))
        tokens.mask = torch.tensor([[1, 1, 0, 0]])
        with pytest.raises(ValueError, match=r"layer 'odd' puts out \[1, 3, 3\] under a mask of 4 tokens"):
            tokens.model(torch.randn(2, 3, 3))


def test_layouts_that_are_not_clear_are_left_out_or_refused() -> None:
    for layers in (["odd"], "od*"):
        taps = Taps(Emits(), layers)
        taps.mask = torch.tensor([[1, 0, 0]])
        if layers == "od*":
            with taps:
                taps.model(torch.randn(2, 5, 3, 3))
            assert "the axes [2, 3] are both as long as the mask" in taps.skipped["odd"]
            assert not taps.rows
        else:
            with pytest.raises(ValueError, match="leave the layer out"), taps:
                taps.model(torch.randn(2, 5, 3, 3))


def test_masks_that_do_not_fit() -> None:
    taps = Taps(Emits(), ["odd"], {"odd": -1})
    with pytest.raises(ValueError, match=r"mask must be a tensor \[N, L\], nonzero where a token is real, got \[3\]"):
        taps.mask = torch.ones(3)
    taps.mask = torch.ones(6, 4)
    with pytest.raises(ValueError, match="the mask has 6 rows for 3 pairs"), taps:
        taps.model(torch.randn(6, 4, 3))
    with pytest.raises(ValueError, match=r"tokens must be one of 'all' .*, 'last' .*, got 'first'"):
        Taps(Emits(), ["odd"], tokens="first")


def test_the_mask_of_both_halves() -> None:
    ids, mask = torch.ones(2, 3), torch.tensor([[1, 1, 0], [1, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": mask}
    assert shared_mask(inputs, {**inputs, "attention_mask": mask.float() * 5}) is mask, "the same tokens are real"
    assert shared_mask(ids, ids) is None
    assert shared_mask({"x": ids}, {"x": ids}) is None
    assert attention_mask({"attention_mask": torch.ones(2, 1, 3, 3)}) is None, "that is no padding"
    for other in (
        {"input_ids": ids},
        {**inputs, "attention_mask": mask.flip(1)},
        {**inputs, "attention_mask": mask[:1]},
    ):
        with pytest.raises(ValueError, match=r"differ in 'attention_mask'; .* must return the mask that it got"):
            shared_mask(inputs, other)


def test_listing_a_transformer() -> None:
    model = text_classifier()
    inputs = padded(texts(0), 9, "right")
    rows = {row.name: row for row in list_layers(model, inputs)}
    assert rows["layers.0.intermediate_act_fn"].groups == ("activations", "all")
    assert (rows["layers.0"].shape, rows["layers.0"].channel_dim, rows["layers.0"].note) == ((9, 8), -1, "")
    assert rows["layers.0.attention.q_norm"].shape == (2, 9, 4)
    assert rows["classifier"].shape == (3,)
    assert not any(row.note for row in rows.values() if row.shape)
    assert functional_activations(model, inputs) == []

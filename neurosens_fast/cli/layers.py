"""``neurosens-fast layers``: what of a model can be tapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import MODELS, NetworkOptions
from .output import print_facts, print_notes, standard_output
from .parsing import listed, shape

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from neurosens_fast.capture import LayerInfo, Selection

_BATCH = 2
_WIDEST_TYPE = 20


def run(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODELS} that returns a torch.nn.Module.")],
    sample: Annotated[
        Any,  # a tuple of sizes; typer would take a tuple for several words
        typer.Option(
            "--shape",
            parser=shape,
            metavar="SIZES",
            help="Shape of one input, as in 3,224,224: the model runs once on random numbers.",
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", metavar="TEXT", help="Only what this choice of audit --layers takes."),
    ] = None,
    network: NetworkOptions,
) -> None:
    """List the layers of a model that can be tapped.

    Prints name, type, channel axis and the groups that --layers of audit
    takes; with --shape also the shape of one sample's output, one row per call
    of a module, and activation functions that no tap can reach.

    [bold]neurosens-fast layers digits-cnn --shape 1,8,8[/]
    [bold]neurosens-fast layers torchvision:resnet18 --shape 3,224,224[/]
    [bold]neurosens-fast layers model.py:build --layers 'blocks.*.act,head'[/]
    """
    import torch

    from neurosens_fast.audit.tables import by_reason
    from neurosens_fast.capture import FUNCTIONAL_MEND, functional_activations, list_layers, select_layers

    from .prepare import check_fit, load_network, parameters

    loaded, description = load_network(model, network)
    chosen = select_layers(loaded, listed(layers)) if layers else None
    inputs: Tensor | None = None
    if sample is not None:
        check_fit(loaded, sample, "inputs of --shape")
        inputs = torch.rand(_BATCH, *sample, generator=torch.Generator().manual_seed(0))
    rows = list_layers(loaded, inputs)
    if chosen is not None:
        rows = [row for row in rows if _takes(chosen, row.name)]
    console = standard_output()
    console.print(_table(rows, inputs is not None))
    console.print()
    print_facts(console, [("model", f"{description}; {parameters(loaded)}"), ("groups", _groups(rows))])
    notes = [f"cannot be tapped: {line}" for line in by_reason({row.name: row.note for row in rows if row.note})]
    if inputs is None:
        notes.append("with --shape SIZES also shapes, every axis, every call of a module, and functions")
    else:
        functions = [str(found) for found in functional_activations(loaded, inputs)]
        if functions:
            notes.append(f"functions cannot be tapped: {', '.join(functions)}; {FUNCTIONAL_MEND}")
    print_notes(console, notes)


def _takes(chosen: Selection, row: str) -> bool:
    name, _, call = row.partition("#")
    return name in chosen.modules and chosen.wants(name, int(call or 1))


def _table(rows: Sequence[LayerInfo], with_shapes: bool) -> Table:
    from rich.text import Text

    from neurosens_fast.audit.tables import text_table

    title = "Layers, in the order of execution" if with_shapes else "Layers"
    numbers = ("type", "axis", "shape", "groups") if with_shapes else ("type", "axis", "groups")
    table = text_table(title, "layer", [row.name for row in rows], numbers)
    for column in table.columns[1:]:
        column.justify = "left"
    table.columns[1].max_width = _WIDEST_TYPE
    for row in rows:
        cells = [row.module_type, "-" if row.channel_dim is None else str(row.channel_dim)]
        if with_shapes:
            cells.append("-" if row.shape is None else "x".join(map(str, row.shape)))
        table.add_row(Text(row.name), *cells, ", ".join(_special(row)))
    return table


def _special(row: LayerInfo) -> list[str]:
    return [group for group in row.groups if group != "all"]


def _groups(rows: Sequence[LayerInfo]) -> str:
    from neurosens_fast.capture import LAYER_GROUPS

    counts = Counter(group for row in rows for group in row.groups)
    return ", ".join(f"{group} {counts[group]}" for group in LAYER_GROUPS if counts[group])

"""Explorations made by hand, of any size, for tests of pages; no model is run for them."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import dendrogram, linkage

from neurosens_fast.explorer.exploration import Clusters, Exploration, Features, Fields, Images, Level, Measure


def exploration(
    samples: int = 60,
    neurons: int = 24,
    classes: int = 4,
    levels: int = 2,
    bands: int = 3,
    side: int = 12,
    kept: int | None = None,
    name: str = "SmallCNN",
    seed: int = 0,
) -> Exploration:
    """An exploration with every part: classes are blobs; attacks move samples to the next one, the first most."""
    rng = np.random.default_rng(seed)
    kept = samples if kept is None else kept
    labels = np.arange(samples) % classes
    weights = rng.normal(size=(classes, neurons)).astype(np.float32)
    centres = np.maximum(rng.normal(size=(classes, neurons)), 0) * 2
    values = np.zeros((1 + levels, samples, neurons), np.float32)
    values[0] = np.maximum(centres[labels] + 0.3 * rng.normal(size=(samples, neurons)), 0)
    for level in range(levels):
        share = (levels - level) / (levels + 1)
        towards = centres[(labels + 1) % classes]
        values[1 + level] = np.maximum((1 - share) * values[0] + share * towards, 0)
    logits = np.einsum("enc,kc->enk", values, weights)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(-1, keepdims=True)).astype(np.float32)
    benign = rng.integers(0, 256, (samples, side, side, bands)).astype(np.uint8)
    change = rng.integers(-8, 9, (levels, samples, side, side, bands))
    adversarial = np.clip(benign.astype(np.int64) + change, 0, 255).astype(np.uint8)
    coordinates = np.einsum("enc,cd->end", values, rng.normal(size=(neurons, 2))).astype(np.float32)
    images = Images(
        samples=np.arange(samples),
        labels=labels,
        benign=benign,
        adversarial=adversarial,
        linf=np.full((levels, samples), 8 / 255),
        l2=rng.random((levels, samples)),
        probabilities=probabilities,
        adversarial_classes=np.where(np.eye(classes, dtype=bool)[labels], -1, probabilities[1:]).argmax(2),
        coordinates=coordinates,
        projection="PCA: 61 % and 14 % of the variance of benign values",
        values=values[:, :kept],
    )
    shift = values[1:] - values[:1]
    measures = (
        Measure("activation_change", "activation change", "mean |a' - a|", "activation", np.abs(shift).mean(1)),
        Measure(
            "swap_drop", "drop of p(y), swap", "mean p_y(x) - p_y(a_n from x')", "swap", rng.random((levels, neurons))
        ),
        Measure("score", "Bluff score", "sum over eps", "levels", rng.random((levels, neurons)) * np.ones((levels, 1))),
    )
    top = min(6, samples)
    order = np.argsort(-values[0], 0)[:top].T
    features = Features(
        values=np.take_along_axis(values[0].T, order, 1),
        samples=order,
        rows=order,
        patches=np.broadcast_to([2, 3, 9, 10], (neurons, top, 4)).copy(),
        extra=None,
        how="layer geometry",
    )
    shown, swapped = min(4, samples), min(5, neurons)
    masks = np.zeros((levels, shown, swapped, side, side), bool)
    for neuron in range(swapped):
        masks[:, :, neuron, neuron : neuron + 5, 2:8] = True
    shape = (levels, shown, swapped)
    fields = Fields(
        rows=np.arange(shown),
        neurons=np.arange(swapped)[::-1].copy(),
        masks=masks,
        drop=rng.random(shape).astype(np.float32),
        rise=rng.random(shape).astype(np.float32),
        seen=rng.random((*shape, 2, 2)).astype(np.float32) / 2,
        own=rng.random(swapped).astype(np.float32),
        control=rng.random(swapped).astype(np.float32) / 2,
        share=0.5,
    )
    links = linkage(np.concatenate([centres * weights, weights]).T, "ward")
    drawn = dendrogram(links, no_plot=True)
    # scipy orders the drawn links by its own walk; the page wants them in the order of the linkage
    places = {leaf: place for place, leaf in enumerate(drawn["leaves"])}
    x = [float(places[leaf]) for leaf in range(neurons)]
    y = [0.0] * neurons
    segments = []
    for first, second, height, _ in links:
        (x0, y0), (x1, y1) = sorted([(x[int(first)], y[int(first)]), (x[int(second)], y[int(second)])])
        segments.append([[x0, x0, x1, x1], [y0, height, height, y1]])
        x.append((x0 + x1) / 2)
        y.append(height)
    clusters = Clusters(
        linkage=links,
        leaf=np.arange(neurons),
        order=np.array(drawn["leaves"]),
        segments=np.array(segments),
        how="Ward's linkage of contributions to each class",
    )
    return Exploration(
        name=name,
        layer="logits (its input)",
        classes=tuple(f"class {number}" for number in range(classes)),
        levels=tuple(Level("PGD", (levels - level) / 20) for level in range(levels)),
        samples=samples,
        images=images,
        measures=measures,
        agreement=np.stack([np.corrcoef([one.values[level] for one in measures]) for level in range(levels)]),
        weights=weights,
        features=features,
        fields=fields,
        clusters=clusters,
        facts=(("model", name), ("data", f"{samples} made by hand")),
        notes=(),
        missing={},
    )

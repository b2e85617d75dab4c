"""What one model's page shows: plain numbers, computed once, and known to no drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Level:
    """One attack at one strength; ``eps`` is None where the attack has none or it is not known."""

    attack: str
    eps: float | None

    def __str__(self) -> str:
        return self.attack if self.eps is None else f"{self.attack}, eps {self.eps:.3g}"


def strongest(levels: Sequence[Level]) -> int:
    """The place of the level that stands for the others: of the first attack the one with the largest eps."""
    own = [place for place, level in enumerate(levels) if level.attack == levels[0].attack]
    return max(own, key=lambda place: levels[place].eps or 0.0)


@dataclass(frozen=True)
class Measure:
    """One number per neuron at every level: ``values`` ``[E, C]`` float64, NaN where it was not computed.

    ``name`` is that of a column, ``label`` that of an axis, ``definition`` one sentence with the formula. ``group``
    says where it comes from: ``"activation"``, ``"swap"``, ``"pixels"``, ``"levels"``, ``"audit"`` or ``"fragility"``.
    """

    name: str
    label: str
    definition: str
    group: str
    values: Array


@dataclass(frozen=True)
class Images:
    """The N samples that are shown one by one, and what the model made of them at E levels.

    ``samples`` ``[N]`` are their numbers in the data, ``labels`` ``[N]`` their classes. ``benign`` ``[N, H, W, B]`` and
    ``adversarial`` ``[E, N, H, W, B]`` are uint8, B 1 or 3, and None where inputs are no images. ``linf`` and ``l2``
    ``[E, N]`` are the sizes of the perturbations, in the units of the inputs. ``probabilities`` ``[1 + E, N, K]``
    float32 begin with the benign ones, and so do ``coordinates`` ``[1 + E, N, 2]`` float32, the projection of
    the neurons' values, and ``values`` ``[1 + E, V, C]`` float32, those of the first V of the samples.
    ``adversarial_classes`` ``[E, N]`` are the most probable classes under attack other than the true ones.
    """

    samples: Array
    labels: Array
    benign: Array | None
    adversarial: Array | None
    linf: Array
    l2: Array
    probabilities: Array
    adversarial_classes: Array
    coordinates: Array
    projection: str
    values: Array


@dataclass(frozen=True)
class Features:
    """The ``m`` inputs that stimulate each neuron most, of all samples that were read.

    ``values`` ``[C, m]`` float32 in falling order (NaN and sample -1 where there are fewer), ``samples`` ``[C, m]``
    their numbers in the data, ``rows`` ``[C, m]`` where their pictures are: below N in ``Images.benign``, from N on in
    ``extra`` ``[X, H, W, B]`` uint8, -1 without a picture. ``patches`` ``[C, m, 4]`` are the pixels ``top, left,
    bottom, right`` (the last two exclusive) that can reach the neuron's most stimulated position, its exact receptive
    field.
    ``how`` says in one sentence how those were found.
    """

    values: Array
    samples: Array
    rows: Array
    patches: Array
    extra: Array | None
    how: str


@dataclass(frozen=True)
class Fields:
    """Receptive fields of S neurons in J images at every level, and what swapping their pixels does.

    ``rows`` ``[J]`` are rows of ``Images``, ``neurons`` ``[S]`` neurons, most vulnerable first. ``masks``
    ``[E, J, S, H, W]`` bool hold the pixels with the largest influence on the neuron that together have ``share`` of
    it.
    ``drop`` and ``rise`` ``[E, J, S]`` float32 are the fall of the true class's probability and the rise of the
    adversarial class's when adversarial pixels are put into the benign image inside the mask. ``seen``
    ``[E, J, S, 2, 2]`` float32 are the probabilities of the true and of the adversarial class (last axis) for the
    benign and the adversarial image (last but one) with all but the mask grey. ``own`` and ``control`` ``[S]`` float32
    are the mean relative falls of the neuron's value when its own mask, or that of another neuron drawn at random, is
    made grey.
    """

    rows: Array
    neurons: Array
    masks: Array
    drop: Array
    rise: Array
    seen: Array
    own: Array
    control: Array
    share: float


@dataclass(frozen=True)
class Clusters:
    """Neurons by their role in the prediction: ``linkage`` ``[L - 1, 4]`` float64 as scipy makes it, over L leaves.

    ``leaf`` ``[C]`` is the leaf of each neuron, which is the neuron itself unless there are more neurons than leaves.
    ``segments`` ``[L - 1, 2, 4]`` float64 are x and y of the four corners of each link of the dendrogram, in the order
    of ``linkage``; leaves stand at x = 0, 1, ..., ``order`` ``[L]`` names the leaf at each. ``how`` says how it was
    made.
    """

    linkage: Array
    leaf: Array
    order: Array
    segments: Array
    how: str


@dataclass(frozen=True)
class Exploration:
    """Everything that is shown of one model. What could not be computed is None, and ``missing`` says why.

    ``classes`` are K names. ``weights`` ``[K, C]`` float32 are those of the linear layer that reads the neurons, None
    for neurons of another layer. ``agreement`` ``[E, M, M]`` are Spearman's rank correlations of the measures.
    ``facts`` describe the run (what, text); ``notes`` say what else is to be known; ``missing`` maps ``"images"``,
    ``"weights"``, ``"fields"``, ``"features"`` and ``"clusters"`` to the sentence that a view shows in its place.
    ``samples`` is how many samples measures are over, of which ``Images`` shows the first.
    """

    name: str
    layer: str
    classes: tuple[str, ...]
    levels: tuple[Level, ...]
    samples: int
    images: Images
    measures: tuple[Measure, ...]
    agreement: Array
    weights: Array | None
    features: Features | None
    fields: Fields | None
    clusters: Clusters | None
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    missing: dict[str, str]

    @property
    def neurons(self) -> int:
        """Number of neurons C."""
        return int(self.images.values.shape[2])

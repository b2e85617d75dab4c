"""Look, select, understand: an interactive page of how an attack works on a model's neurons.

A reconstruction of the views of Li, Wang, Fujiwara and Ma, "Visual analytics of neuron vulnerability to adversarial
attacks on convolutional neural networks", ACM Transactions on Interactive Intelligent Systems, 2023.
"""

from .exploration import Clusters, Exploration, Features, Fields, Images, Level, Measure
from .explorer import Explorer
from .run import explore

__all__ = [
    "Clusters",
    "Exploration",
    "Explorer",
    "Features",
    "Fields",
    "Images",
    "Level",
    "Measure",
    "explore",
]

"""How the outputs lie among the originals, as two sets of pictures: one figure of a set, by a network's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..harness.contracts import Item, Memo, Output, Sample
from ..harness.registry import metric
from .backends import features

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class _SetMetric:
    """Takes features of every picture, or frame; `sets` makes one figure of them and of the untouched cell's.

    With the weights that FID was defined with, a figure bears its usual name; with any other network it is named after
    that. A failed sample leaves the set without a figure.
    """

    name = ""
    usual = ""
    unit = ""
    worst: float | None = None
    mean_over = ""
    layer = "features"
    statistic = ""
    recipe = ""

    def __init__(self, backend: str = "toksweep-mini") -> None:
        """Raises `UserError` for features that are unknown, or whose weights are missing."""
        self.choice = features.choose(backend)
        self.name = self.usual if self.usual and self.choice.genuine else f"{self.name}[{self.choice.label}]"
        self.aggregation = f"set {self.statistic}"
        self.space = f"{self.choice.identity};{self.layer}"

    def protocol(self) -> str:
        """Network, weights, input, layer, and what is made of the features."""
        layer = features.LAYERS[self.choice.kind].get(self.layer, self.layer)
        return f"{self.choice.identity};layer={layer};{self.recipe}"

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return []

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """No item: the figure is one of the set."""
        return []

    def features(self, output: Output, sample: Sample, memo: Memo) -> NDArray[np.float32]:
        """[pictures, numbers] of the picture, or of every frame.

        Raises:
            ValueError: the output has no picture.
        """
        pictures = output.frames or ((output.image,) if output.image else ())
        if not pictures:
            raise ValueError("there is no picture to take features of")
        return memo.once(("features", self.choice), lambda: features.load(self.choice)(pictures))[self.layer]


@metric("fd", family="reconstruction", unit="", higher_is_better=False, backend="features")
class FrechetDistance(_SetMetric):
    """Fréchet distance of two Gaussians fitted to features: rFID with Inception's weights."""

    name = "fd"
    usual = "rfid"
    higher_is_better = False
    statistic = "frechet"
    recipe = "n-1 covariance"


@metric("kd", family="reconstruction", unit="", higher_is_better=False, backend="features")
class KernelDistance(_SetMetric):
    """Squared maximum mean discrepancy of features, cubic kernel, unbiased: KID with Inception's weights."""

    name = "kd"
    usual = "kid"
    higher_is_better = False
    statistic = "kernel"
    recipe = "cubic kernel;100 subsets of 1000 or all"


@metric("inception_score", family="reconstruction", unit="", higher_is_better=True, backend="features")
class InceptionScore(_SetMetric):
    """How sure Inception's classes are, and how many: of the outputs alone."""

    name = "is"
    usual = "is"
    higher_is_better = True
    layer = "logits"
    statistic = "inception_score"
    recipe = "10 splits, shuffled"

    def __init__(self, backend: str = "toksweep-mini") -> None:
        """Raises `UserError` also for a network without classes."""
        super().__init__(backend)
        features.check_classes(self.choice)


@metric("precision", family="reconstruction", unit="", higher_is_better=True, backend="features")
class Precision(_SetMetric):
    """The share of outputs that lie among the originals, by the balls of 3 neighbours in feature space."""

    name = "precision"
    higher_is_better = True
    statistic = "precision"
    recipe = "3 neighbours"


@metric("recall", family="reconstruction", unit="", higher_is_better=True, backend="features")
class Recall(_SetMetric):
    """The share of originals that lie among the outputs, by the balls of 3 neighbours in feature space."""

    name = "recall"
    higher_is_better = True
    statistic = "recall"
    recipe = "3 neighbours"

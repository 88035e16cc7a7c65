"""Is it still the same face? Distance and cosine between a real embedder's vectors of the original and the output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..harness.contracts import Item, Memo, Output, Region, Sample
from ..harness.registry import metric
from .backends import faces

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]


class _FaceMetric(ABC):
    """Embeds every scored face of the output and of the original, on the same alignment.

    The alignment comes from the known box or key points and is found on the original alone, so that a detector's
    failure is not taken for a lost identity. The headline is the plain mean of the size bins' means, as in TokBench
    (arXiv:2505.18142); faces below the smallest bin are left out.
    """

    unit = ""
    mean_over = "size"
    name = ""
    names: Mapping[str, str] = MappingProxyType({})

    def __init__(self, backend: str = "dlib", accept_licence: tuple[str, ...] = ()) -> None:
        """Raises `UserError` for a backend that is unknown, not installed or without weights."""
        faces.check(backend, accept_licence)
        self.backend = backend
        self.accept_licence = accept_licence
        self.name = self.names.get(backend, f"{self.name}[{backend}]")

    def protocol(self) -> str:
        """Alignment, software and weights."""
        return f"original-alignment;{self._faces().embedder.identity()}"

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [region.slices for region in self._scored(sample)]

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item per face.

        Raises:
            ValueError: the output has no picture.
            UserError: a face lacks the key points that the backend aligns by.
        """
        regions = self._scored(sample)
        pairs = memo.once(("faces", self.backend), lambda: self._faces().pairs(output, sample, regions))
        return [Item(self.compare(*pair), region.slices) for pair, region in zip(pairs, regions, strict=True)]

    @abstractmethod
    def compare(self, ours: Vector, original: Vector) -> float:
        """The score of two vectors."""

    def _faces(self) -> faces.Faces:
        return faces.load(self.backend, self.accept_licence)

    def _scored(self, sample: Sample) -> list[Region]:
        return [region for region in sample.regions if region.slices]


@metric("face_distance", family="reconstruction", unit="", higher_is_better=False, backend="faces")
class FaceDistance(_FaceMetric):
    """Euclidean distance between the vectors; lower is better. Larger distances than the backend's farthest are cut."""

    name = "face_distance"
    higher_is_better = False

    def __init__(self, backend: str = "dlib", accept_licence: tuple[str, ...] = ()) -> None:
        super().__init__(backend, accept_licence)
        self.worst: float | None = faces.FARTHEST[backend]

    def compare(self, ours: Vector, original: Vector) -> float:
        import numpy as np

        return min(float(np.linalg.norm(ours - original)), faces.FARTHEST[self.backend])


@metric("face_similarity", family="reconstruction", unit="", higher_is_better=True, backend="faces")
class FaceSimilarity(_FaceMetric):
    """Cosine between the vectors, in [-1, 1].

    dlib's vectors are not centred: their cosine moves between 0.94 and 1 where an ArcFace cosine moves between 0 and 1,
    and the two are not comparable. With InsightFace's antelopev2 it is TokBench's F-Sim, and called so.
    """

    name = "face_similarity"
    names = MappingProxyType({"insightface": "f_sim"})
    higher_is_better = True
    worst: float | None = -1.0

    def compare(self, ours: Vector, original: Vector) -> float:
        import numpy as np

        return float(ours @ original / (np.linalg.norm(ours) * np.linalg.norm(original)))

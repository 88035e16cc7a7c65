"""CenterCLIP: cluster the patches of a few consecutive frames, and keep the medoids."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...harness.contracts import ModelShape, Reduction, Stage, View
from ...harness.registry import compressor
from .. import parameters
from ..clustering import affinity, k_medoids, spectrum
from ..frames import frames_of


@compressor(
    "centerclip",
    places=("projector",),
    frames=True,
    paper="arXiv 2205.00823",
    repository="mzhaoshuai/CenterCLIP",
    verified="selection",
)
@dataclass(frozen=True)
class CenterCLIP:
    """K-medoids over the tokens of every `frames` consecutive frames of a clip; medoids stay in raster order.

    Paper: CenterCLIP: Token Clustering for Efficient Text-Video Retrieval, arXiv 2205.00823; authors' repository
    mzhaoshuai/CenterCLIP. `view.tokens` [batch, images * n, dim]; distances are Euclidean (`cosine=True`: 1 - cosine).
    Medoids start from the longest vector and go on to the point farthest from all chosen ones (KKZ); at most 100
    rounds. The medoids themselves go on, or the means of their clusters with `mean=True`. With `sigma` the clustering
    is spectral: of a heat kernel's eigenvectors instead of the tokens. Segments share the budget of the clip by their
    numbers of frames; the last one may be shorter.

    Departs from the paper: there it acts inside CLIP's image tower, before block 7 of 12, and the segment becomes one
    frame whose class token is the mean of its frames'; here it acts on projected tokens, which keep their frames. The
    authors' segments hold 2 or 3 of 12 frames; `frames` is 2. Segments are clustered one by one, whereas the code stops
    a chunk of them together, which makes no difference once they have settled.
    """

    frames: int = 2
    cosine: bool = False
    mean: bool = False
    sigma: float | None = None

    def __post_init__(self) -> None:
        parameters.whole(self, "frames")
        parameters.above(self, "sigma", least=0)

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        return (Stage("projector", keep, joint=True),)

    def reduce(self, view: View, keep: int) -> Reduction:
        n = view.tokens.shape[1]
        images = frames_of(view)
        each = n // images
        kept: list[torch.Tensor] = []
        groups: list[torch.Tensor] = []
        for first in range(0, images, self.frames):
            last = min(first + self.frames, images)
            clusters = keep * last // images - keep * first // images
            points = view.tokens[:, first * each : last * each].float()
            if self.sigma is not None and clusters:
                points = spectrum(affinity(points, self.sigma), clusters)
            medoids, assigned = k_medoids(points, clusters, cosine=self.cosine)
            groups.append(assigned + sum(m.shape[1] for m in kept))
            kept.append(medoids + first * each)
        anchor = torch.cat(kept, 1)
        if not self.mean:
            return Reduction.keep(anchor, n, position="renumber")
        return Reduction.merge(torch.cat(groups, 1), anchor=anchor, position="renumber")

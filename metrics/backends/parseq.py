"""docTR's PARSeq, which reads TokBench's words, with what TokBench tells it of them (arXiv:2505.18142).

TokBench calls the model with the transcripts, which ends every reading of a batch one sign behind the longest of them.
Nothing else of a batch changes a reading: PARSeq writes sign by sign and then looks at all of them once more, masking
what stands behind a word's own end; how many places there are is all that the transcripts decide. So a word is read as
in TokBench if its number of places is the same, whatever words it is read with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...harness.contracts import UserError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

WEIGHTS = "parseq-56125471"
"""Those of TokBench; docTR names a file by its SHA-256, and checks it."""
SEEN, READ = 8, 64
"""Crops that are encoded and decoded at once: what the encoder makes of more does not stay in a CPU's cache."""
LONGEST_TOLD = 30
"""docTR cuts transcripts to 32 places, start and end included."""


class Parseq:
    """PARSeq on crops that are fitted into 32 x 128 pixels."""

    def __init__(self) -> None:
        """Raises `UserError` where docTR would load other weights than TokBench's."""
        from doctr.models import recognition
        from doctr.models.recognition.parseq import pytorch

        if WEIGHTS not in pytorch.default_cfgs["parseq"]["url"]:
            raise UserError(
                f"The docTR that is installed loads another PARSeq than TokBench's ({WEIGHTS}): try its 1.1."
            )
        self._model = recognition.parseq(pretrained=True).eval()
        self._longest = int(self._model.max_length)
        projections = self._model.decoder.cross_attention.linear_layers
        for i in (1, 2):  # keys and values
            projections[i] = _once(projections[i])

    def read(self, crops: Sequence[Image]) -> list[str]:
        """The transcript of each RGB crop, without being told anything."""
        return self.decode(self.encode(crops))

    def encode(self, crops: Sequence[Image]) -> torch.Tensor:
        """[crops, patches, dim], what the decoder looks at."""
        import torch
        from torchvision.transforms.functional import normalize

        config, found = self._model.cfg, []
        height, width = config["input_shape"][-2:]
        with torch.inference_mode():
            for start in range(0, len(crops), SEEN):
                batch = torch.stack([fit(crop, height, width) for crop in crops[start : start + SEEN]])
                seen = self._model.feat_extractor(normalize(batch, config["mean"], config["std"]))["features"]
                found.append(seen[:, 1:])  # the first is the class token
            return torch.cat(found) if found else torch.empty(0, 1, 1)

    def decode(self, features: torch.Tensor, longest: Sequence[int] | None = None) -> list[str]:
        """The transcripts of encoded crops.

        Args:
            longest: for each crop the length of the longest transcript of its batch in TokBench; None tells nothing.
        """
        import torch

        most = [self._longest if longest is None else min(n, LONGEST_TOLD) for n in longest or [0] * len(features)]
        readings = [""] * len(most)
        with torch.inference_mode():
            for places in sorted(set(most)):
                alike = [i for i, n in enumerate(most) if n == places]
                # Not told, the model stops as soon as all words have ended, and reads the same.
                self._model.max_length = places
                for start in range(0, len(alike), READ):
                    part = alike[start : start + READ]
                    logits = self._model.decode_autoregressive(features[part])
                    for i, (text, _) in zip(part, self._model.postprocessor(logits), strict=True):
                        readings[i] = text
        return readings


def _once(layer: torch.nn.Module) -> torch.nn.Module:
    """A layer that computes again only for another tensor: PARSeq projects the picture anew for every sign."""
    import torch

    class Once(torch.nn.Module):
        given: torch.Tensor | None = None
        made: torch.Tensor

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            if given is not self.given:
                self.given, self.made = given, layer(given)
            return self.made

    return Once()


def fit(crop: Image, height: int, width: int) -> torch.Tensor:
    """A crop within [3, height, width], shape kept, antialiased bilinear, zeros to the right and below.

    Sides are rounded in docTR's own arithmetic.
    """
    import torch
    from torchvision.transforms.functional import InterpolationMode, pil_to_tensor, resize

    shape = crop.height / crop.width
    tall = shape > height / width
    size = [height, max(int(height / shape), 1)] if tall else [max(int(width * shape), 1), width]
    small = resize(pil_to_tensor(crop).float() / 255, size, InterpolationMode.BILINEAR, antialias=True)
    canvas = torch.zeros(3, height, width)
    canvas[:, : size[0], : size[1]] = small
    return canvas

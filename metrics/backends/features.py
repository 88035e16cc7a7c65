"""Networks whose features set distances compare: Inception where its weights are at hand, else a small tower of ours.

Only Inception's own weights, told by their hash, give figures their usual names.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...harness.contracts import UserError
from ...harness.models.embedded import embedded
from . import FEATURES, BackendStatus, file_digest, installed_version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Layers = dict[str, NDArray[np.float32]]

OURS, INCEPTION = FEATURES
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_DIGEST = "6726825d"
"""The first digits of the SHA-256 of torch-fidelity's conversion of the weights that FID was defined with."""
LAYERS = {INCEPTION: {"features": "2048", "logits": "logits_unbiased"}, OURS: {"features": "mean_patch"}}
"""What torch-fidelity calls a layer; ours sorts nothing, and has no logits."""


@dataclass(frozen=True)
class Extractor:
    """A network under torch-fidelity's interface, which is given one picture at a time as uint8 RGB, as it is."""

    identity: str
    layers: dict[str, str]
    network: Callable[[Any], tuple[Any, ...]]

    def __call__(self, pictures: Sequence[Image]) -> Layers:
        """[pictures, numbers] of each layer."""
        import numpy as np
        import torch

        found: list[tuple[Any, ...]] = []
        with torch.inference_mode():
            for picture in pictures:
                pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
                found.append(self.network(pixels))
        stacked = [torch.cat(layer).numpy().astype(np.float32) for layer in zip(*found, strict=True)]
        return dict(zip(self.layers, stacked, strict=True))


@dataclass(frozen=True)
class Choice:
    """What `--features` names: `kind` is of `FEATURES`, `file` holds Inception's weights, or those of its likes."""

    kind: str
    file: Path | None = None

    @property
    def digest(self) -> str:
        """Of the weights, eight digits."""
        return file_digest(self.file or embedded()[OURS] / "model.safetensors")

    @property
    def genuine(self) -> bool:
        """Are these the weights that FID is defined with?"""
        return self.kind == INCEPTION and self.digest == INCEPTION_DIGEST

    @property
    def label(self) -> str:
        """How metrics name it: `toksweep-mini`, `inception`, or with other weights `inception:0a1b2c3d`."""
        return self.kind if self.kind == OURS or self.genuine else f"{self.kind}:{self.digest}"

    @property
    def identity(self) -> str:
        """Of a protocol: the network, its input and its weights."""
        size = "299x299 as TensorFlow 1" if self.kind == INCEPTION else "96x96 bicubic, antialiased"
        return f"{self.kind}={self.digest};resize={size};torch-fidelity={installed_version('torch-fidelity')}"


def choose(given: str) -> Choice:
    """What a user's word means.

    Args:
        given: a name of `FEATURES`, or the file with Inception's weights.

    Raises:
        UserError: neither, or weights that are not where torch-fidelity would keep them.
    """
    if given == OURS:
        return Choice(OURS)
    file = _kept() if given == INCEPTION else Path(given).expanduser()
    if file.is_file():
        if given == INCEPTION and file_digest(file) != INCEPTION_DIGEST:
            raise UserError(f"{file} is damaged (its SHA-256 does not begin with {INCEPTION_DIGEST}): fetch it again.")
        return Choice(INCEPTION, file)
    if given == INCEPTION:
        raise UserError(f"The weights of Inception are missing: {_how()}.")
    raise UserError(
        f"There is no {given!r} to take features with: --features takes {', '.join(FEATURES)}, or a file with the "
        "weights of Inception."
    )


def check_classes(choice: Choice) -> None:
    """Raises `UserError` where a network has no classes, which the Inception score needs."""
    if "logits" not in LAYERS[choice.kind]:
        raise UserError(f"inception_score needs Inception's classes, and {choice.kind} has none: {_how()}.")


@cache
def load(choice: Choice) -> Extractor:
    """The network, loaded once per process.

    Raises:
        UserError: a file that does not hold the weights of an Inception network alone.
    """
    layers = LAYERS[choice.kind]
    if choice.file is None:
        from .tower import Tower

        return Extractor(choice.identity, layers, Tower(OURS, list(layers.values())))
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3(
        INCEPTION, list(layers.values()), feature_extractor_weights_path=_plain(choice.file)
    )
    return Extractor(choice.identity, layers, network)


def _plain(file: Path) -> io.BytesIO:
    """The tensors of a file, written anew: torch-fidelity unpickles what it is given without a care."""
    import pickle

    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
            raise ValueError("not a mapping of tensors")
        if "Mixed_7c.branch_pool.conv.weight" not in state or "fc.weight" not in state:
            raise ValueError("no Inception network as torch-fidelity names its parts")
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{file} holds no weights of Inception ({reason}): {_how()}.") from error
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def checkpoints() -> Path:
    """Where PyTorch keeps what it downloads."""
    cache_home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache_home}/torch")).expanduser() / "hub" / "checkpoints"


def _kept() -> Path:
    return checkpoints() / Path(INCEPTION_URL).name


def _how() -> str:
    return f"put {INCEPTION_URL} in {checkpoints()}, or name the file with --features FILE"


def survey() -> list[BackendStatus]:
    """The networks, in the order of `FEATURES`."""
    file = _kept()
    there = file.is_file()
    ready = there and file_digest(file) == INCEPTION_DIGEST
    detail = f"{file.name} {'at hand' if ready else 'damaged' if there else 'missing'}"
    return [
        BackendStatus(OURS, "features", True, "comes with us", ""),
        BackendStatus(INCEPTION, "features", ready, detail, "" if ready else _how()),
    ]

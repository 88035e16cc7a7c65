"""The networks of LPIPS: torchvision's weights where they are at hand, the linear layers come with torchmetrics."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ...harness.contracts import UserError
from . import BackendStatus, file_digest, package_folder
from .features import checkpoints

BACKBONES = {
    "alex": ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
    "vgg": ("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
}
"""Where torchvision's weights are, and the first digits of their SHA-256."""


def check(net: str) -> Path:
    """The weights file of a network.

    Raises:
        UserError: an unknown network, torchmetrics missing, or weights that are missing or damaged.
    """
    if net not in BACKBONES:
        raise UserError(f"lpips has no network {net!r}: write lpips(net='alex') or lpips(net='vgg').")
    if package_folder("torchmetrics") is None:
        raise UserError("lpips needs the linear layers that come with torchmetrics: pip install torchmetrics.")
    file = _file(net)
    if not file.is_file():
        raise UserError(f"The weights of lpips ({net}) are missing: {_how(net)}.")
    if file_digest(file) != BACKBONES[net][1]:
        raise UserError(f"{file} is damaged (its SHA-256 does not begin with {BACKBONES[net][1]}): {_how(net)}.")
    return file


@cache
def load(net: str) -> Callable[[Any, Any], Any]:
    """The network, loaded once per process; it takes two [n, 3, height, width] in [-1, 1].

    Raises:
        UserError: as in `check`.
    """
    import torch
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    state = torch.load(check(net), map_location="cpu", weights_only=True)
    network = _NoTrainLpips(net=net, pnet_rand=True)
    own = network.net.state_dict()  # slice1.0.weight of torchvision's features.0.weight
    network.net.load_state_dict({name: state[f"features.{name.partition('.')[2]}"] for name in own})
    loaded: Callable[[Any, Any], Any] = network
    return loaded


def identity(net: str) -> str:
    """The network with a digest of its weights, and that of the linear layers."""
    linear = (package_folder("torchmetrics") or Path()) / "functional" / "image" / "lpips_models" / f"{net}.pth"
    return f"{net}={file_digest(check(net))};linear={file_digest(linear)}"


def _file(net: str) -> Path:
    return checkpoints() / Path(BACKBONES[net][0]).name


def _how(net: str) -> str:
    return f"put {BACKBONES[net][0]} in {checkpoints()}"


def survey() -> list[BackendStatus]:
    """The networks, in the order of `BACKBONES`."""
    found = []
    for net, (_, digest) in BACKBONES.items():
        file = _file(net)
        ready = file.is_file() and file_digest(file) == digest and package_folder("torchmetrics") is not None
        detail = f"{file.name} {'at hand' if ready else 'damaged' if file.is_file() else 'missing'}"
        found.append(BackendStatus(f"lpips({net})", "lpips", ready, detail, "" if ready else _how(net)))
    return found

"""LPIPS by torchmetrics with weights from a file, against the paper's formula written out; and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from toksweep.harness.contracts import Memo, Output, Sample, UserError
from toksweep.metrics.backends import file_digest, lpips, package_folder
from toksweep.metrics.perceptual import Lpips


@pytest.fixture
def alexnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A random AlexNet whose file is taken for the published one."""
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None).eval()
    file = tmp_path / "hub" / "checkpoints" / Path(lpips.BACKBONES["alex"][0]).name
    file.parent.mkdir(parents=True)
    torch.save(network.features.state_dict(prefix="features."), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(lpips.BACKBONES, "alex", (lpips.BACKBONES["alex"][0], file_digest(file)))
    lpips.load.cache_clear()
    yield network
    lpips.load.cache_clear()


def by_hand(network: torch.nn.Module, *pictures: Image.Image) -> float:
    """Zhang et al. 2018, equation 1, at the five ReLUs, with the weights of version 0.1."""
    folder = package_folder("torchmetrics") / "functional" / "image" / "lpips_models"
    linear = torch.load(folder / "alex.pth", map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    sides = []
    for picture in pictures:
        x = (torch.from_numpy(np.array(picture)) / 127.5 - 1 - shift) / scale
        x, found = x.permute(2, 0, 1)[None].float(), []
        for number, layer in enumerate(network.features[:12]):
            x = layer(x)
            if number in (1, 4, 7, 9, 11):
                found.append(x / x.pow(2).sum(1, keepdim=True).sqrt())
        sides.append(found)
    total = 0.0
    for number, (a, b) in enumerate(zip(*sides, strict=True)):
        total += float(((a - b) ** 2 * linear[f"lin{number}.model.1.weight"]).sum(1).mean())
    return total


def test_lpips_is_the_papers_and_its_name_carries_net_and_weights(alexnet: torch.nn.Module) -> None:
    noise = (np.random.default_rng(i).integers(0, 255, (70, 90, 3), np.uint8) for i in (0, 1))
    original, other = map(Image.fromarray, noise)
    metric, sample = Lpips(), Sample("s", "s", (lambda: original,), "")
    (item,) = metric.score(Output(image=other), sample, Memo())
    with torch.inference_mode():
        assert item.value == pytest.approx(by_hand(alexnet, other, original), rel=1e-4)
    assert metric.score(Output(image=original), sample, Memo())[0].value == 0.0
    assert metric.name == f"lpips[alex:{lpips.BACKBONES['alex'][1]}]"
    tiny = Sample("t", "t", (lambda: original.crop((0, 0, 20, 90)),), "")
    assert metric.items(tiny) == metric.score(Output(image=tiny.images[0]()), tiny, Memo()) == []


def test_damaged_weights_are_refused(alexnet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lpips.BACKBONES, "alex", (lpips.BACKBONES["alex"][0], "00000000"))
    with pytest.raises(UserError, match="is damaged"):
        Lpips()

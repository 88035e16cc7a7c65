"""Set figures with Inception's network agree with torch-fidelity's own command on the same folders, and are only called
FID with the weights that FID is defined with."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toksweep.harness.contracts import Memo, Output, Sample, UserError
from toksweep.metrics import distribution, sets
from toksweep.metrics.backends import features

PICTURES = 6


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Inception of random weights (He et al. 2015, so that features neither vanish nor explode)."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    class Bare(theirs.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:
            """Keeps what it was built with."""

    nothing = tmp_path_factory.mktemp("inception") / "nothing.pth"
    torch.save({}, nothing)
    state = Bare("bare", ["2048"], feature_extractor_weights_path=nothing).state_dict()
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    torch.save(state, nothing.with_name("inception.pth"))
    return nothing.with_name("inception.pth")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures of noise on a colour, and the same with other noise."""
    found = []
    for side in ("ours", "originals"):
        folder = tmp_path_factory.mktemp(side)
        for number in range(PICTURES):
            colour = np.random.default_rng(number).integers(60, 190, 3)
            noise = np.random.default_rng([number, len(found)]).normal(0, 30, (40, 48, 3))
            Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        found.append(folder)
    return found[0], found[1]


def told_by_their_command(folders: tuple[Path, Path], monkeypatch, capsys, *flags: str) -> dict[str, float]:
    from torch_fidelity.fidelity import main

    both = ["--input1", str(folders[0]), "--input2", str(folders[1])]
    extractor = ["--feature-extractor", "inception-v3-compat"]
    monkeypatch.setattr(
        sys, "argv", ["fidelity", *both, *extractor, "--cpu", "--json", "--no-cache", "--silent", *flags]
    )
    capsys.readouterr()
    main()
    return json.loads(capsys.readouterr().out)


def figures(metrics, folders: tuple[Path, Path]) -> list[float]:
    """Of features that are taken one picture at a time, and shared as the metrics of one output share them."""
    sides: list[list[np.ndarray]] = []
    for folder in folders:
        found = []
        for file in sorted(folder.iterdir()):
            output, memo = Output(image=Image.open(file)), Memo()
            found.append([metric.features(output, Sample("s", "s", (), ""), memo) for metric in metrics])
        sides.append([np.concatenate(layer) for layer in zip(*found, strict=True)])
    named = [metric.aggregation.removeprefix("set ") for metric in metrics]
    sets_of = zip(named, *sides, strict=True)
    return [sets.measure(name, ours, originals, ["one"] * PICTURES).value for name, ours, originals in sets_of]


def test_figures_equal_those_of_the_fidelity_command(weights, folders, monkeypatch, capsys) -> None:
    theirs = told_by_their_command(
        folders, monkeypatch, capsys, "--isc", "--kid", "--prc", "--fid", "--feature-layer-fid", "64",
        "--isc-splits", "2", "--kid-subset-size", str(PICTURES), "--batch-size", "1",
        "--feature-extractor-weights-path", str(weights),
    )  # fmt: skip
    monkeypatch.setattr(sets, "SPLITS", 2)
    monkeypatch.setitem(features.LAYERS, "inception", {**features.LAYERS["inception"], "early": "64"})
    early = distribution.FrechetDistance(str(weights))
    early.layer = "early"  # of 64 numbers: the eigenvalues of 2048 take their command a quarter of a minute
    names = {
        "frechet_inception_distance": early,
        "kernel_inception_distance_mean": distribution.KernelDistance(str(weights)),
        "inception_score_mean": distribution.InceptionScore(str(weights)),
        "precision": distribution.Precision(str(weights)),
        "recall": distribution.Recall(str(weights)),
    }
    ours = dict(zip(names, figures(names.values(), folders), strict=True))
    assert ours == pytest.approx({name: theirs[name] for name in names}, rel=1e-6, abs=1e-7)
    assert theirs["frechet_inception_distance"] > 1e-3


@pytest.mark.slow
def test_the_frechet_distance_of_2048_numbers_equals_that_of_the_fidelity_command(
    weights, folders, monkeypatch, capsys
) -> None:
    theirs = told_by_their_command(
        folders, monkeypatch, capsys, "--fid", "--batch-size", "1", "--feature-extractor-weights-path", str(weights)
    )
    (ours,) = figures([distribution.FrechetDistance(str(weights))], folders)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6, abs=1e-6)


def test_other_weights_have_another_name(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = features.choose(str(weights)).digest
    assert distribution.FrechetDistance(str(weights)).name == f"fd[inception:{digest}]"
    assert f"inception={digest};" in distribution.FrechetDistance(str(weights)).protocol()
    monkeypatch.setattr(features, "INCEPTION_DIGEST", digest)  # as if these were the ones
    names = [m(str(weights)).name for m in (distribution.FrechetDistance, distribution.KernelDistance)]
    assert names == ["rfid", "kid"]
    assert distribution.InceptionScore(str(weights)).name == "is"
    assert distribution.Precision(str(weights)).name == "precision[inception]"


class Harm:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("content", [pickle.dumps(Harm()), b"", b"not a pickle"])
def test_a_file_that_is_no_state_dict_is_refused_and_never_run(content: bytes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(content)
    metric = distribution.FrechetDistance("weights.pth")
    with pytest.raises(UserError, match="holds no weights of Inception"):
        metric.features(Output(image=Image.new("RGB", (8, 8))), Sample("s", "s", (), ""), Memo())
    assert not (tmp_path / "harm").exists()


def test_an_unsafe_pickle_inside_a_torch_file_is_refused_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Harm()}, "weights.pth")
    with pytest.raises(UserError, match="holds no weights of Inception"):
        features.load(features.choose("weights.pth"))
    assert not (tmp_path / "harm").exists()


def test_intervals_hold_the_figure_of_a_large_set_about_as_often_as_they_say() -> None:
    """Of two shifted Gaussians whose draws do not correspond: there the kernel distance has no bias."""

    def draw(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.normal(size=(n, 4)).astype(np.float32) + 0.5, rng.normal(size=(n, 4)).astype(np.float32)

    truth = np.mean([sets.kernel(*draw(1000 + seed, 900)) for seed in range(12)])
    found = [sets.measure("kernel", *draw(seed, 40), [str(i) for i in range(40)]) for seed in range(60)]
    assert 0.85 <= np.mean([i.low <= truth <= i.high for i in found]) < 1.0
    assert np.isnan(sets.measure("kernel", *draw(0, 40), ["one"] * 40).low)

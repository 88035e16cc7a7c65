"""TiTok's network is the authors', their checkpoints find their places in it, and any prefix of tokens is a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toksweep.harness.contracts import UserError
from toksweep.methods.titok import TiTok, TiTokConfig, ViTSize, prefix, tail_drop
from toksweep.methods.titok_checkpoints import CONFIGS, SIZES, config_of, load, load_weights, renamed, save

HERE = Path(__file__).parent
RECORD = json.loads((HERE / "titok_tensors.json").read_text())
TINY = TiTokConfig(32, 16, 8, 4, ViTSize(32, 2, 4), ViTSize(48, 2, 4), "fsq", (8, 5, 5, 5), nested=True)
AUTHORS = {
    "first": replace(
        TINY, latents=8, token_size=6, quantizer="unit_vq", parts=(64,), head="vqgan", interleaved=True,
        decoder=ViTSize(32, 2, 4), vqgan_channels=32,
    ),
    "second": replace(TINY, latents=8, token_size=6, quantizer="vq", parts=(64,)),
}  # fmt: skip


def filled(config: TiTokConfig) -> TiTok:
    """A network whose weights any machine draws alike."""
    network = TiTok(config).eval().requires_grad_(False)
    for j, (name, tensor) in enumerate(sorted(network.state_dict().items())):
        draw = torch.from_numpy(np.random.RandomState(j).standard_normal(tuple(tensor.shape)))
        norm = tensor.ndim == 1 and name.endswith("weight")
        tensor.copy_(1 + draw / 10 if norm else draw / 10 if tensor.ndim == 1 else draw * tensor[0].numel() ** -0.5)
    return network


def pictures(count: int, side: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(99).random_sample((count, 3, side, side))).float()


@pytest.fixture(scope="module")
def tiny() -> TiTok:
    return filled(TINY)


def recorded(name: str) -> dict[str, list[int]]:
    """Names and shapes of a checkpoint, all its layers."""
    column = RECORD["checkpoints"].index(name)
    layers = {side: count[column] for side, count in RECORD["layers"].items()}
    found = {}
    for pattern, shapes in RECORD["tensors"].items():
        if shapes[column] is not None:
            repeats = layers[pattern.partition(".")[0]] if "*" in pattern else 1
            found |= {pattern.replace("*", str(i)): shapes[column] for i in range(repeats)}
    assert len(found) == RECORD["counts"][column]
    return found


@pytest.mark.parametrize("name", RECORD["checkpoints"])
def test_a_published_checkpoint_fits_strictly(name: str) -> None:
    assert config_of(RECORD["configs"][name]) == CONFIGS[name]
    with torch.device("meta"):
        network = TiTok(CONFIGS[name])
        state = {key: torch.empty(shape) for key, shape in recorded(name).items()}
    load_weights(network, state)
    for spoilt in (lambda s: s.popitem(), lambda s: s.update(more=torch.empty(1)), lambda s: s.update(
        latent_tokens=torch.empty(3, 5))):  # fmt: skip
        bad = dict(state)
        spoilt(bad)
        with pytest.raises(UserError, match="not those of this network"):
            load_weights(network, bad)


def test_every_published_checkpoint_is_recorded() -> None:
    assert set(RECORD["checkpoints"]) == set(CONFIGS)


def test_no_two_tensors_get_one_name() -> None:
    names = recorded("one_d_piece_l")
    assert len({renamed(name, vqgan=True) for name in names}) == len(names)


@pytest.mark.parametrize("kind", AUTHORS)
def test_indices_and_pictures_are_those_of_the_authors_network(kind: str) -> None:
    """Recorded by running the authors' modules (1d-tokenizer, and One-D-Piece for prefixes), cut to this size and
    filled with these weights through our names; every second pixel is kept."""
    network = filled(AUTHORS[kind])
    with np.load(HERE / "titok_outputs.npz") as file:
        theirs = {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(kind)}
    indices = network.encode(pictures(2))
    assert torch.equal(indices[..., 0], theirs.pop(f"{kind}/indices"))
    assert len(indices.unique()) > 8
    for key, picture in theirs.items():
        drawn = network.decode(prefix(indices, int(key.rpartition("/")[2])))
        torch.testing.assert_close(drawn[..., ::2, ::2], picture, rtol=1e-4, atol=2e-5)
    assert len(theirs) == (2 if kind == "first" else 1)


def test_lengths_of_a_batch_are_prefixes_one_by_one(tiny: TiTok) -> None:
    vectors = tiny.quantizer.decode(tiny.encode(pictures(3)))
    together = tiny.draw(vectors, torch.tensor([1, 5, 8]))
    for i, length in enumerate((1, 5, 8)):
        alone = tiny.draw(prefix(vectors[i : i + 1], length))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[0], tiny.draw(vectors)[0], atol=1e-3)


def test_every_token_changes_the_picture_and_its_place_counts(tiny: TiTok) -> None:
    indices = tiny.encode(pictures(1))
    whole = tiny.decode(indices)
    for i in range(8):
        other = indices.clone()
        other[0, i] = (other[0, i] + 500) % 1000
        assert not torch.allclose(tiny.decode(other), whole, atol=1e-4)
    assert not torch.allclose(tiny.decode(indices.flip(1)), whole, atol=1e-4)


def test_training_passes_gradients_through_the_quantizer_to_all_weights_in_use() -> None:
    network = TiTok(TINY)
    picture, loss = network(pictures(2), torch.tensor([8, 3]))
    (picture.square().mean() + loss).backward()
    assert picture.shape == (2, 3, 32, 32)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_tail_drop_draws_one_length_for_a_batch_and_reaches_both_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [tail_drop(3, 4, generator) for _ in range(60)]
    assert all(len(d) == 3 and len(d.unique()) == 1 for d in drawn)
    assert {int(d[0]) for d in drawn} == {1, 2, 3, 4}


def test_what_is_saved_loads_in_16_bits_and_by_the_authors_file_names(tiny: TiTok, tmp_path: Path) -> None:
    save(tiny, tmp_path)
    again = load(tmp_path)
    assert again.config == TINY
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, tiny.state_dict()[name].half().float())
    torch.save(tiny.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(load(tmp_path).encode(pictures(1)), tiny.encode(pictures(1)))


def test_a_folder_of_the_authors_loads_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "small", AUTHORS["second"].encoder)
    monkeypatch.setitem(SIZES, "base", AUTHORS["second"].decoder)
    config = json.loads(json.dumps(RECORD["configs"]["titok_bl64_vq8k"]))
    config["model"]["vq_model"] |= {"vit_enc_model_size": "small", "vit_dec_model_size": "base", "codebook_size": 64}
    config["model"]["vq_model"] |= {"num_latent_tokens": 8, "token_size": 6}
    config["dataset"]["preprocessing"]["crop_size"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    mine, theirs = filled(replace(AUTHORS["second"], nested=False)), {}
    column = RECORD["checkpoints"].index("titok_bl64_vq8k")
    for pattern, shapes in RECORD["tensors"].items():
        for name in {pattern.replace("*", str(i)) for i in range(2)} if shapes[column] else ():
            tensor = mine.state_dict()[renamed(name, vqgan=False)]
            more = [1] * (len(shapes[column]) - tensor.ndim)
            theirs[name] = (
                tensor.reshape(*more, *tensor.shape) if "token" in name else tensor.reshape(*tensor.shape, *more)
            )
    torch.save(theirs, tmp_path / "pytorch_model.bin")
    again = load(tmp_path)
    assert again.config == mine.config
    assert torch.equal(again.decode(again.encode(pictures(2))), mine.decode(mine.encode(pictures(2))))


@pytest.mark.parametrize(("config", "says"), [
    ("{", "cannot be read"),
    ('{"model": {}}', "describes no tokenizer"),
    ('{"image_size": 32}', "describes no tokenizer"),
    (json.dumps(RECORD["configs"]["titok_l32"]).replace('"finetune_decoder": true', '"finetune_decoder": false'),
     "first stage"),
    (json.dumps(TINY.to_dict()), "no file|No such file"),
    (json.dumps(TINY.to_dict() | {"patch": 15}), "do not tile"),
])  # fmt: skip
def test_a_folder_that_is_no_checkpoint_is_refused_in_a_sentence(config: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=says):
        load(tmp_path)

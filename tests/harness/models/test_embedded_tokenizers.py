"""The embedded tokenizers: what they are trained on, that training goes on exactly, and what the shipped weights do."""

import hashlib
import json
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import VQModel
from toksweep.harness.checkpoints import embedded_tokenizers
from toksweep.harness.models.embedded.tokenizers import evaluate, export, grid, pool, sequence, train
from toksweep.methods.titok import Block
from toksweep.methods.titok_checkpoints import load
from toksweep.tasks.reconstruction.photos import photos


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack(list(pool.pool(20, 5)))


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    return embedded_tokenizers()


def psnr(ours: np.ndarray, original: np.ndarray) -> float:
    return -10 * math.log10(float(np.square(ours.astype(float) - original.astype(float)).mean()) / 255**2)


def test_a_pool_is_made_again_by_its_seed_and_is_another_by_another(pictures: np.ndarray) -> None:
    assert pictures.shape == (20, pool.SIDE, pool.SIDE, 3)
    assert np.array_equal(np.stack(list(pool.pool(20, 5))), pictures)
    assert not np.array_equal(np.stack(list(pool.pool(20, 6))), pictures)


def test_a_pool_on_disk_is_the_pool(tmp_path: Path, pictures: np.ndarray) -> None:
    pool.write(tmp_path / "pool.npy", 20, 5)
    assert np.array_equal(np.load(tmp_path / "pool.npy", mmap_mode="r"), pictures)
    assert [p.name for p in tmp_path.iterdir()] == ["pool.npy"]


@pytest.mark.parametrize("kind", list(pool.SHARES))
def test_pictures_of_a_kind_differ(kind: str) -> None:
    made = list(islice(pool._endless(kind, 0), 12))
    assert len({picture.tobytes() for picture in made}) > 10


def test_tiles_of_a_step_hang_on_its_number_alone(pictures: np.ndarray) -> None:
    first = train.tiles_of(pictures, 3, 6, 64)
    assert first.shape == (6, 3, 64, 64)
    assert torch.equal(train.tiles_of(pictures, 3, 6, 64), first)
    assert not torch.equal(train.tiles_of(pictures, 4, 6, 64), first)


@pytest.mark.parametrize(("kind", "learner"), [("tok", sequence.Sequence), ("vq", grid.Grid)])
def test_a_stopped_run_goes_on_to_the_weights_of_one_that_never_stopped(
    kind: str, learner: type, pictures: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "size", 4)
    monkeypatch.setattr(grid.Grid, "free_steps", 1)
    for name, minutes in (("whole", 60.0), ("parts", 0.0)):  # no time: stops after a step
        (tmp_path / name).mkdir()
        runs, done = 0, False
        while not done:
            trainer = train.Trainer(kind, tmp_path / name, pictures, 2, minutes)
            trainer.resume()
            done, runs = trainer.run(), runs + 1
        assert runs == (1 if name == "whole" else 2)
    wanted, got = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "parts"))
    for part in ("learner", "mean"):
        assert all(torch.equal(wanted[part][name], got[part][name]) for name in wanted[part])
    assert "mse" in json.loads((tmp_path / "whole" / "log.jsonl").read_text()) or kind == "tok"
    folder = export.export(kind, tmp_path / "parts", tmp_path / "out")
    assert (folder / "SHA256SUMS").is_file()
    draw = evaluate.grid_of_codes(folder) if kind == "vq" else evaluate.prefixes(folder)[64]
    assert draw(photos(None)[0].images[0]().crop((0, 0, 70, 66))).size == (70, 66)


def test_attention_written_out_is_the_networks_own() -> None:
    torch.manual_seed(0)
    block, plain = Block(192, 3), sequence.Plain(192, 3)
    plain.load_state_dict(block.state_dict())
    x = torch.randn(2, 9, 192)
    assert torch.allclose(block(x), plain(x), atol=1e-5)


def test_regions_of_the_quadtree_part_the_tile_ever_finer() -> None:
    found = sequence.quadtree(8)
    assert [side for _, _, side in found] == [8] + [4] * 3 + [2] * 12 + [1] * 48
    assert len(set(found)) == 64


def test_the_start_is_nearer_to_a_picture_than_its_mean(pictures: np.ndarray) -> None:
    tiles = (train.tiles_of(pictures, 0, 8, 64) + 1) / 2
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = sequence.Sequence().model(tiles)[0]
    assert (drawn - tiles).square().mean() < 0.7 * (tiles - tiles.mean()).square().mean()


# ------------------------------------------------------------------------------------------------------ shipped weights


def test_both_come_with_the_package_with_their_digests_and_in_nine_megabytes(folders: dict[str, Path]) -> None:
    assert {sequence.NAME, grid.NAME} <= set(folders)
    size = 0
    for name in (sequence.NAME, grid.NAME):
        for line in (folders[name] / "SHA256SUMS").read_text().splitlines():
            digest, file = line.split("  ")
            data = (folders[name] / file).read_bytes()
            size += len(data)
            assert hashlib.sha256(data).hexdigest() == digest, file
        assert (folders[name] / "README.md").is_file()
    assert size < 9_000_000


def test_more_tokens_draw_a_picture_that_was_never_seen_better(folders: dict[str, Path]) -> None:
    image = photos(None)[2].images[0]().crop((100, 80, 228, 208))
    draws = evaluate.prefixes(folders[sequence.NAME])
    found = [psnr(np.array(draws[length](image)), np.array(image)) for length in (1, 4, 16, 64)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 3


def test_larger_pictures_are_coded_tile_by_tile_and_say_so(folders: dict[str, Path]) -> None:
    assert load(folders[sequence.NAME]).config == sequence.config()
    assert json.loads((folders[sequence.NAME] / "config.json").read_text())["tiled"] is True


def test_the_grid_costs_the_same_bits_and_uses_its_codes(folders: dict[str, Path]) -> None:
    model = VQModel.from_pretrained(folders[grid.NAME], torch_dtype=torch.float32).eval()
    values = torch.from_numpy(np.array(photos(None)[0].images[0]())).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        _, _, (_, _, codes) = model.quantize(model.encode(values[..., :192, :192]).latents)
    assert codes.numel() == 48 * 48
    assert len(codes.unique()) > 128
    of_a_tile = 16 * 16 * math.log2(model.config.num_vq_embeddings)
    assert of_a_tile == sequence.LATENTS * sum(math.log2(n) for n in sequence.LEVELS) == 2048

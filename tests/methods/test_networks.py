"""What tokenizers with weights share: pixels, padding, tiles, FLOPs, and the checkpoints that have a name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toksweep.harness.checkpoints import embedded_tokenizers, published
from toksweep.harness.contracts import Budget, Refusal, UserError
from toksweep.harness.registry import registry
from toksweep.methods import network
from toksweep.methods.tokenizers.autoencoder import CLASSES, Autoencoder
from toksweep.methods.tokenizers.encode_only import Chameleon

ALL_LEVELS = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))


@pytest.mark.parametrize("low", [-1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_level_comes_back_from_pixels(low: float, dtype: torch.dtype) -> None:
    values = network.pixels(ALL_LEVELS, low, "cpu", dtype)
    assert (values.min(), values.max(), values.shape) == (low, 1, (1, 3, 16, 16))
    assert np.array_equal(np.asarray(network.picture(values, low)), np.asarray(ALL_LEVELS))


def test_values_beyond_the_range_are_cut_and_what_is_no_number_is_an_error() -> None:
    beyond = torch.tensor([-7.0, 1.5, 0.0]).reshape(1, 3, 1, 1)
    assert network.picture(beyond, -1.0).getpixel((0, 0)) == (0, 255, 128)
    with pytest.raises(ValueError, match="no numbers"):
        network.picture(beyond * math.nan, -1.0)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (3, 17)])
def test_padding_repeats_the_edge_and_is_cut_off_again(size: tuple[int, int]) -> None:
    width, height = size
    values = torch.rand(1, 3, height, width)
    grown = network.padded(values, (8, 4))
    wanted = np.pad(values.numpy(), ((0, 0), (0, 0), (0, -height % 4), (0, -width % 8)), mode="edge")
    assert np.array_equal(grown.numpy(), wanted)
    assert torch.equal(network.cropped(grown, size), values)
    with pytest.raises(ValueError, match="decoded"):
        network.cropped(values, (width + 1, height))


def test_tiles_are_the_parts_of_a_picture_row_by_row() -> None:
    values = torch.rand(1, 3, 8, 12)
    parts = network.tiles(values, 4)
    assert torch.equal(parts[4], values[0, :, 4:8, 4:8])
    assert torch.equal(network.joined(parts, 3), values)


def test_flops_are_counted_on_a_copy_without_weights() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5))
    copy = network.on_meta(layer)
    assert {v.device.type for v in copy.state_dict().values()} == {"meta"}
    assert {v.device.type for v in layer.state_dict().values()} == {"cpu"}
    assert network.counted(lambda: copy(torch.empty(3, 4, device="meta"))) == 2 * 3 * 4 * 5
    queries = torch.empty(1, 2, 64, 16, device="meta")
    attention = torch.nn.functional.scaled_dot_product_attention
    assert network.counted(lambda: attention(queries, queries, queries)) == 2 * 2 * (2 * 64 * 64 * 16)


@pytest.mark.parametrize(
    ("tokens", "codes", "bits"), [(256, 8192, 3328), (256, 64000, 4088), (3, 3, 5), (1024, 2, 1024)]
)
def test_codes_take_whole_bits(tokens: int, codes: int, bits: int) -> None:
    assert network.code_bits(tokens, codes) == bits


def test_what_is_said_of_released_checkpoints_is_of_one_piece() -> None:
    for row in published().values():
        entry = registry("methods").get(row.method)
        assert entry.kind == "tokenizer" and entry.meta["network"], row
        assert row.hub.count("/") == 1 or row.hub in embedded_tokenizers(), row
        if row.method == "autoencoder":
            assert row.library_class in CLASSES
        if row.tokens is None:
            continue
        each = 16 * row.channels if row.channels else math.log2(row.codes or 0)
        if row.bits_per_pixel is not None:
            assert row.bits_per_pixel == pytest.approx(row.tokens * each / 256**2, abs=5e-4), row
    assert embedded_tokenizers().keys() <= published().keys()


def test_a_checkpoint_is_found_by_its_name_alone() -> None:
    source = Autoencoder(checkpoint="flux.1-vae").source()
    assert (source.repository, source.subfolder) == ("black-forest-labs/FLUX.1-schnell", "vae")
    assert Autoencoder(checkpoint="some/one", subfolder="vae").source().repository == "some/one"
    pinned = Autoencoder(checkpoint="some/one@0123abc").source()
    assert (pinned.repository, pinned.revision()) == ("some/one", "0123abc")
    with pytest.raises(UserError, match="names no commit"):
        Autoencoder(checkpoint="some/one@main")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "autoencoder needs a checkpoint, such as autoencoder\\(checkpoint='sd-vae-ft-mse'\\)"),
        ({"checkpoint": "amused-256"}, "write vq_model\\(checkpoint='amused-256'\\)"),
        ({"checkpoint": "nonsense"}, "neither a folder, nor a hub id"),
        ({"checkpoint": "taesd", "precision": "int8"}, "no 'int8' numbers"),
    ],
)
def test_a_checkpoint_that_cannot_be_meant_is_one_sentence(given: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Autoencoder(**given)


def test_a_fixed_rate_refuses_another_budget() -> None:
    network_ = Autoencoder(checkpoint="taesd")
    network_.check(Budget.parse("100%"))
    with pytest.raises(Refusal, match="fixed rate"):
        network_.check(Budget.parse("64"))


def test_a_tokenizer_without_a_decoder_is_refused_with_the_reason() -> None:
    with pytest.raises(Refusal, match="no decoder"):
        Chameleon().check(Budget.parse("64"))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"_class_name": "UNet2DModel"}, "holds a UNet2DModel, not one of"),
        ({}, "names no class of diffusers: is there a subfolder to give"),
        ({"_class_name": "AutoencoderTiny", "encoder_block_out_channels": [8] * 4}, "diffusion_pytorch_model"),
    ],
)
def test_a_folder_of_another_class_or_without_weights_is_one_sentence(
    config: dict[str, object], told: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((UserError, OSError), match=told):
        Autoencoder(checkpoint=str(tmp_path)).load("cpu", "float32")

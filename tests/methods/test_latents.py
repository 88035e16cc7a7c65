"""Each class of diffusers and transformers that is served, tiny and of random weights, through the adapter.

Outcomes are held against the library itself, called by hand on a picture that numpy padded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from toksweep.harness.contracts import Budget, ClipTokenizer, LoadedNetwork, Memo, Network, Tokenizer, UserError
from toksweep.methods.latents import ClipCoder, Kept, LatentCoder
from toksweep.methods.tokenizers.autoencoder import CLASSES, Autoencoder
from toksweep.methods.tokenizers.emu3 import Emu3
from toksweep.methods.tokenizers.janus import Janus
from toksweep.methods.tokenizers.vq_model import VqModel
from torch.utils.flop_counter import FlopCounterMode
from unreported import swept

WHOLE = Budget.parse("100%")


def blocks(count: int, width: int) -> dict[str, object]:
    down, up = ("DownEncoderBlock2D",) * count, ("UpDecoderBlock2D",) * count
    shared = {"norm_num_groups": 4, "layers_per_block": 1, "block_out_channels": (width,) * count}
    return {**shared, "down_block_types": down, "up_block_types": up}


DC_BLOCKS = ("ResBlock", "EfficientViTBlock")
TINY: dict[str, dict[str, Any]] = {
    "AsymmetricAutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 2, "down_block_out_channels": (8, 8), "norm_num_groups": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "up_block_out_channels": (8, 8),
    },
    "AutoencoderDC": {
        "latent_channels": 8, "attention_head_dim": 4, "encoder_block_types": DC_BLOCKS,
        "decoder_block_types": DC_BLOCKS, "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8),
        "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1), "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
    },
    "AutoencoderKL": {**blocks(4, 8), "latent_channels": 4},
    "AutoencoderKLCogVideoX": {
        "down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "block_out_channels": (8,) * 4, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
    },
    "AutoencoderKLCosmos": {
        "encoder_block_out_channels": (8,) * 4, "decode_block_out_channels": (8,) * 4, "latent_channels": 4,
        "num_layers": 1, "attention_resolutions": (8,), "resolution": 64,
    },
    "AutoencoderKLFlux2": {**blocks(3, 8), "latent_channels": 4},
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 32, 64),
        "layers_per_block": 1, "spatial_compression_ratio": 4, "sample_size": 32,
    },
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 4, "block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4,
    },
    "AutoencoderKLHunyuanVideo15": {"latent_channels": 4, "block_out_channels": (16,) * 5, "layers_per_block": 1},
    "AutoencoderKLKVAE": {
        "channels": 64, "num_enc_blocks": 1, "num_dec_blocks": 1, "z_channels": 4, "ch_mult": (1, 1),
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8, "block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4,
        "layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5,
    },
    "AutoencoderKLMochi": {
        "latent_channels": 4, "encoder_block_out_channels": (64,) * 4, "decoder_block_out_channels": (64,) * 4,
        "layers_per_block": (1,) * 5, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
    },
    "AutoencoderKLQwenImage": {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
    },
    "AutoencoderKLWan": {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
    },
    "AutoencoderRAE": {
        "encoder_type": "dinov2", "encoder_hidden_size": 64, "encoder_patch_size": 4, "encoder_num_hidden_layers": 1,
        "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16, "patch_size": 6, "encoder_input_size": 16,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3,
        "num_encoder_blocks": (1,) * 3, "num_decoder_blocks": (1,) * 3,
    },
    "ConsistencyDecoderVAE": {
        "encoder_block_out_channels": (8,) * 4, "encoder_norm_num_groups": 4, "encoder_layers_per_block": 1,
        "decoder_block_out_channels": (8,) * 4, "decoder_layers_per_block": 1, "decoder_norm_num_groups": 4,
    },
}  # fmt: skip
FACTORS = {
    "AsymmetricAutoencoderKL": 2, "AutoencoderDC": 2, "AutoencoderKL": 8, "AutoencoderKLCogVideoX": 8,
    "AutoencoderKLCosmos": 8, "AutoencoderKLFlux2": 4, "AutoencoderKLHunyuanImage": 4, "AutoencoderKLHunyuanVideo": 8,
    "AutoencoderKLHunyuanVideo15": 16, "AutoencoderKLKVAE": 2, "AutoencoderKLLTXVideo": 32, "AutoencoderKLMochi": 8,
    "AutoencoderKLQwenImage": 8, "AutoencoderKLWan": 8, "AutoencoderRAE": 24, "AutoencoderTiny": 4,
    "ConsistencyDecoderVAE": 8,
}  # fmt: skip
"""By hand from the configurations above: one halving less than levels, patches times positions of RAE."""
PICTURES = [n for n, how in CLASSES.items() if not how.clips]
CLIPS = [n for n, how in CLASSES.items() if how.clips]

Load = Callable[[str], LatentCoder]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def grown(image: Image.Image, unit: int, low: float) -> torch.Tensor:
    """[1, 3, height, width] as numpy pads it."""
    levels = np.asarray(image).astype(np.float32) / 255 * (1 - low) + low
    tall, wide = (-side % unit for side in levels.shape[:2])
    return torch.from_numpy(np.pad(levels, ((0, tall), (0, wide), (0, 0)), mode="edge").transpose(2, 0, 1)[None])


def levels(values: torch.Tensor, low: float, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 3] bytes of [1, 3, height, width]."""
    cut = values[0, :, : size[1], : size[0]].numpy().transpose(1, 2, 0)
    return np.round(np.clip((cut - low) / (1 - low) * 255, 0, 255)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a tiny checkpoint of a class of diffusers."""
    import diffusers

    @cache
    def made(name: str) -> str:
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp(name)
        getattr(diffusers, name)(**TINY[name]).save_pretrained(path)
        return str(path)

    return made


@pytest.fixture(scope="module")
def load(folder: Callable[[str], str]) -> Load:
    @cache
    def loaded(name: str) -> LatentCoder:
        return Autoencoder(checkpoint=folder(name)).load("cpu", "float32")

    return loaded


def test_a_tiny_one_of_every_class_is_tried() -> None:
    assert set(TINY) == set(FACTORS) == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_any_size_comes_back_with_factors_as_measured(name: str, load: Load, folder: Callable[[str], str]) -> None:
    coder = load(name)
    assert isinstance(Autoencoder(checkpoint=folder(name)), Network)
    assert isinstance(coder, LoadedNetwork) and isinstance(coder, Tokenizer)
    assert isinstance(coder, ClipTokenizer) == (name in CLIPS)
    assert coder.unit == FACTORS[name]
    for size in ((1, 1), (2 * coder.unit + 1, coder.unit)):
        codes = coder.encode(noise(*size), WHOLE, Memo())
        assert isinstance(codes.payload, Kept)
        assert codes.bits == 16 * codes.payload.values.numel()
        first, second = (np.asarray(coder.decode(codes)) for _ in range(2))
        assert first.shape == (size[1], size[0], 3)
        assert np.array_equal(first, second)
    columns, rows = codes.payload.values.shape[:-3:-1]
    assert codes.tokens == columns * rows
    assert (columns, rows) == ((12, 4) if name == "AutoencoderRAE" else (3, 1))


@pytest.mark.parametrize("name", [n for n in PICTURES if n != "AutoencoderRAE"])
def test_a_picture_is_what_the_library_makes_of_latents_in_half_precision(name: str, load: Load) -> None:
    coder, size = load(name), (FACTORS[name] + 3, FACTORS[name])
    model: Any = coder.module
    found = model.encode(grown(noise(*size), coder.unit, -1.0))
    latents = found.latent_dist.mode() if CLASSES[name].latent == "latent_dist" else found[0]
    options = {"generator": torch.Generator().manual_seed(0)} if name == "ConsistencyDecoderVAE" else {}
    wanted = model.decode(latents.detach().half().float(), **options).sample.detach()
    ours = coder.decode(coder.encode(noise(*size), WHOLE, Memo()))
    assert np.array_equal(np.asarray(ours), levels(wanted, -1.0, size))


def test_of_one_size_a_larger_picture_is_coded_in_tiles(load: Load) -> None:
    coder, size = load("AutoencoderRAE"), (30, 20)
    model: Any = coder.module
    values = grown(noise(*size), 24, 0.0)
    parts = [model.decode(model.encode(v).latent.half().float()).sample for v in values.split(24, dim=3)]
    ours = coder.decode(coder.encode(noise(*size), WHOLE, Memo()))
    assert np.abs(np.asarray(ours).astype(int) - levels(torch.cat(parts, dim=3), 0.0, size)).max() <= 1


GROWN = {
    "AutoencoderKLCogVideoX": (7, 8), "AutoencoderKLCosmos": (8, 9), "AutoencoderKLHunyuanVideo": (4, 5),
    "AutoencoderKLHunyuanVideo15": (4, 5), "AutoencoderKLLTXVideo": (8, 9), "AutoencoderKLMochi": (6, 7),
    "AutoencoderKLQwenImage": (4, 5), "AutoencoderKLWan": (4, 5),
}  # fmt: skip
"""Frames that do not all come back, and the next number of which all do, as the classes' documentation has it."""


def test_every_class_of_clips_is_tried_on_them() -> None:
    assert set(GROWN) == set(CLIPS)


@pytest.mark.parametrize("name", GROWN)
def test_a_clip_has_as_many_frames_as_before(name: str, load: Load) -> None:
    coder, (frames, longer) = load(name), GROWN[name]
    assert isinstance(coder, ClipCoder)
    assert coder.length(frames) == longer
    codes = coder.encode_clip([noise(5, 4, seed) for seed in range(frames)], WHOLE, Memo())
    assert [f.size for f in coder.decode_clip(codes)] == [(5, 4)] * frames


@pytest.mark.parametrize("name", ["AutoencoderKLHunyuanVideo", "AutoencoderKLWan"])
def test_a_clip_grows_to_the_next_length_that_comes_back_whole(name: str, load: Load) -> None:
    coder = load(name)
    assert isinstance(coder, ClipCoder)
    assert [coder.length(n) for n in (1, 4)] == [1, 5]
    frames = [noise(11, 8, seed) for seed in range(4)]
    codes = coder.encode_clip(frames, WHOLE, Memo())
    assert (codes.tokens, codes.bits) == (2 * 2 * 1, 2 * 2 * 1 * 4 * 16)
    shown = [*frames, frames[3]]
    values = torch.stack([grown(f, 8, -1.0) for f in shown], dim=2)
    model: Any = coder.module
    wanted = model.decode(model.encode(values).latent_dist.mode().half().float()).sample
    ours = coder.decode_clip(codes)
    assert len(ours) == 4
    for number, frame in enumerate(ours):
        assert np.array_equal(np.asarray(frame), levels(wanted[:, :, number], -1.0, (11, 8)))
    one = coder.encode_clip(frames[:1], WHOLE, Memo())
    assert coder.flops((11, 8), codes).decode > 3 * coder.flops((11, 8), one).decode


def test_a_clip_whose_pixels_are_patched_first_is_measured_as_well(tmp_path: Path) -> None:
    import diffusers

    torch.manual_seed(0)
    patched = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}  # as Wan 2.2 has it
    diffusers.AutoencoderKLWan(**TINY["AutoencoderKLWan"], **patched).save_pretrained(tmp_path)
    coder = Autoencoder(checkpoint=str(tmp_path)).load("cpu", "float32")
    assert isinstance(coder, ClipCoder)
    assert (coder.unit, coder.length(4)) == (16, 5)
    assert coder.decode(coder.encode(noise(17, 5), WHOLE, Memo())).size == (17, 5)


def test_flops_are_those_that_torch_counts_at_work(load: Load) -> None:
    coder, image = load("AutoencoderTiny"), noise(9, 5)
    codes = coder.encode(image, WHOLE, Memo())
    counts = []
    for work in (lambda: coder.encode(image, WHOLE, Memo()), lambda: coder.decode(codes)):
        with FlopCounterMode(display=False) as counter:
            work()
        counts.append(counter.get_total_flops())
    assert list(coder.flops(image.size, codes)) == counts
    assert coder.flops((10, 8), codes) == coder.flops(image.size, codes)  # padded, both are 12 x 8


def test_noise_is_the_seeds(folder: Callable[[str], str]) -> None:
    path = folder("ConsistencyDecoderVAE")
    pictures = []
    for seed in (0, 1):
        coder = Autoencoder(checkpoint=path, seed=seed).load("cpu", "float32")
        pictures.append(np.asarray(coder.decode(coder.encode(noise(8, 8), WHOLE, Memo()))))
    assert not np.array_equal(*pictures)


def test_precision_is_counted_and_done(folder: Callable[[str], str]) -> None:
    path = folder("AutoencoderTiny")
    kept = {}
    for precision in ("float16", "bfloat16", "float32"):
        codes = (
            Autoencoder(checkpoint=path, precision=precision).load("cpu", "float32").encode(noise(8, 8), WHOLE, Memo())
        )
        assert isinstance(codes.payload, Kept)
        assert codes.bits == codes.payload.values.numel() * (32 if precision == "float32" else 16)
        kept[precision] = codes.payload.values
    assert torch.equal(kept["float16"], kept["float32"].half())
    assert torch.equal(kept["bfloat16"], kept["float32"].bfloat16())


def test_half_precision_networks_run(folder: Callable[[str], str]) -> None:
    coder = Autoencoder(checkpoint=folder("AutoencoderTiny")).load("cpu", "bf16")
    assert coder.decode(coder.encode(noise(5, 5), WHOLE, Memo())).size == (5, 5)


def test_weights_that_do_not_fill_the_class_are_one_sentence(folder: Callable[[str], str], tmp_path: Path) -> None:
    source = Path(folder("AutoencoderTiny"))
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file({"encoder.layers.0.bias": torch.zeros(8)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="of the weights of AutoencoderTiny, the first"):
        Autoencoder(checkpoint=str(tmp_path)).load("cpu", "float32")


SIZES = {"grey.png": (21, 13), "dot.png": (1, 1), "cmyk.jpg": (9, 30), "clear.png": (10, 6), "turned.jpg": (10, 24)}
"""Of what `odd` holds, upright."""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of pictures of every kind, one of which nobody can show."""
    made = tmp_path / "odd"
    made.mkdir()
    noise(21, 13).convert("L").save(made / "grey.png")
    Image.new("L", (1, 1), 7).save(made / "dot.png")
    noise(9, 30).convert("CMYK").save(made / "cmyk.jpg")
    Image.new("RGBA", (10, 6), (200, 0, 0, 0)).save(made / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(24, 10).save(made / "turned.jpg", exif=turned)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900).save(made / "deep.png")
    return made


def test_a_sweep_has_one_cell_of_a_fixed_rate_and_takes_every_kind_of_picture(
    odd: Path, folder: Callable[[str], str], tmp_path: Path
) -> None:
    methods = [f"autoencoder(checkpoint={folder(name)!r})" for name in ("AutoencoderTiny", "AutoencoderKLWan")]
    out, plan = swept(
        tasks=["photos"], data={"photos": str(odd)}, methods=[*methods, "chameleon"], budgets=["1bpp", "2bpp"],
        out=tmp_path / "out",
    )  # fmt: skip
    assert {r.method: "has no decoder" in r.reason for r in plan.refused} == {"chameleon": True}
    cells = {c.label: c for c in out.cells() if c.kind == "tokenizer"}
    assert {label: c.budget for label, c in cells.items()} == dict.fromkeys(methods)
    for label, factor in zip(methods, (4, 8), strict=True):
        records = out.records(cells[label].work_id)
        fine = {name: r.pixels for name, r in records.items() if r.status == "ok"}
        assert fine == {name: width * height for name, (width, height) in SIZES.items()}
        assert records["deep.png"].status == "bad_input"
        for name, (width, height) in SIZES.items():
            positions = -(-width // factor) * -(-height // factor)
            assert (records[name].tokens, records[name].bits) == (positions, positions * 4 * 16)
            assert 0 < (records[name].flops_decode or 0) < (records[name].flops or 0)


# ---------------------------------------------------------------------------------------------------------------- codes


def test_a_model_that_comes_with_us_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers
    from toksweep.harness import checkpoints

    model = diffusers.VQModel(**blocks(2, 8), num_vq_embeddings=8, latent_channels=4)
    model.save_pretrained(tmp_path / "toksweep-mini-vq")
    monkeypatch.setattr(checkpoints, "EMBEDDED", tmp_path)
    coder = VqModel(checkpoint="toksweep-mini-vq").load("cpu", "float32")
    assert coder.encode(noise(4, 4), WHOLE, Memo()).bits == 4 * 3


@pytest.mark.parametrize("lookup", [False, True])
def test_codes_of_vq_model_decode_as_the_library_does(lookup: bool, tmp_path: Path) -> None:
    import diffusers

    torch.manual_seed(1)
    model = diffusers.VQModel(
        **blocks(2, 64), num_vq_embeddings=32, latent_channels=4, lookup_from_codebook=lookup,
        norm_type="group" if lookup else "spatial",
    )  # fmt: skip
    torch.nn.init.normal_(model.quantize.embedding.weight)
    model.save_pretrained(tmp_path)
    coder = VqModel(checkpoint=str(tmp_path)).load("cpu", "float32")
    codes = coder.encode(noise(9, 6), WHOLE, Memo())
    assert isinstance(codes.payload, Kept)
    assert (codes.tokens, codes.bits) == (5 * 3, 5 * 3 * 5)
    latents = model.eval().encode(grown(noise(9, 6), 2, -1.0)).latents.detach()
    rows = model.quantize.embedding.weight.detach().numpy()
    nearest = ((latents[0].numpy().transpose(1, 2, 0)[:, :, None] - rows) ** 2).sum(-1).argmin(-1)
    assert np.array_equal(codes.payload.values[0].numpy(), nearest)
    assert len(np.unique(nearest)) > 1
    quantized = torch.from_numpy(rows[nearest]).permute(2, 0, 1)[None]
    wanted = model.decoder(model.post_quant_conv(quantized), None if lookup else quantized).detach()
    assert np.abs(np.asarray(coder.decode(codes)).astype(int) - levels(wanted, -1.0, (9, 6))).max() <= 1
    search = 2 * 15 * 32 * 4
    with FlopCounterMode(display=False) as counter:
        coder.network.encoded(coder._meta, torch.empty(1, 3, 6, 10, device="meta"))
    assert coder.flops((9, 6), codes).encode == counter.get_total_flops() + search


def emu3() -> Any:
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    return Emu3VQVAE(
        Emu3VQVAEConfig(
            base_channels=32, codebook_size=64, channel_multiplier=(1, 1), num_res_blocks=1, attn_resolutions=(1,),
            hidden_size=32,
        )
    )  # fmt: skip


def janus() -> Any:
    from transformers import JanusVQVAE, JanusVQVAEConfig

    return JanusVQVAE(
        JanusVQVAEConfig(
            base_channels=64, num_embeddings=64, latent_channels=64, channel_multiplier=(1, 1), num_res_blocks=1,
            num_patches=4,
        )
    )  # fmt: skip


def test_emu3_codes_pictures_and_clips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = emu3()
    model.save_pretrained(tmp_path)
    coder = Emu3(checkpoint=str(tmp_path)).load("cpu", "float32")
    assert isinstance(coder, ClipCoder)
    codes = coder.encode(noise(5, 4), WHOLE, Memo())
    assert (codes.tokens, codes.bits) == (3 * 2, 3 * 2 * 6)
    values = grown(noise(5, 4), 2, -1.0)
    with torch.no_grad():
        indices = torch.stack(model.encode(values, torch.tensor([[4, 6]])).image_tokens)
        wanted = model.decode(indices)
    assert np.array_equal(np.asarray(coder.decode(codes)), levels(wanted, -1.0, (5, 4)))
    assert [coder.length(n) for n in (1, 2, 4, 5)] == [1, 4, 4, 8]
    frames = [noise(4, 4, seed) for seed in range(3)]
    clip = coder.encode_clip(frames, WHOLE, Memo())
    assert (clip.tokens, len(coder.decode_clip(clip))) == (4, 3)


def test_janus_compares_unit_vectors_and_needs_no_square(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = janus()
    model.save_pretrained(tmp_path)
    coder = Janus(checkpoint=str(tmp_path)).load("cpu", "float32")
    codes = coder.encode(noise(7, 4), WHOLE, Memo())
    assert isinstance(codes.payload, Kept)
    assert (codes.tokens, codes.bits) == (4 * 2, 4 * 2 * 6)
    with torch.no_grad():
        latents = model.quant_conv(model.encoder(grown(noise(7, 4), 2, -1.0)))[0].numpy().transpose(1, 2, 0)
    rows = model.quantize.embedding.weight.detach().numpy()
    unit_rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = latents / np.linalg.norm(latents, axis=-1, keepdims=True) @ unit_rows.T
    assert np.array_equal(codes.payload.values[0].numpy(), cosines.argmax(-1))
    assert coder.decode(codes).size == (7, 4)
    square = coder.encode(noise(8, 8), WHOLE, Memo())
    assert isinstance(square.payload, Kept)
    with torch.no_grad():
        wanted = model.decode(square.payload.values.reshape(1, -1))
    assert np.array_equal(np.asarray(coder.decode(square)), levels(wanted, -1.0, (8, 8)))


@pytest.mark.parametrize("sharded", [False, True])
def test_of_a_larger_model_the_tokenizer_alone_is_loaded(sharded: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = janus()
    weights = {f"model.vqmodel.{k}": v.contiguous() for k, v in model.state_dict().items()}
    config = {"model_type": "janus", "vq_config": model.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if sharded:
        save_file(weights, tmp_path / "model-00001-of-00002.safetensors")
        files = dict.fromkeys(weights, "model-00001-of-00002.safetensors")
        files["model.language_model.norm.weight"] = "model-00002-of-00002.safetensors"  # which is not there
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    else:
        save_file(weights | {"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    coder = Janus(checkpoint=str(tmp_path)).load("cpu", "float32")
    for key, value in coder.module.state_dict().items():
        assert torch.equal(value, weights[f"model.vqmodel.{key}"])
    assert Janus(checkpoint=str(tmp_path)).revision()


def test_another_model_is_no_janus(tmp_path: Path) -> None:
    emu3().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a emu3_vqgan, not a JanusVQVAE"):
        Janus(checkpoint=str(tmp_path)).load("cpu", "float32")

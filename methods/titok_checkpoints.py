"""Checkpoints of the TiTok family, the authors' and ours: their configurations, and their weights by our names.

The names and shapes of the authors' files were recorded from their modules (1d-tokenizer at 942a96f, One-D-Piece at
473665d, both Apache-2.0) and are tested; no released file was at hand. With random weights in the authors' modules and,
by this mapping, in ours, both gave the same indices and pictures (see `tests/methods/test_titok.py`).
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..harness.contracts import UserError
from .titok import TiTok, TiTokConfig, ViTSize
from .vqgan import WIDTHS

if TYPE_CHECKING:
    from torch import Tensor

SIZES = {"small": ViTSize(512, 8, 8), "base": ViTSize(768, 12, 12), "large": ViTSize(1024, 24, 16)}


def _first(size: str, latents: int) -> TiTokConfig:
    """The first kind: 4096 codes of unit length, pixels by MaskGIT's VQGAN."""
    vit = SIZES[size]
    return TiTokConfig(256, 16, latents, 12, vit, vit, "unit_vq", (4096,), "vqgan", interleaved=True)


def _second(encoder: str, latents: int) -> TiTokConfig:
    """The second kind: 8192 codes, pixels by the transformer itself."""
    return TiTokConfig(256, 16, latents, 64, SIZES[encoder], SIZES["large"], "vq", (8192,))


def _continuous(encoder: str, latents: int) -> TiTokConfig:
    return replace(_second(encoder, latents), token_size=16, quantizer="half", parts=())


CONFIGS: Mapping[str, TiTokConfig] = {
    "titok_l32": _first("large", 32),
    "titok_b64": _first("base", 64),
    "titok_s128": _first("small", 128),
    "titok_bl64_vq8k": _second("base", 64),
    "titok_bl128_vq8k": _second("base", 128),
    "titok_sl256_vq8k": _second("small", 256),
    "titok_ll32_vae_c16": _continuous("large", 32),
    "titok_bl64_vae_c16": _continuous("base", 64),
    "titok_bl128_vae_c16": _continuous("base", 128),
    "one_d_piece_l": replace(_first("large", 256), nested=True),
    "one_d_piece_b": replace(_first("base", 256), nested=True),
    "one_d_piece_s": replace(_first("small", 256), nested=True),
}
"""Of the published checkpoints, by the names in `tokenizers/published.csv`."""


def read_config(folder: Path) -> TiTokConfig:
    """What a checkpoint's `config.json` says.

    Raises:
        UserError: there is none, or it is none of the TiTok family.
    """
    try:
        return config_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read: {error}.") from error


def config_of(values: Mapping[str, Any]) -> TiTokConfig:
    """The configuration that a checkpoint's `config.json` holds: ours, or the authors'.

    Raises:
        UserError: neither, or a first stage that was trained without pixels.
    """
    try:
        if "model" not in values:
            return TiTokConfig.from_dict(values)
        return _theirs(values["model"]["vq_model"], values["dataset"]["preprocessing"]["crop_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.json describes no tokenizer of the TiTok family: {error}.") from error


def _theirs(model: Mapping[str, Any], image_size: int) -> TiTokConfig:
    first, continuous = model.get("is_legacy", True), model.get("quantize_mode", "vq") == "vae"
    if first != model.get("finetune_decoder", True):
        raise UserError("config.json is that of a first stage, which predicts codes and no pixels: take the second's.")
    encoder, decoder = (SIZES[model[f"vit_{side}_model_size"]] for side in ("enc", "dec"))
    return TiTokConfig(
        image_size,
        model["vit_enc_patch_size"],
        model["num_latent_tokens"],
        model["token_size"],
        encoder,
        decoder,
        "half" if continuous else "unit_vq" if model["use_l2_norm"] else "vq",
        () if continuous else (model["codebook_size"],),
        "vqgan" if first else "pixels",
        interleaved=first,
        nested=not model.get("strict_length_assertion", True),
    )


_RENAMED = (
    (r"^encoder\.patch_embed", "patches"),
    (r"^latent_tokens", "latents"),
    (r"^encoder\.conv_out", "to_tokens"),
    (r"^quantize\.embedding", "quantizer"),
    (r"^decoder\.decoder_embed", "from_tokens"),
    (r"^decoder\.mask_token", "mask_token"),
    (r"^decoder\.ffn\.2", "head.logits"),
    (r"^decoder\.conv_out", "head.smooth"),
    (r"^pixel_quantize\.embedding", "head.codes"),
    (r"^pixel_decoder\.mid\.", "head.decoder.middle."),
    (r"^pixel_decoder\.", "head.decoder."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.class_embedding$", ".class_token"),
    (r"\.positional_embedding$", ".grid_positions"),
    (r"\.latent_token_positional_embedding$", ".latent_positions"),
    (r"\.ln_pre\.", ".norm_in."),
    (r"\.ln_post\.", ".norm_out."),
    (r"\.transformer\.", ".blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".qkv."),
    (r"\.attn\.out_proj\.", ".out."),
    (r"\.mlp\.c_fc\.", ".up."),
    (r"\.mlp\.c_proj\.", ".down."),
)
_UP = re.compile(r"^head\.decoder\.up\.(\d)\.(block|upsample_conv)\.")
"""The VQGAN's resolutions, which the authors count from the highest, and we from the lowest."""


def renamed(name: str, *, vqgan: bool) -> str:
    """Our name of a tensor of the authors' checkpoint; `vqgan` says which head it has."""
    for pattern, ours in (*_RENAMED, (r"^decoder\.ffn\.0", "head.hidden" if vqgan else "head.colours")):
        name = re.sub(pattern, ours, name)
    if found := _UP.match(name):
        level, part = len(WIDTHS) - 1 - int(found[1]), "levels" if found[2] == "block" else "smooth"
        name = f"head.decoder.{part}.{level}.{name[found.end() :]}"
    return name


def load_weights(network: TiTok, state: Mapping[str, Tensor]) -> None:
    """Fill a network with a checkpoint's tensors, by our names or by the authors'. Every tensor must find its place.

    Sides of one that 1 x 1 convolutions and single tokens have in the authors' shapes are dropped.

    Raises:
        UserError: tensors that are missing, left over or of another shape.
    """
    theirs, mine = "latent_tokens" in state, network.state_dict()
    vqgan = network.config.head == "vqgan"
    given = {renamed(name, vqgan=vqgan) if theirs else name: tensor for name, tensor in state.items()}
    odd = sorted(mine.keys() ^ given.keys())
    odd += [name for name in mine.keys() & given.keys() if _sides(mine[name]) != _sides(given[name])]
    if odd:
        raise UserError(
            f"The weights are not those of this network: {len(odd)} tensors are missing, left over or of another "
            f"shape, {odd[0]} for one."
        )
    network.load_state_dict({name: given[name].reshape(mine[name].shape) for name in mine}, assign=True)


def _sides(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side > 1]


def load(folder: Path, config: TiTokConfig | None = None) -> TiTok:
    """The network of a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, for evaluation.

    Args:
        config: of a published checkpoint; by default what `config.json` says.

    Raises:
        UserError: a file is missing or cannot be read, or weights and configuration do not fit.
    """
    import torch
    from safetensors import SafetensorError

    try:
        config = config or read_config(folder)
        state = _tensors(folder)
    except (OSError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read as a tokenizer: {str(error).splitlines()[0]}.") from error
    with torch.device("meta"):
        network = TiTok(config)
    load_weights(network, state)
    return network.float().eval().requires_grad_(False)


def _tensors(folder: Path) -> Mapping[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    if (safe := folder / "model.safetensors").is_file():
        return load_file(safe)
    state: Mapping[str, Tensor] = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    return state


def save(network: TiTok, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (16-bit floats), which `load` reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(network.config.to_dict(), indent=1) + "\n", encoding="utf-8")
    half = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(half, folder / "model.safetensors")

"""Loads a tokenizer that is a class of diffusers or transformers, and says in one sentence why it cannot."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..harness.contracts import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from ..harness.checkpoints import Checkpoint

PART = "vqmodel."
"""What the larger models call the tokenizer."""
INDEX = "model.safetensors.index.json"


def from_diffusers(source: Checkpoint, served: Collection[str], dtype: torch.dtype) -> nn.Module:
    """A model of one of the classes `served`, as its `config.json` says.

    Raises:
        UserError: no configuration, another class, or weights that do not fill it.
    """
    import diffusers

    name = class_of(source)
    if name not in served:
        raise UserError(f"{source} holds a {name}, not one of {', '.join(served)}.")
    folder = source.local("config.json", "diffusion_pytorch_model*")
    model: nn.Module
    with _quiet():
        model, told = getattr(diffusers, name).from_pretrained(
            str(folder), torch_dtype=dtype, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    if lacking := [*told["missing_keys"], *told["mismatched_keys"]]:
        raise UserError(f"{source} lacks {len(lacking)} of the weights of {name}, the first {lacking[0]}.")
    return model


def class_of(source: Checkpoint) -> str:
    """What `config.json` says.

    Raises:
        UserError: there is none, or it names no class of diffusers.
    """
    path = source.local("config.json") / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} names no class of diffusers: is there a subfolder to give?") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Meanwhile diffusers warns of nothing: keys that its own classes write are among what it warns of."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def from_transformers(source: Checkpoint, name: str, dtype: torch.dtype) -> nn.Module:
    """A model of the class `name`; of a larger model only the files that hold the tokenizer are fetched.

    Raises:
        UserError: a configuration that is none of that class and has no `vq_config`, or weights that do not fill it.
    """
    import transformers
    from safetensors import safe_open

    folder = source.local("config.json", INDEX, "model.safetensors")
    config = _json(folder / "config.json")
    whole = "vq_config" in config
    architecture: Any = getattr(transformers, name)
    if not whole and config.get("model_type") != architecture.config_class.model_type:
        raise UserError(f"{source} holds a {config.get('model_type', 'model of no class')}, not a {name}.")
    model = architecture(architecture.config_class.from_dict(config["vq_config"] if whole else config))
    found: dict[str, torch.Tensor] = {}
    for path, keys in _files(source, folder, whole).items():
        with safe_open(path, framework="pt") as file:
            found |= {key.partition(PART)[2] or key: file.get_tensor(key) for key in keys or file.keys()}
    wanted = model.state_dict()
    found = {key: tensor for key, tensor in found.items() if key in wanted}
    unfit = [key for key in wanted if key not in found or found[key].shape != wanted[key].shape]
    if unfit:
        raise UserError(f"{source} lacks {len(unfit)} of the weights of {name}, the first {unfit[0]}.")
    model.load_state_dict(found)
    converted: nn.Module = model.to(dtype)
    return converted


def _files(source: Checkpoint, folder: Path, whole: bool) -> Mapping[Path, list[str]]:
    """The files that hold the tokenizer, with the names of its weights; no names where all are its own."""
    if not (folder / INDEX).is_file():
        return {folder / "model.safetensors": []}
    found: dict[str, list[str]] = {}
    for key, file in _json(folder / INDEX)["weight_map"].items():
        if not whole or PART in key:
            found.setdefault(file, []).append(key)
    folder = source.local("config.json", *found)
    return {folder / file: keys for file, keys in found.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): give the folder that save_pretrained wrote.") from error
    return read

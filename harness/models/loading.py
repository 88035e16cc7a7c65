"""Loads a checkpoint's weights and processor, and says in one sentence why it cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..contracts import UserError
from .kernels import KERNELS
from .published import hub_revision, local_folder

_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_DETERMINING = (*_WEIGHTS, "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")


def check_platform(device: str, dtype: str, attention: str) -> torch.dtype:
    """The torch dtype.

    Raises:
        UserError: a device that is not there, an unknown dtype, an attention kernel that cannot run here.
    """
    if dtype not in _DTYPES:
        raise UserError(f"Dtype {dtype!r} is unknown: write one of {', '.join(_DTYPES)}.")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"Device {device!r} is unknown: write cpu, cuda, cuda:1 or mps.") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (place.index or 0) >= there.get(place.type, 0):
        at_hand = ", ".join(f"{n} {kind}" for kind, n in there.items() if n)
        raise UserError(f"Device {device!r} is not there; this machine has: {at_hand}. Take --device cpu, or another.")
    if attention not in KERNELS:
        raise UserError(f"Attention kernel {attention!r} is not served: write one of {', '.join(KERNELS)}.")
    if attention.startswith("flash"):
        from transformers import utils

        installed = getattr(utils, f"is_flash_attn_{attention[-1]}_available")()
        able = place.type == "cuda" and torch.cuda.get_device_capability(place) >= (8, 0)
        if not installed or not able or _DTYPES[dtype] is torch.float32:
            raise UserError(
                f"Attention kernel {attention} needs its package, a CUDA device of the Ampere generation or newer, and "
                "bf16 or fp16; take --attn sdpa."
            )
    return _DTYPES[dtype]


def load(
    ref: str, architecture: str, *, device: str, dtype: torch.dtype, attention: str
) -> tuple[nn.Module, object, str]:
    """A model of the class `architecture` (in evaluation mode), its processor and its revision.

    Raises:
        UserError: no weights, no processor, or a hub that cannot be reached.
    """
    import transformers
    from safetensors import SafetensorError

    folder = local_folder(ref)
    if folder and not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise UserError(f"{ref} holds no weights: a model needs a *.safetensors file beside its config.json.")
    if folder:
        check_sums(folder)
    revision = digest(folder) if folder else hub_revision(ref)
    source = str(folder or ref)
    options: dict[str, Any] = {"local_files_only": folder is not None, "trust_remote_code": False}
    options |= {} if folder else {"revision": revision}
    try:
        with without_bars():
            model = getattr(transformers, architecture).from_pretrained(
                source, dtype=dtype, attn_implementation=attention, weights_only=True, **options
            )
            processor = transformers.AutoProcessor.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        mend = "" if folder else " Check the id and the network, or give a local folder."
        raise UserError(f"{ref} cannot be loaded: {first}.{mend}") from error
    return model.to(device).eval().requires_grad_(False), processor, revision


@contextmanager
def without_bars() -> Iterator[None]:
    """Progress is ours to show: meanwhile transformers shows none."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_sums(folder: Path) -> None:
    """Hold a checkpoint against its `SHA256SUMS`, where it has one.

    Raises:
        UserError: a file is missing or is another one than was written.
    """
    sums = folder / "SHA256SUMS"
    for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else ():
        wanted, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file() or _sha256(path).hex() != wanted:
            raise UserError(
                f"{path} is missing or damaged (its checksum is not the one in SHA256SUMS): install or copy it again."
            )


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def digest(folder: Path) -> str:
    """Digest of all files of a local checkpoint that determine what it says, 16 hex digits."""
    found = hashlib.sha256()
    for path in sorted({p for pattern in _DETERMINING for p in folder.glob(pattern)}):
        found.update(path.name.encode() + b"\0" + _sha256(path))
    return found.hexdigest()[:16]

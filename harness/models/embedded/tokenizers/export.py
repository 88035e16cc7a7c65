"""Writes a training folder's tokenizer as it is shipped: `python -m ...tokenizers.export tok|vq --run DIR --out DIR`.

`OUT/toksweep-mini-tok` is a folder of the TiTok family, `OUT/toksweep-mini-vq` an ordinary one of diffusers; both hold
16-bit floats, the running means of the weights, and their digests.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from .....methods.titok import TiTok
from .....methods.titok_checkpoints import save
from ...loading import without_bars
from . import grid, sequence


def export(kind: str, run: Path, out: Path) -> Path:
    """Write the folder of a training folder's checkpoint, which may stand anywhere in its plan; return it."""
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)["mean"]
    weights = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    if kind == "tok":
        folder, tok = out / sequence.NAME, TiTok(sequence.config())
        tok.load_state_dict(weights)
        save(tok, folder)
    else:
        folder, vq = out / grid.NAME, grid.build()
        vq.load_state_dict(weights)
        with without_bars():
            vq.half().save_pretrained(folder)
    files = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors"})
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    return folder


def main() -> None:
    """Export one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("tok", "vq"))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    export(given.kind, given.run, given.out)


if __name__ == "__main__":
    main()

"""Turns a training checkpoint into the folders that are shipped: `python -m ...embedded.export --run DIR --out DIR`.

`OUT/toksweep-mini` is a LLaVA folder, `OUT/toksweep-mini-clip` a CLIP folder: the same tower with a text encoder.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..loading import without_bars
from . import mini

if TYPE_CHECKING:
    from transformers import CLIPModel, LlavaForConditionalGeneration


def load_run(run: Path) -> tuple[LlavaForConditionalGeneration, CLIPModel | None]:
    """The model of a training folder, and the CLIP pair if the stage `text` was trained."""
    from transformers import CLIPModel, LlavaForConditionalGeneration

    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    model = LlavaForConditionalGeneration(mini.config())
    model.load_state_dict(state["model"])
    if not (run / "clip.pt").is_file():
        return model, None
    pair = CLIPModel(mini.clip_config())
    pair.load_state_dict(torch.load(run / "clip.pt", map_location="cpu", weights_only=True))
    return model, pair


def export(run: Path, out: Path) -> list[Path]:
    """Write the folders of a training folder in half precision; return them."""
    from transformers import CLIPImageProcessor, CLIPProcessor

    model, pair = load_run(run)
    # generate() reads these; without them it would sample, and go on behind the answer
    settings = model.generation_config
    settings.do_sample, settings.bos_token_id = False, mini.SPECIAL.index("<s>")
    settings.eos_token_id, settings.pad_token_id = mini.SPECIAL.index("</s>"), mini.SPECIAL.index("<pad>")
    folders = [out / mini.NAME]
    processor = mini.processor()
    with without_bars():
        model.half().save_pretrained(folders[0])
        processor.save_pretrained(folders[0])
        if pair is not None:
            folders.append(out / f"{mini.NAME}-clip")
            pair.half().save_pretrained(folders[1])
            images = processor.image_processor
            assert isinstance(images, CLIPImageProcessor)
            CLIPProcessor(images, mini.tokenizer(close=True)).save_pretrained(folders[1])
    for folder in folders:
        files = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".jinja"})
        sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
        (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    return folders


def main() -> None:
    """Export one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    export(given.run, given.out)


if __name__ == "__main__":
    main()

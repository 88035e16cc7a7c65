"""The stage `text`: a CLIP text encoder that learns what the frozen tower's class token says about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from ....tasks.synth.scenes import SMALL, Scene, Split, scene
from . import mini
from .muon import Muon

# Chosen by the time that they take: a few minutes on one CPU core.
STEPS, SIZE = 200, 48


def caption(made: Scene) -> str:
    """`a red circle , a small blue ring and FOX`: one to three of the things in a picture, or its word, at random."""
    rng = np.random.RandomState(made.seed ^ 0xCA9)
    things = [f"a {'small ' if t.scale == SMALL else ''}{t.colour} {t.shape}" for t in made.things]
    named: list[str] = [things[i] for i in rng.permutation(len(things))[: 1 + rng.randint(3)]]
    if rng.randint(2):
        named.append(made.word.text)
    return " , ".join(named[:-1]) + (" and " if len(named) > 1 else "") + named[-1]


def pairs(indices: Sequence[int], split: Split) -> tuple[torch.Tensor, list[str]]:
    """Pictures [n, SIZE, SIZE, 3] in bytes, and their captions."""
    made = [scene(i, split) for i in indices]
    return torch.from_numpy(np.stack([s.draw() for s in made])), [caption(s) for s in made]


def train_text(tower: torch.nn.Module, run: Path, *, offset: int, steps: int = STEPS, size: int = SIZE) -> list[float]:
    """Train the text encoder and both projections against the frozen tower; write `clip.pt`; return the losses."""
    torch.manual_seed(offset)
    device = next(tower.parameters()).device
    model = CLIPModel(mini.clip_config())
    model.to(device)
    model.vision_model.load_state_dict(tower.state_dict())
    model.vision_model.requires_grad_(False)
    rest = [p for p in model.parameters() if p.requires_grad]
    tables = {id(p) for n, p in model.named_parameters() if "embedding" in n}
    matrices = [p for p in rest if p.ndim == 2 and id(p) not in tables]
    chosen = set(map(id, matrices))
    optimisers = [
        Muon(matrices, 0.02),
        torch.optim.AdamW([p for p in rest if id(p) not in chosen], 2e-3, weight_decay=0.01),
    ]
    tokenizer, losses = mini.tokenizer(close=True), []
    target = torch.arange(size, device=device)
    for step in range(steps):
        pixels, texts = pairs(range(offset + step * size, offset + (step + 1) * size), "train")
        values = pixels.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        inputs = tokenizer(texts, padding=True, return_tensors="pt").to(device)
        logits = model(pixel_values=values, **inputs).logits_per_image
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        torch.autograd.backward(loss)
        rate = min(1.0, (step + 1) / 20, 1.25 * (1 - step / steps) + 0.01)
        for optimiser, base in zip(optimisers, (0.02, 2e-3), strict=True):
            optimiser.param_groups[0]["lr"] = base * rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6)
        losses.append(float(loss.detach()))
    torch.save(model.state_dict(), run / "clip.pt")
    return losses

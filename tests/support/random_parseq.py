"""docTR's PARSeq with random weights that read something, put where docTR looks for TokBench's."""

from __future__ import annotations

from pathlib import Path

import pytest


def random_parseq(folder: Path, *, end: float = 5.0) -> Path:
    """Write `models/parseq-56125471.pt` in a cache folder of docTR's.

    Args:
        end: added to the logit that ends a word, so that words end at many lengths, and some never.
    """
    pytest.importorskip("doctr", reason="python-doctr is not installed: pip install python-doctr", exc_type=ImportError)
    import torch
    from doctr.models import recognition

    torch.manual_seed(1)
    model = recognition.parseq(pretrained=False)
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if not name.startswith("feat_extractor") and weights.ndim > 1:
                scale = 0.3 if name.startswith("head") else 0.15
                weights.copy_(torch.randn(weights.shape, generator=drawn) * scale)
        model.head.bias.zero_()
        model.head.bias[model.vocab_size] = end
    path = folder / "models" / "parseq-56125471.pt"
    path.parent.mkdir(parents=True)
    torch.save(model.state_dict(), path)
    return path

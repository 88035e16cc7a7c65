"""Small checkpoints of ordinary classes that come with the package, and how they were trained.

The training code is not part of the engine: it is run by hand, and it may name tasks. Every checkpoint is a folder of
its own name, an ordinary one, with its card.
"""

from __future__ import annotations

from pathlib import Path


def embedded() -> dict[str, Path]:
    """Folders of the checkpoints that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(Path(__file__).parent.glob("*/config.json"))}


def text_encoder_of(ref: str) -> str | None:
    """The name of the CLIP checkpoint that comes with an embedded model, for methods that read a text encoder."""
    name = f"{ref}-clip"
    return name if name in embedded() else None

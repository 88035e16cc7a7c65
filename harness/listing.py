"""What `toksweep list` and `toksweep doctor` show: names and what they need, read without importing their modules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .borrowing import collection_of, is_borrowed
from .checkpoints import published
from .models.abilities import ORDINARY
from .registry import Broken, registry

Row = dict[str, object]


def listing(what: str) -> tuple[list[Row], list[Broken]]:
    """Rows of one kind, and the plug-ins that cannot be read."""
    if what == "models":
        return _models(), []
    found = registry(what)
    make = {"methods": _method, "tasks": _task, "metrics": _metric}[what]
    own = [make(e.name, e.kind, dict(e.meta), e.summary) for e in found if not is_borrowed(e)]
    borrowed = [dict(row) for e in found if is_borrowed(e) for row in collection_of(e).rows()]
    return own + borrowed, found.broken


def _models() -> list[Row]:
    """Models that come with us, and published ones of the families served whose configuration is stored with us; any
    folder or hub id of their classes will do as well."""
    from .models import FAMILIES
    from .models.embedded import embedded
    from .models.published import stored_configs, stored_path

    here = {name: folder / "config.json" for name, folder in embedded().items()}
    rows: list[Row] = []
    for ref, path in [*here.items(), *((ref, stored_path(ref)) for ref in stored_configs())]:
        config = json.loads(path.read_text(encoding="utf-8"))
        vision = config["vision_config"]
        if config["model_type"] not in FAMILIES:
            continue
        rows.append(
            {
                "name": ref,
                "weights": "with us" if ref in here else "on the hub",
                "class": config["architectures"][0],
                "visual_tokens": config.get("image_seq_length"),
                "vision_layers": vision.get("num_hidden_layers", vision.get("depth")),
                "llm_layers": config["text_config"].get("num_hidden_layers"),
            }
        )
    return rows


def _method(name: str, kind: str, meta: Row, summary: str) -> Row:
    return {
        "name": name,
        "kind": kind,
        "places": list(meta.get("places", ())),  # type: ignore[call-overload]
        "needs": list(meta.get("needs", ())),  # type: ignore[call-overload]
        "families": serving(meta) if kind == "compressor" else [],
        "floor": bool(meta.get("floor", False)),
        "budget_kind": meta.get("budget_kind", "full" if kind == "untouched" else "at_most"),
        "verified": meta.get("verified"),
        "paper": meta.get("paper"),
        "repository": meta.get("repository"),
        "checkpoints": {p.name: asdict(p) for p in published().values() if p.method == name},
        "summary": summary,
    }


def serving(meta: Mapping[str, Any]) -> list[str]:
    """Families of models whose published checkpoints serve a compressor, on pictures or on clips."""
    return [name for name, info in ORDINARY.items() if any(info.on(clip).serves(meta) for clip in (False, True))]


def _task(name: str, kind: str, meta: Row, summary: str) -> Row:
    return {
        "name": name,
        "family": meta["family"],
        "metrics": list(meta["metrics"]),  # type: ignore[call-overload]
        "builtin": meta["builtin"],
        "licence": meta["licence"],
        "summary": summary,
    }


def _metric(name: str, kind: str, meta: Row, summary: str) -> Row:
    return {
        "name": name,
        "family": meta["family"],
        "unit": meta["unit"],
        "higher_is_better": meta["higher_is_better"],
        "backend": meta["backend"],
        "summary": summary,
    }


def diagnosis() -> list[Row]:
    """Backends and devices: ready or not, and how to get what is missing."""
    from ..metrics.backends import survey

    rows: list[Row] = [
        {"name": s.name, "kind": s.kind, "ready": s.ready, "detail": s.detail, "how_to_get": s.how_to_get}
        for s in survey()
    ]
    return rows + _devices()


def _devices() -> list[Row]:
    import torch

    cuda = torch.cuda.is_available()
    detail = torch.cuda.get_device_name(0) if cuda else "no CUDA device is visible"
    hint = "" if cuda else "install an NVIDIA driver, or sweep with --device cpu"
    return [
        {"name": "cpu", "kind": "device", "ready": True, "detail": f"torch {torch.__version__}", "how_to_get": ""},
        {"name": "cuda", "kind": "device", "ready": cuda, "detail": detail, "how_to_get": hint},
    ]

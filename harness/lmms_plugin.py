"""Makes `lmms-eval --model toksweep` work: named by our entry point in lmms-eval's group `lmms_eval.models`."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval asks for at every start; our model, and torch with it, is imported when it is chosen."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="toksweep", chat_class_path="toksweep.harness.lmms_model.Toksweep")

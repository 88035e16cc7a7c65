"""toksweep: how much accuracy does each visual token cost?"""

from .harness.contracts import (
    Budget,
    Codes,
    Item,
    Memo,
    Output,
    Reduction,
    Refusal,
    Region,
    Sample,
    Stage,
    UserError,
    View,
)
from .harness.registry import compressor, metric, task, tokenizer

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Codes",
    "Item",
    "Memo",
    "Output",
    "Reduction",
    "Refusal",
    "Region",
    "Sample",
    "Stage",
    "UserError",
    "View",
    "compressor",
    "metric",
    "task",
    "tokenizer",
]

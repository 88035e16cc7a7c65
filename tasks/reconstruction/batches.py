"""What TokBench's recogniser is told of a word: how long the longest transcript of its batch is.

TokBench calls docTR's PARSeq with the transcripts (`eval_text.py` at github.com/wjf5203/TokBench), which cuts every
reading of a batch one sign behind the longest of them. Batches are `BATCH` consecutive words of a set, in the order of
its annotations, so that the cut is known from these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...harness.contracts import Region, Sample
from .sources import digest

BATCH = 64
"""That of TokBench's `eval.sh`."""
SIGNS = frozenset(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    "°£€¥¢฿àâéèêëîïôùûüçÀÂÉÈÊËÎÏÔÙÛÜÇ"
)
"""docTR's `french` vocabulary. TokBench leaves out a batch whole in which a transcript has any other sign."""


def told(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of one set, in order, each word with the length of the longest transcript of its batch.

    0 stands for a batch that is left out. Samples without words stay as they are.
    """
    texts = [region.text or "" for sample in samples for region in sample.regions]
    lengths = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        known = all(SIGNS.issuperset(text) for text in batch)
        lengths += [max(map(len, batch)) if known else 0] * len(batch)
    waiting = iter(lengths)
    return [_told(sample, [next(waiting) for _ in sample.regions]) for sample in samples]


def _told(sample: Sample, lengths: Sequence[int]) -> Sample:
    if not sample.regions:
        return sample
    regions: list[Region] = [replace(r, longest=n) for r, n in zip(sample.regions, lengths, strict=True)]
    return replace(sample, regions=tuple(regions), fingerprint=digest(sample.fingerprint, lengths))

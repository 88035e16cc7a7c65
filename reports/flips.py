"""What became of single samples between two cells: which were lost, which gained, and whether chance explains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..metrics.mcnemar import swap_test
from ..results.records import Question, SampleRecord
from .pairing import Scored


@dataclass(frozen=True)
class Flip:
    """A sample that the two cells score differently: what was asked, None in folders of earlier versions, the reference
    answers, and what each cell answered, None where a method failed."""

    sample_id: str
    cluster_id: str
    score_a: float
    score_b: float
    prediction_a: str | None
    prediction_b: str | None
    question: str | None = None
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two cells with binary scores.

    Attributes:
        lost, gained: how many samples are right in a and wrong in b, and the other way round.
        p: mid-p of swapping whole clusters, which takes nothing to be independent within them; where every cluster has
            one sample it is McNemar's mid-p.
        p_ignoring_clusters: McNemar's mid-p, as if every sample were a cluster.
        p_exact_ignoring_clusters: the same of the exact conditional test: the binomial test of one half.
    """

    lost: int
    gained: int
    p: float
    p_ignoring_clusters: float
    p_exact_ignoring_clusters: float


@dataclass(frozen=True)
class Flips:
    """The samples that b scores worse than a, and better; `mcnemar` is None where scores are not binary."""

    lost: tuple[Flip, ...]
    gained: tuple[Flip, ...]
    mcnemar: McNemar | None

    def to_json(self) -> dict[str, object]:
        """The two lists, whole."""
        return {
            side: [asdict(flip) for flip in flips] for side, flips in (("lost", self.lost), ("gained", self.gained))
        }


def find_flips(
    a: Mapping[str, Scored],
    b: Mapping[str, Scored],
    records: tuple[Mapping[str, SampleRecord], Mapping[str, SampleRecord]],
    questions: Mapping[str, Question],
    *,
    higher_is_better: bool,
) -> Flips:
    """The flips between two cells, in the order of the samples of a.

    Args:
        a, b: what one metric said of each sample; samples that only one side has are left out.
        records: of both cells, for what was answered.
        questions: by fingerprint.
    """
    worse: list[Flip] = []
    better: list[Flip] = []
    both = {i: (_mean(a[i]), _mean(b[i])) for i in a if i in b and a[i].source == b[i].source}
    known = {i: (x, y) for i, (x, y) in both.items() if x is not None and y is not None}
    for i, (before, after) in known.items():
        if before != after:
            said, asked = [side[i].prediction for side in records], questions.get(a[i].fingerprint)
            text, answers = (asked.text, asked.answers) if asked else (None, ())
            flip = Flip(i, a[i].cluster_id, before, after, said[0], said[1], text, answers)
            (better if (after > before) == higher_is_better else worse).append(flip)
    binary = all(score in (0.0, 1.0) for pair in known.values() for score in pair)
    return Flips(tuple(worse), tuple(better), _mcnemar(worse, better) if binary else None)


def _mcnemar(lost: list[Flip], gained: list[Flip]) -> McNemar:
    clusters = Counter(f.cluster_id for f in gained)
    clusters.subtract(f.cluster_id for f in lost)
    whole, alone = swap_test(list(clusters.values())), swap_test([-1] * len(lost) + [1] * len(gained))
    return McNemar(len(lost), len(gained), whole.mid_p, alone.mid_p, alone.exact)


def _mean(scored: Scored) -> float | None:
    """Of a sample's items; None where it has none that count."""
    total, count = (sum(part) for part in zip(*scored.bins.values(), strict=True)) if scored.bins else (0.0, 0)
    return total / count if count else None

"""Whether two cells disagree on one side more often than chance explains: McNemar's test, of samples and of clusters.

McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Swaps:
    """Two-sided p-values of a test that swaps the two sides at random.

    Attributes:
        mid_p: an outcome as extreme as the one seen counts half. Of the tests of paired binary scores this one comes
            closest to its nominal level and hardly ever exceeds it (Fagerland, Lydersen and Laake, "The McNemar test
            for binary matched-pairs data: mid-p and asymptotic are better than exact conditional", BMC Medical
            Research Methodology 13:91, 2013), while
        exact: which counts it whole, never exceeds it and is conservative.
    """

    mid_p: float
    exact: float


def swap_test(differences: Sequence[int]) -> Swaps:
    """The exact permutation test of no difference: each part's two sides may be swapped, whatever they are.

    With one entry of -1 or 1 for each sample that the sides disagree on, it is McNemar's test (the binomial test of
    one half). With one entry per cluster, gained less lost samples, clusters are swapped as wholes: nothing is taken
    to be independent within them.

    Args:
        differences: whole numbers, one per part; zeros say nothing.
    """
    sizes = [abs(int(d)) for d in differences if d]
    seen = abs(int(sum(differences)))
    if seen == 0:
        return Swaps(1.0, 1.0)
    ends = sum(sizes)
    chance = np.ones(1)  # of every sum from -ends to ends, in steps of 1
    for size in sizes:
        chance = (np.pad(chance, (0, 2 * size)) + np.pad(chance, (2 * size, 0))) / 2
    beyond, at = chance[ends + seen + 1 :].sum(), chance[ends + seen]
    return Swaps(float(min(1.0, 2 * beyond + at)), float(min(1.0, 2 * (beyond + at))))

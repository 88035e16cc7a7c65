"""What the budgets of one method share: a memo at the first cut behind the vision tower, and nothing else."""

import pytest
import torch
import vlm
from toksweep.harness.contracts import Memo, Reduction, Stage
from toksweep.harness.schedule import lay_out


class Counting:
    """Keeps the first tokens; notes in every view's memo, and by itself, how often it was asked."""

    def __init__(self):
        self.computed = 0

    def reduce(self, view, keep):
        view.memo.once("asked", self._compute)
        return Reduction.keep(torch.arange(keep).expand(len(view.tokens), keep), view.tokens.shape[1])

    def _compute(self):
        self.computed += 1


def ask(llava, method, memo, *stages, encoded="shared"):
    batch = vlm.batch(llava)
    encoded = llava.encode(batch) if encoded == "shared" else None
    llava.prefill(batch, encoded, method, lay_out(stages, llava.shape), seed=0, memo=memo)


def test_budgets_share_a_memo_at_the_first_cut_behind_the_tower(llava):
    method, memo = Counting(), Memo()
    for keep in (8, 4):
        ask(llava, method, memo, Stage("projector", keep))
    assert method.computed == 1


@pytest.mark.parametrize(
    "stages",
    [
        [(Stage("decoder", keep, layer=2),) for keep in (8, 4)],
        [(Stage("pixel", 4, grid=(2, 2)), Stage("projector", keep)) for keep in (3, 2)],
        [(Stage("projector", keep, reads=reads),) for keep, reads in ((8, ()), (4, ("class_token",)))],
    ],
    ids=["decoder", "pixel", "other tokens"],
)
def test_nothing_is_shared_where_views_differ(llava, stages):
    method, memo = Counting(), Memo()
    for cuts in stages:
        ask(llava, method, memo, *cuts)
    assert method.computed == 2


def test_a_second_cut_of_the_same_kind_sees_other_tokens_and_shares_nothing(llava):
    method, memo = Counting(), Memo()
    for keep in (8, 4):
        ask(llava, method, memo, Stage("projector", 12), Stage("projector", keep))
    assert method.computed == 1 + 2


def test_what_is_encoded_anew_is_shared_with_nobody(llava):
    method, memo = Counting(), Memo()
    for keep in (8, 4):
        ask(llava, method, memo, Stage("projector", keep), encoded=None)
    assert method.computed == 2

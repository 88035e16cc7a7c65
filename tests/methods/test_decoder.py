"""Compressors inside the LLM: counts at any budget, choices written out in another way, and what they refuse."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from toksweep.harness.contracts import Budget, ModelShape, UserError, View
from toksweep.harness.registry import registry
from toksweep.harness.schedule import resolve
from toksweep.methods.attention import find_raters, page_rank, rotated_ones
from toksweep.methods.compressors.aim import Aim
from toksweep.methods.compressors.dart import Dart, unlike
from toksweep.methods.compressors.pyramiddrop import PyramidDrop
from toksweep.methods.compressors.sparsevlm import SparseVLM
from toksweep.methods.compressors.visiondrop import VisionDrop
from toksweep.methods.counts import clustered, keep_whole
from toksweep.methods.pairs import merge_rounds


def shape(tokens=576, layers=32):
    return ModelShape("llava", tokens, (1, tokens), 24, layers, True, feature_layers=23)


def draw(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def counts(method, keep, **of):
    return [(stage.layer, stage.keep) for stage in method.stages(keep, shape(**of))]


# ---------------------------------------------------------------------------------------------------------- PyramidDrop


@pytest.mark.parametrize(("tokens", "want"), [(576, (288, 144, 72)), (577, (288, 144, 72)), (100, (50, 25, 12))])
def test_an_eighth_of_the_tokens_is_the_authors_halving(tokens, want):
    assert counts(PyramidDrop(), tokens // 8, tokens=tokens) == list(zip((8, 16, 24), want, strict=True))


@pytest.mark.parametrize("tokens", [16, 100, 576])
def test_every_count_can_be_the_last_of_a_pyramid_and_all_grow_with_it(tokens):
    found = [[n for _, n in counts(PyramidDrop(), keep, tokens=tokens)] for keep in range(tokens + 1)]
    assert [n[-1] for n in found] == list(range(tokens + 1))
    assert all(a <= b for less, more in pairwise(found) for a, b in zip(less, more, strict=True))
    assert all(list(n) == sorted(n, reverse=True) for n in found)


def test_layers_of_a_pyramid_that_are_given_are_taken_literally():
    assert counts(PyramidDrop(layers=(2, 5)), 144) == [(2, 288), (5, 144)]


def test_cuts_that_fall_into_one_layer_of_a_shallow_model_are_one():
    assert counts(PyramidDrop(), 2, tokens=16, layers=3) == [(1, 8), (2, 2)]


# ----------------------------------------------------------------------------------------------------------------- DART


def dart_view(n=40, words=6, rows=2):
    signals = {
        "keys": draw(rows, 2, n, 4), "text_keys": draw(rows, 2, words, 4, seed=1),
        "normed": draw(rows, n, 8, seed=2), "text_normed": draw(rows, words, 8, seed=3),
    }  # fmt: skip
    return View(draw(rows, n, 8, seed=4), (1, n), "decoder", signals=signals)


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 5, 12, 29, 40])
def test_dart_takes_turns_between_pivots_until_the_budget_is_spent(keep):
    view = dart_view()
    reduction = Dart().reduce(view, keep)
    for row in range(2):
        strength = {name: view[name][row].abs().sum((0, 2)).numpy() for name in ("keys", "text_keys")}
        own = list(np.argsort(-strength["keys"])[: min(4, keep)])
        words = list(np.argsort(-strength["text_keys"])[:4])
        tokens = view["normed"][row].double().numpy()
        visited = [*tokens[own], *view["text_normed"][row].double().numpy()[words]]
        taken = set(own)
        quota = [
            (keep - len(own)) // len(visited) + (i < (keep - len(own)) % len(visited)) for i in range(len(visited))
        ]
        for pivot, share in zip(visited, quota, strict=True):
            cosine = tokens @ pivot / np.linalg.norm(tokens, axis=1) / np.linalg.norm(pivot)
            taken |= set([i for i in np.argsort(cosine) if i not in taken][:share])
        assert reduction.describe(row) == sorted(taken)


def test_a_question_of_two_words_gives_two_pivots():
    assert Dart().reduce(dart_view(words=2), 17).counts.tolist() == [17, 17]


def test_duplicated_tokens_are_kept_once_each():
    tokens = torch.ones(1, 9, 4)
    assert unlike(tokens, torch.tensor([[3]]), tokens[:, :2], 5).nonzero()[:, 1].tolist() == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------------------ SparseVLM


@pytest.mark.parametrize(("keep", "table", "mean"), [
    (113, (300, 200, 110), 206.5), (39, (303, 110, 36), 145.4), (27, (238, 48, 26), 114.1), (18, (66, 30, 17), 82.3),
])  # fmt: skip
def test_the_authors_four_budgets_keep_what_their_tables_say(keep, table, mean):
    schedule = resolve(SparseVLM(), Budget.parse(keep), "after_cut", shape(), merges=True)
    assert schedule.mean == pytest.approx(mean, abs=0.05)
    assert [s.layer for s in schedule.stages] == [3, 7, 16]
    entering = [576, *(s.keep for s in schedule.stages)]
    assert [keep_whole(n, left) for n, left in pairwise(entering)] == list(table)


@pytest.mark.parametrize(("keep", "want"), [(118, (300, 200)), (60, (238, 108)), (28, (246, 54)), (20, (66, 34))])
def test_version_two_has_tables_of_its_own(keep, want):
    assert [n for _, n in counts(SparseVLM(version=2), keep)] == [*want, keep]


@pytest.mark.parametrize("n", [1, 2, 16, 100, 576])
def test_some_number_of_whole_tokens_leaves_any_count(n):
    for keep in range(1, n + 1):
        whole = keep_whole(n, keep)
        assert 0 <= whole < n
        assert whole + clustered(n, whole)[1] == keep or whole == 0
        assert clustered(n, whole)[0] <= n - whole


def sparse_view(n=40, words=6, rows=2):
    signals = {
        "entering": draw(rows, n, 8), "text_embeddings": draw(rows, words, 8, seed=1),
        "text_attention": draw(rows, 3, words, n, seed=2).softmax(-1), "keys": draw(rows, 3, n, 8, seed=3),
    }  # fmt: skip
    generators = tuple(torch.Generator().manual_seed(row) for row in range(rows))
    origin = torch.arange(n).expand(rows, -1)
    return View(draw(rows, n, 8, seed=4), (1, n), "decoder", 3, None, origin, signals, generators)


@pytest.mark.parametrize("keep", [1, 2, 5, 19, 39])
def test_clusters_of_the_best_left_out_follow_the_tokens_that_raters_look_at(keep):
    view = sparse_view()
    reduction = SparseVLM().reduce(view, keep)
    whole = keep_whole(40, keep)
    for row in range(2):
        logits = view["entering"][row].double() @ view["text_embeddings"][row].double().T
        share = logits.softmax(1).mean(0)
        scores = view["text_attention"][row].double().mean(0)[share > share.mean()].mean(0)
        ranked = scores.argsort(descending=True).tolist()
        rows = reduction.describe(row)
        groups = [r if isinstance(r, list) else [r] for r in rows]
        assert groups[:whole] == [[i] for i in sorted(ranked[:whole])]
        recycled = ranked[whole : whole + clustered(40, whole)[0]]
        assert sorted(i for group in groups[whole:] for i in group) == sorted(recycled)
        out = reduction.apply(view.tokens)[row]
        for place, group in enumerate(groups):
            assert torch.allclose(out[place], view.tokens[row, group].mean(0), atol=1e-6)


def test_a_cut_with_nothing_to_drop_leaves_everything_in_place():
    reduction = SparseVLM().reduce(sparse_view(), 40)
    assert reduction.is_selection
    assert reduction.describe(1) == list(range(40))


def test_a_single_word_is_the_rater():
    assert find_raters(draw(2, 5, 4), draw(2, 1, 4)).tolist() == [[True], [True]]


def test_version_two_keeps_tokens_in_order_with_their_positions():
    reduction = SparseVLM(version=2).reduce(sparse_view(), 9)
    assert reduction.is_selection
    assert reduction.position == "keep"
    assert reduction.describe(0) == sorted(reduction.describe(0))


def test_rotated_ones_are_what_a_rotary_embedding_makes_of_ones():
    turns = np.exp(1j * np.arange(50)[:, None] * 10000.0 ** (-np.arange(8) / 8))
    rotated = (1 + 1j) * turns  # a pair of channels is a complex number
    want = (rotated[45].real * rotated[:40].real + rotated[45].imag * rotated[:40].imag).sum(1) / 4
    assert np.allclose(rotated_ones(45 - torch.arange(40), 16, 10000.0).numpy(), want, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------- VisionDrop


def test_the_authors_budget_of_visiondrop_leaves_what_their_script_says():
    schedule = resolve(VisionDrop(), Budget.parse(32), "mean", shape(), merges=True)
    assert [s.keep for s in schedule.stages] == [48, 35, 26, 19]
    assert [round(0.135 * s.keep) for s in schedule.stages] == [6, 5, 4, 3]
    assert schedule.mean == 32


def test_contextual_tokens_of_a_layer_follow_the_dominant_ones():
    n = 30
    signals = {"next_visual_attention": draw(2, 3, n).softmax(-1), "next_keys": draw(2, 3, n, 8, seed=1)}
    view = View(draw(2, n, 12, seed=2), (1, n), "decoder", 8, signals=signals)
    reduction = VisionDrop(contextual=0.25).reduce(view, 12)
    for row in range(2):
        rows = [r if isinstance(r, list) else [r] for r in reduction.describe(row)]
        best = signals["next_visual_attention"][row].mean(0).topk(9).indices.tolist()
        assert rows[:9] == [[i] for i in sorted(best)]
        rest = sorted(set(range(n)) - set(best))
        assert reduction.anchor[row, 9:].tolist() == [rest[0], rest[7], rest[14]]
        assert sorted(i for group in rows[9:] for i in group) == rest
        assert reduction.position == "renumber"


# ------------------------------------------------------------------------------------------------------------------ AIM


def test_aim_thins_seven_eighths_to_nothing_in_eight_layers():
    assert counts(Aim(), 49, tokens=196, layers=28) == [
        (None, 49), (15, 42), (16, 36), (17, 30), (18, 24), (19, 18), (20, 12), (21, 6), (22, 0),
    ]  # fmt: skip
    assert counts(Aim(prune=False), 49, tokens=196) == [(None, 49)]
    assert [layer for layer, _ in counts(Aim(layers=tuple(range(1, 9))), 49, tokens=196)] == [None, *range(1, 9)]


@pytest.mark.parametrize("keep", [1, 7, 49, 98, 150, 196])
def test_rounds_of_merging_lose_no_token(keep):
    tokens = draw(2, 196, 8)
    reduction = merge_rounds(tokens, keep)
    assert reduction.counts.tolist() == [keep, keep]
    assert torch.equal(reduction.sizes(torch.ones(2, 196)).sum(1), torch.full((2,), 196.0))
    weight = reduction.dense().sum(-1)
    assert torch.allclose(weight, torch.ones_like(weight), atol=1e-5)


def test_page_rank_is_a_walk_that_starts_anywhere():
    queries, keys = draw(2, 4, 9, 8).double(), draw(2, 2, 9, 8, seed=1).double()
    got = page_rank(queries, keys)
    for row in range(2):
        squares = 0
        for head in range(4):
            logits = queries[row, head].numpy() @ keys[row, head // 2].numpy().T / np.sqrt(8) / 0.1
            moves = np.tril(np.exp(logits - logits.max(1, keepdims=True)))
            moves /= moves.sum(1, keepdims=True)
            squares = squares + (np.full(9, 1 / 9) @ np.linalg.matrix_power(moves, 5)) ** 2
        assert np.allclose(got[row].numpy(), np.sqrt(squares / 4), atol=1e-5)


def test_aim_keeps_the_visual_tokens_that_rank_highest_wherever_they_stand():
    queries, keys = draw(1, 2, 12, 4), draw(1, 2, 12, 4, seed=1)
    places = torch.tensor([[3, 4, 5, 8, 9]])
    signals = {"prompt_queries": queries, "prompt_keys": keys, "places": places}
    view = View(draw(1, 5, 4), (1, 5), "decoder", 15, signals=signals)
    rank = page_rank(queries, keys)[0, places[0]]
    reduction = Aim().reduce(view, 3)
    assert reduction.describe(0) == sorted(rank.topk(3).indices.tolist())
    assert reduction.position == "keep"


def test_aim_ranks_without_what_an_earlier_cut_masked():
    queries, keys = draw(1, 2, 12, 4), draw(1, 2, 12, 4, seed=1)
    visible, places = torch.ones(1, 12, dtype=torch.bool), torch.tensor([[3, 4, 8, 9]])
    visible[0, 5] = False
    signals = {"prompt_queries": queries, "prompt_keys": keys, "places": places, "visible": visible}
    rank = page_rank(queries, keys, visible)
    assert rank[0, 5] == 0
    assert not torch.equal(rank, page_rank(queries, keys))
    reduction = Aim(mask=True).reduce(View(draw(1, 4, 4), (1, 5), "decoder", 16, signals=signals), 2)
    assert reduction.describe(0) == sorted(rank[0, places[0]].topk(2).indices.tolist())


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("name", "parameters", "message"), [
    ("pyramiddrop", {"layers": (8, 8)}, "layers must be whole numbers from 1 in ascending order"),
    ("pyramiddrop", {"layers": ()}, "layers must be"), ("pyramiddrop", {"layers": 8}, "layers must be"),
    ("dart", {"layer": 0}, "layer must be a whole number from 1"),
    ("dart", {"pivots": 0}, "pivots must be a whole number from 1"),
    ("dart", {"text_pivots": -1}, "text_pivots must be a whole number from 0"),
    ("sparsevlm", {"version": 3}, "version must be 1 or 2"), ("sparsevlm", {"layers": (3, 7)}, "layers must be three"),
    ("sparsevlm", {"heads": 0}, "heads must be"), ("sparsevlm", {"theta": 1}, "theta must be"),
    ("visiondrop", {"layers": (8, 16)}, "layers must be three"),
    ("visiondrop", {"contextual": 1}, "contextual must be"),
    ("aim", {"prune": "no"}, "prune must be True or False"), ("aim", {"mask": 1}, "mask must be True or False"),
    ("aim", {"layers": (1, 2)}, "layers must be eight"),
])  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(name, parameters, message):
    with pytest.raises(UserError, match=message):
        registry("methods").get(name).build(parameters)

"""Quantizers against plain NumPy readings of their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from toksweep.methods.quantizers import FSQ, Codebook, Half, Kind, Parallel, Quantizer, Residual, Rule, Signs, quantizer
from toksweep.methods.replays.quantizers import REPLAYS

KINDS: list[tuple[Kind, int, Sequence[int], float]] = [
    ("vq", 6, (32,), 5), ("unit_vq", 8, (16, 64), 10), ("ibq", 6, (32,), 5), ("residual", 6, (16, 8), 7),
    ("lfq", 18, (6, 12), 18), ("lfq", 8, (4, 4), 8), ("bsq", 36, (36,), 36), ("bsq", 18, (9, 9), 18),
    ("fsq", 6, (8, 8, 8, 5, 5, 5), math.log2(64000)), ("fsq_port", 3, (3, 5, 4), math.log2(60)), ("half", 4, (), 64),
]  # fmt: skip


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_rows(table: np.ndarray, rule: Rule) -> Codebook:
    size, dim = table.shape
    made = Codebook(size, dim, rule)
    made.weight = torch.nn.Parameter(torch.from_numpy(table))
    return made


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", ["distance", "unit", "inner"])
def test_a_codebook_gives_the_row_that_its_rule_names(rule: Rule, seed: int) -> None:
    table, z = draw(seed, 37, 5), draw(seed + 100, 4, 7, 5)
    book = with_rows(table, rule)
    rows, vectors = (unit(table), unit(z)) if rule == "unit" else (table, z)
    rows, vectors = rows.astype(np.float64), vectors.astype(np.float64)
    if rule == "inner":
        want = (vectors @ rows.T).argmax(-1)
    else:
        want = ((vectors[..., None, :] - rows) ** 2).sum(-1).argmin(-1)
    indices = book.encode(torch.from_numpy(z))
    assert np.array_equal(indices[..., 0].numpy(), want)
    np.testing.assert_allclose(book.decode(indices).detach().numpy(), rows[want], rtol=1e-6, atol=1e-6)


def test_the_rules_differ_on_the_same_arrays() -> None:
    table, z = draw(1, 37, 5), torch.from_numpy(draw(2, 200, 5))
    found = [with_rows(table, rule).encode(z) for rule in ("distance", "unit", "inner")]
    assert not any(torch.equal(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_first_of_two_equal_rows_wins() -> None:
    table = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    for rule in ("distance", "unit", "inner"):
        indices = with_rows(table, rule).encode(torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]]))
        assert indices.flatten().tolist() == [0, 1, 0]


def test_parallel_codebooks_split_the_channels_and_residual_ones_the_rest() -> None:
    first, second, z = draw(3, 16, 4), draw(4, 8, 4), draw(5, 50, 8)

    def nearest(table: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        return ((vectors[:, None].astype(np.float64) - table) ** 2).sum(-1).argmin(-1)

    books = [with_rows(first, "distance"), with_rows(second, "distance")]
    side_by_side = Parallel(books)
    indices = side_by_side.encode(torch.from_numpy(z))
    want = np.stack([nearest(first, z[:, :4]), nearest(second, z[:, 4:])], -1)
    assert np.array_equal(indices.numpy(), want)
    rows = np.concatenate([first[want[:, 0]], second[want[:, 1]]], -1)
    assert np.array_equal(side_by_side.decode(indices).detach().numpy(), rows)

    one_by_one, z = Residual(books), z[:, :4]
    indices = one_by_one.encode(torch.from_numpy(z))
    chosen = nearest(first, z)
    want = np.stack([chosen, nearest(second, z - first[chosen])], -1)
    assert np.array_equal(indices.numpy(), want)
    rows = first[want[:, 0]] + second[want[:, 1]]
    np.testing.assert_allclose(one_by_one.decode(indices).detach().numpy(), rows, rtol=1e-6)


@pytest.mark.parametrize("high_first", [False, True])
@pytest.mark.parametrize("groups", [(5,), (3, 4), (6, 12), (36,), (9, 9, 9, 9)])
def test_signs_are_packed_bit_by_bit_and_zero_is_below(groups: Sequence[int], high_first: bool) -> None:
    signs = Signs(groups, high_first=high_first)
    z = draw(7, 20, sum(groups))
    z[0], z[1, ::2] = 0.0, -0.0
    indices = signs.encode(torch.from_numpy(z)).tolist()
    for row, codes in zip(z, indices, strict=True):
        bits = ["1" if x > 0 else "0" for x in row]
        for size, code in zip(groups, codes, strict=True):
            group, bits = bits[:size], bits[size:]
            assert code == int("".join(group if high_first else reversed(group)), 2)
    assert np.array_equal(signs.decode(torch.tensor(indices)).numpy(), np.where(z > 0, 1, -1).astype(np.float32))


def test_bsq_lies_on_the_unit_sphere() -> None:
    bsq = quantizer("bsq", 18, (18,))
    vectors = bsq.decode(bsq.encode(torch.from_numpy(draw(8, 9, 18))))
    np.testing.assert_allclose(vectors.norm(dim=-1).numpy(), 1, rtol=1e-6)


def fsq_by_hand(z: np.ndarray, levels: int, *, port: bool) -> tuple[np.ndarray, np.ndarray]:
    """Digits of one channel in float64, and where rounding is too close to call in float32."""
    half = (levels - 1) * (1.001 if port else 0.999) / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    shift = math.atanh(offset / half) if port else math.tan(offset / half)
    bounded = np.tanh(z.astype(np.float64) + shift) * half - offset
    close = np.abs(bounded - np.floor(bounded) - 0.5) < 1e-4
    return np.round(bounded).astype(int) + levels // 2, close


@pytest.mark.parametrize("port", [False, True])
@pytest.mark.parametrize("levels", [2, 3, 4, 5, 6, 7, 8, 9, 10, 16])
def test_fsq_rounds_in_its_box(levels: int, port: bool) -> None:
    fsq, z = FSQ([levels], port=port), np.linspace(-6, 6, 4001, dtype=np.float32)
    indices = fsq.encode(torch.from_numpy(z)[:, None])
    want, close = fsq_by_hand(z, levels, port=port)
    assert close.mean() < 0.1
    assert np.array_equal(indices[~close, 0].numpy(), want[~close])
    assert sorted(set(indices.flatten().tolist())) == list(range(levels))
    digits = (np.arange(levels) - levels // 2) / (levels // 2)
    assert np.array_equal(fsq.decode(torch.arange(levels)[:, None])[:, 0].numpy(), digits.astype(np.float32))


def test_the_two_conventions_of_fsq_differ_at_even_levels() -> None:
    z = torch.linspace(-4, 4, 4001)[:, None]
    share = {n: (FSQ([n]).encode(z) != FSQ([n], port=True).encode(z)).float().mean().item() for n in (4, 8, 16)}
    assert all(0 < s < 0.05 for s in share.values())


def test_fsq_counts_with_its_first_channel_lowest() -> None:
    fsq = FSQ([3, 5, 4])
    codes = fsq.decode(torch.arange(60)[:, None])
    places = [(i % 3, i // 3 % 5, i // 15) for i in range(60)]
    digits = [[a - 1, (b - 2) / 2, (c - 2) / 2] for a, b, c in places]
    assert torch.equal(codes, torch.tensor(digits))


def test_continuous_latents_are_the_bits_of_16_bit_floats() -> None:
    half = Half(4)
    z = draw(9, 30, 8)
    z[0, 0], z[1, 0], z[2, 0] = 1e9, -0.0, 1e-8
    indices = half.encode(torch.from_numpy(z))
    kept = np.clip(z[:, :4], -65504, 65504).astype(np.float16)
    assert np.array_equal(indices.numpy(), kept.view(np.uint16))
    assert np.array_equal(half.decode(indices).numpy(), kept.astype(np.float32))


@pytest.mark.parametrize(("kind", "dim", "parts", "bits"), KINDS)
def test_the_interface_is_one(kind: Kind, dim: int, parts: Sequence[int], bits: float) -> None:
    made: Quantizer = quantizer(kind, dim, parts)
    assert (made.dim, made.bits) == (dim, pytest.approx(bits))
    z = torch.from_numpy(draw(10, 2, 5, made.reads)).requires_grad_()
    indices = made.encode(z)
    assert indices.shape == (2, 5, len(made.sizes))
    assert indices.dtype == torch.int64
    assert all(int(i.min()) >= 0 and int(i.max()) < n for i, n in zip(indices.unbind(-1), made.sizes, strict=True))
    trained = made(z)
    assert torch.equal(trained.indices, indices)
    torch.testing.assert_close(trained.vectors, made.decode(indices), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad((trained.vectors * torch.from_numpy(draw(11, dim))).sum(), z)
    assert gradient[..., :dim].abs().sum(-1).min() > 0


@pytest.mark.parametrize(("kind", "dim", "parts", "bits"), KINDS)
def test_16_bit_vectors_are_quantized_in_32_bits(kind: Kind, dim: int, parts: Sequence[int], bits: float) -> None:
    torch.manual_seed(0)
    made = quantizer(kind, dim, parts)
    z = torch.from_numpy(draw(12, 40, made.reads)).half()
    assert torch.equal(made.encode(z), made.encode(z.float()))
    assert made(z).vectors.dtype == torch.float16


def test_gradients_pass_a_codebook_as_they_are_and_its_loss_moves_both_sides() -> None:
    book, z = with_rows(draw(13, 16, 4), "distance"), torch.from_numpy(draw(14, 6, 4)).requires_grad_()
    given = torch.from_numpy(draw(15, 6, 4))
    (passed,) = torch.autograd.grad((book(z).vectors * given).sum(), z)
    assert torch.equal(passed, given)
    rows = book.decode(book.encode(z)).detach()
    pull, move = torch.autograd.grad(book(z).loss, (z, book.weight))
    torch.testing.assert_close(pull, 0.25 * 2 * (z.detach() - rows) / z.numel())
    used = book.encode(z).unique()
    assert sorted(move.abs().sum(-1).nonzero().flatten().tolist()) == used.tolist()


def test_parts_that_do_not_make_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="makes 3 channels, not 4"):
        quantizer("fsq", 4, (8, 8, 8))
    with pytest.raises(ValueError, match="makes 6 channels, not 7"):
        quantizer("vq", 7, (16, 16))


def test_residual_replays_fold_blocks_into_channels() -> None:
    """A latent grid of twice the code grid's side: 2 x 2 blocks, row by row, are one vector."""
    latent, table = draw(16, 1, 4, 4, 3), draw(17, 32, 12)
    case = {"latent": latent, "codebook_0": table, "code_shape": np.array([2, 2, 1]), "shared": np.array(True)}
    made = REPLAYS["quantizer_rq"](case)
    for i in range(2):
        for j in range(2):
            block = latent[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1).astype(np.float64)
            code = ((table - block) ** 2).sum(-1).argmin()
            assert made["codes"][0, i, j, 0] == code
            assert np.array_equal(made["quantized"][0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1), table[code])

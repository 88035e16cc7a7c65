"""Feeds reference cases of the visual tokenizers' quantizers to our code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..quantizers import FSQ, Codebook, Parallel, Quantizer, Residual, Rule, Signs
from ..titok import prefix

Case = Mapping[str, np.ndarray]
Made = dict[str, np.ndarray]
BRANCHES = ("vis", "sem", "sem_mid", "sem_high")
"""Of FQGAN, in the order in which its decoder takes them."""


def book(table: np.ndarray, rule: Rule) -> Codebook:
    """A codebook with given rows [size, dim]."""
    size, dim = table.shape
    made = Codebook(size, dim, rule)
    made.weight = nn.Parameter(torch.from_numpy(table), requires_grad=False)
    return made


def coded(quantizer: Quantizer, latent: np.ndarray, axis: int = 1) -> tuple[Tensor, Tensor]:
    """Indices [..., k] and quantized vectors of a latent whose channels lie along `axis`, where they lie again."""
    indices = quantizer.encode(torch.from_numpy(latent).movedim(axis, -1))
    return indices, quantizer.decode(indices).movedim(-1, axis)


def codebook(rule: Rule) -> Callable[[Case], Made]:
    """One codebook; `l2_norm` of a case decides where the case has it."""

    def replay(case: Case) -> Made:
        mine: Rule = rule if case.get("l2_norm", True) else "distance"
        indices, quantized = coded(book(case["codebook"], mine), case["latent"])
        return {"indices": indices[..., 0].numpy(), "quantized": quantized.numpy()}

    return replay


def fqgan(case: Case) -> Made:
    """Two or three codebooks side by side."""
    names = [name for name in BRANCHES if f"codebook_{name}" in case]
    branches = Parallel([book(case[f"codebook_{name}"], "unit") for name in names])
    indices, quantized = coded(branches, np.concatenate([case[f"latent_{name}"] for name in names], 1))
    each = {f"indices_{name}": indices[..., i].numpy() for i, name in enumerate(names)}
    return each | {"decoder_input": quantized.numpy()}


def residual(case: Case) -> Made:
    """Codebooks one after another; blocks of a latent grid finer than the code grid are folded into channels."""
    (height, width, depth), latent = case["code_shape"].tolist(), torch.from_numpy(case["latent"])
    tables = [case["codebook_0" if case["shared"] else f"codebook_{i}"] for i in range(depth)]
    batch, tall, wide, dim = latent.shape
    blocks = latent.view(batch, height, tall // height, width, wide // width, dim).transpose(2, 3)
    codes, rows = coded(Residual([book(table, "distance") for table in tables]), blocks.flatten(3).numpy(), -1)
    return {
        "codes": codes.numpy(),
        "quantized": rows.view(blocks.shape).transpose(2, 3).reshape(latent.shape).numpy(),
    }


def lfq(case: Case) -> Made:
    """Signs as one index, or as two of which the first holds the first channels."""
    if "factorized_bits" not in case:
        indices, quantized = coded(Signs([int(case["bits"])]), case["latent"])
        return {"indices": indices[..., 0].numpy(), "quantized": quantized.numpy()}
    indices, quantized = coded(Signs(case["factorized_bits"].tolist()), case["latent"])
    flat = indices.flatten(0, -2).numpy()
    return {"indices_pre": flat[:, 0], "indices_post": flat[:, 1], "quantized": quantized.numpy()}


def wetok(case: Case) -> Made:
    """Signs in groups; another split of the same channels makes flat vectors of indices."""
    if "factorized_bits" not in case:
        groups = [int(case["bits_per_group"])] * int(case["groups"])
        indices, quantized = coded(Signs(groups), case["latent"])
        return {"indices": indices.numpy(), "quantized": quantized.numpy()}
    indices, quantized = coded(Signs(case["factorized_bits"].tolist()), case["latent"])
    flat = indices.flatten(0, -2).numpy()
    return {f"indices_{j}": flat[:, j] for j in range(flat.shape[1])} | {"quantized": quantized.numpy()}


def bsq(case: Case) -> Made:
    """Signs on the sphere, as one index and in groups."""
    bits, group, unit = int(case["bits_per_token"]), int(case["group_size"]), bool(case["post_q_l2_norm"])
    made: Made = {}
    for name, groups in (("indices_exact", [bits]), ("group_indices_exact", [group] * (bits // group))):
        indices, quantized = coded(Signs(groups, high_first=True, sphere=True, unit=unit), case["latent"], -1)
        made |= {name: indices.numpy(), "quantized": quantized.numpy()}
    return made | {"indices_exact": made["indices_exact"][..., 0]}


def fsq(case: Case) -> Made:
    """The original."""
    indices, quantized = coded(FSQ(case["levels"].tolist()), case["latent"], -1)
    return {"indices_official": indices[..., 0].numpy(), "quantized": quantized.numpy()}


def fsq_ports(case: Case) -> Made:
    """FlexTok's, and vector-quantize-pytorch's, which refuses two levels."""
    levels: Sequence[int] = case["levels"].tolist()
    indices, quantized = coded(FSQ(levels, port=True), case["latent"], -1)
    packages = ("flextok", "vqp") if min(levels) > 2 else ("flextok",)
    return {
        f"{name}_{package}": array.numpy()
        for package in packages
        for name, array in (("indices", indices[..., 0]), ("quantized", quantized))
    }


def tail_drop(case: Case) -> Made:
    """Prefixes of a row of tokens [batch, dim, 1, n]."""
    tokens = torch.from_numpy(case["latent"]).movedim(-1, 1)
    return {f"kept_{n}": prefix(tokens, n).movedim(1, -1).numpy() for n in case["lengths"].tolist()}


REPLAYS: Mapping[str, Callable[[Case], Made]] = {
    "quantizer_vq": codebook("distance"),
    "quantizer_llamagen": codebook("unit"),
    "quantizer_titok": codebook("unit"),
    "quantizer_ibq": codebook("inner"),
    "quantizer_fqgan": fqgan,
    "quantizer_rq": residual,
    "quantizer_lfq": lfq,
    "quantizer_gfq_wetok": wetok,
    "quantizer_bsq": bsq,
    "quantizer_fsq": fsq,
    "quantizer_fsq_ports": fsq_ports,
    "quantizer_one_d_piece_tail_drop": tail_drop,
}

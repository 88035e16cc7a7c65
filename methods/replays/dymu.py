"""Feeds reference cases of DyMU to our code: schedules, merging, thresholds of a batch, virtual unmerging."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...harness.contracts import Reduction
from ...harness.models.unmerging import Places, Unmerging
from ..ops import rotate
from ..pairs import best_partners, find_threshold, pair_above, share_out


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Any case; what it is shows in the arrays that it holds."""
    if "total" in case:
        kind = ("constant", "linear", "reverse_linear")[int(case["kind"])]
        plan = share_out(int(case["total"]), int(case["layers"]), kind)  # type: ignore[arg-type]
        return {"r": np.asarray(plan, dtype=np.int64)}
    if "q_un" in case:
        return _scores(case)
    if "hidden_states" in case:
        return _attention(case)
    if "r_per_instance" in case:
        return _pooled(case)
    if "layer0/metric" in case:
        return _layers(case)
    return _round(case)


def _threshold(case: Mapping[str, np.ndarray], metric: torch.Tensor, protected: int) -> tuple[float, bool]:
    """The similarity above which edges merge, and whether the batch itself gave it."""
    given = round(float(case["threshold"]), 6)  # stored as float32
    if given >= 0:
        return given, False
    return float(find_threshold(best_partners(metric, protected)[0], int(case["r"]) * len(metric))), True


def _round(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One round of merging, of one image in the authors' order or of a padded batch."""
    metric, tokens, sizes = (torch.from_numpy(case[name]) for name in ("metric", "x", "size"))
    protected, most = int(case["class_token"]), int(case["max_r"])
    threshold, searched = _threshold(case, metric, protected)
    most = 0 if int(case["r"]) == 0 else most  # the code leaves such a layer alone
    batch = len(metric) > 1
    groups, anchor = pair_above(metric, threshold, protected, most if most >= 0 else None, True if batch else None)
    reduction = Reduction.merge(groups, sizes[..., 0], anchor=anchor)
    merged, grown = reduction.apply(tokens), reduction.sizes(sizes[..., 0])[..., None]
    if not batch:
        found = {
            "out_wavg": merged, "size_out": grown, "pos_tracking": (reduction.dense() > 0).long(),
            "unmerged": merged.gather(1, groups[..., None].expand_as(tokens)), "n_out": reduction.counts[0],
        }  # fmt: skip
    else:
        found = {
            "n_valid": reduction.counts, "padding_mask": (~reduction.valid).long(), "out_masked": merged,
            "size_masked": grown, "group_of_input": groups,
        }  # fmt: skip
        if searched:
            found["batch_threshold"] = torch.tensor(threshold)
    return {name: tensor.numpy() for name, tensor in found.items()}


def _pooled(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch whose threshold merges `r_per_instance` tokens of an image on average."""
    metric, tokens = torch.from_numpy(case["metric"]), torch.from_numpy(case["features"])
    threshold = find_threshold(best_partners(metric, 0)[0], int(case["r_per_instance"]) * len(metric))
    groups, anchor = pair_above(metric, float(threshold), 0, by_place=True)
    reduction = Reduction.merge(groups, anchor=anchor)
    found = {
        "layer_threshold": threshold, "kept_per_instance": reduction.counts, "output_features": reduction.apply(tokens),
        "output_sizes": reduction.sizes(torch.ones(groups.shape)), "output_padding": (~reduction.valid).float(),
    }  # fmt: skip
    return {name: tensor.numpy() for name, tensor in found.items()}


def _layers(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Layers one after the other on the tokens of one image."""
    tokens = torch.from_numpy(case["features"])[None]
    sizes, rows = torch.ones(tokens.shape[:2]), torch.arange(tokens.shape[1])
    protected, threshold = int(case["class_token"]), round(float(case["threshold"]), 6)
    most = int(case["r"]) if threshold < 0 else None
    found: dict[str, torch.Tensor] = {}
    for layer in range(sum(name.endswith("/metric") for name in case)):
        metric = torch.from_numpy(case[f"layer{layer}/metric"])[None]
        groups, anchor = pair_above(metric, threshold, protected, most)
        reduction = Reduction.merge(groups, sizes, anchor=anchor)
        tokens, sizes, rows = reduction.apply(tokens), reduction.sizes(sizes), groups[0, rows]
        found |= {
            f"layer{layer}/output_features": tokens[0], f"layer{layer}/sizes": sizes[0],
            f"layer{layer}/group_of_token": rows, "group_of_token": rows,
        }  # fmt: skip
    return {name: tensor.numpy() for name, tensor in found.items()}


def _scores(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Attention logits between all places of the full sequence, from the queries and keys of unique tokens."""
    names = ("q_un", "k_un", "cos", "sin", "mapping")
    query, key, cos, sin, mapping = (torch.from_numpy(case[name]) for name in names)
    query, key = (rotate(t[:, :, mapping], cos, sin) for t in (query, key))
    return {"scores": (query @ key.mT / query.shape[-1] ** 0.5).numpy()}


@torch.no_grad()
def _attention(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An attention layer of an LLM whose merged tokens stand at all their places, by the engine's own unmerging."""
    from transformers import LlamaConfig, LlamaModel

    hidden, mapping = torch.from_numpy(case["hidden_states"])[None], torch.from_numpy(case["mapping_indices"])[None]
    n, heads = mapping.shape[1], int(case["num_heads"])
    config = LlamaConfig(
        hidden_size=hidden.shape[2], num_attention_heads=heads, num_hidden_layers=1, vocab_size=8, intermediate_size=1
    )
    model = LlamaModel._from_config(config, attn_implementation="sdpa")
    attention = model.layers[0].self_attn
    for name in "qkvo":
        getattr(attention, f"{name}_proj").weight.copy_(torch.from_numpy(case[f"w{name}"]))
    places = torch.arange(n)[None]
    full = Places(hidden.shape[1], mapping, torch.ones_like(mapping, dtype=torch.bool), places)
    with Unmerging(model, full).attached():
        turns = model.rotary_emb(hidden, position_ids=places[:, : hidden.shape[1]])
        out, _ = attention(hidden, position_embeddings=turns, attention_mask=None)
    return {"output": out[0].numpy()}

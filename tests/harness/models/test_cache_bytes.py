"""The size of the KV cache that an answer tells is that of the tensors that hold it."""

from __future__ import annotations

import families
import pytest
import vlm

FAMILIES = ("llava", *families.FAMILIES)


@pytest.mark.parametrize("model", [(family, "sdpa") for family in FAMILIES], indirect=True, ids=FAMILIES)
@pytest.mark.parametrize("name", ["none", "divprune", "fastv"])
def test_told_bytes_are_those_of_keys_and_values(model, name):
    method, schedule, kind = vlm.cell(model, name, "50%")
    both = vlm.batch(model)
    told = model.answer(both, None, method, schedule, seed=0, max_new_tokens=2, budget_kind=kind)
    for row, answer in enumerate(told):
        alone = model.time_first_token(both.of(row), method, schedule, 0, budget_kind=kind)
        held = [part for layer in alone.cache.layers for part in (layer.keys, layer.values)]
        assert answer.kv_bytes == sum(part.numel() * part.element_size() for part in held)

"""Merging in the tower that leaves pictures unequal counts: each is as it would be alone."""

import torch
import vlm


def test_pictures_lose_unequal_numbers_in_the_tower(llava):
    """Thresholds between the similarities of these pictures: the counts differ, and are those of single samples."""
    batch = vlm.batch(llava)
    method, schedule, kind = vlm.cell(llava, "dymu", "50%", thresholds=(0.35,) * llava.shape.vision_layers)
    state = llava.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    counts = [[len(rows) for rows in state.calls.kept([image])[-1:]] for image in range(3)]
    assert len({c[0] for c in counts}) > 1
    kept = [state.calls.kept(batch.images_of(row)) for row in range(2)]
    for row in range(2):
        alone, _ = llava.single(batch, None, row)
        single = llava.prefill(alone, None, method, schedule, seed=0, budget_kind=kind)
        assert single.calls.kept(alone.images_of(0)) == kept[row]
        assert torch.allclose(single.logits[0], state.logits[row], atol=1e-5)
    assert [int(c) for c in state.cutter.spans[0].counts()] == [sum(len(rows) for rows in k[-1:]) for k in kept]

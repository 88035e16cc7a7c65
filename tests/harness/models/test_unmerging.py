"""Virtual unmerging: the LLM's attention is that of the full prompt, whatever was merged in front of it."""

from dataclasses import replace

import pytest
import tiny
import torch
import vlm
from toksweep.harness.contracts import Reduction, Stage
from toksweep.harness.models.calls import BrokenPromiseError
from toksweep.harness.schedule import lay_out, untouched

PLAIN = torch.no_grad()
GROUPS = torch.tensor([3, 0, 0, 1, 2, 2, 2, 0, 3, 4, 5, 4, 1, 1, 5, 0])


class Grouped:
    """Merges 16 patches of every picture in the same way, and stands the means at all their places or at none."""

    def __init__(self, groups=GROUPS, *, unmerge=True):
        self.groups = groups
        keep = int(groups.max()) + 1
        self.schedule = (Stage("projector", keep), *([Stage("attention", keep)] if unmerge else []))

    def reduce(self, view, keep):
        return Reduction.merge(self.groups.expand(len(view.tokens), -1), position="renumber")


def prefill(model, batch, encoded, method):
    schedule = lay_out(method.schedule, model.shape) if method else untouched(model.shape)
    return model.prefill(batch, encoded, method, schedule, seed=0)


def copies(encoded):
    """The same pictures, where every patch of a group is its first one."""
    first = torch.stack([(g == GROUPS).nonzero()[0, 0] for g in GROUPS])
    return replace(encoded, features=tuple(rows[first] for rows in encoded.features))


@PLAIN
def test_where_nothing_was_merged_unmerging_changes_no_bit(llava):
    batch = vlm.batch(llava)
    whole, state = prefill(llava, batch, None, None), prefill(llava, batch, None, Grouped(torch.arange(16)))
    assert torch.equal(state.logits, whole.logits)
    for _ in range(3):
        state, whole = llava.decode_step(state), llava.decode_step(whole)
        assert torch.equal(state.logits, whole.logits)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """An LLM of one layer, in which copies are still copies when text attends to them."""
    from toksweep.harness.models import open_model

    return open_model(str(tiny.save_llava(tmp_path_factory.mktemp("models") / "shallow", llm_layers=1)))


@PLAIN
def test_text_attends_to_merged_copies_as_it_would_to_the_copies(shallow):
    batch = vlm.batch(shallow)
    encoded = copies(shallow.encode(batch))
    whole, state = prefill(shallow, batch, encoded, None), prefill(shallow, batch, encoded, Grouped())
    shorter = prefill(shallow, batch, encoded, Grouped(unmerge=False))
    for _ in range(3):
        assert torch.allclose(state.logits, whole.logits, rtol=0, atol=1e-5)
        assert float((shorter.logits - whole.logits).abs().max()) > 1e-2
        token = whole.logits.argmax(-1)
        state, whole, shorter = (shallow.decode_step(s, token) for s in (state, whole, shorter))


def written_out(model, embedded, token):
    """The LLM on [1, tokens, dim], each layer's own attention on the tokens repeated at every place of the prompt."""
    llm, n = model.text_model, len(token)
    rope = llm.rotary_emb(embedded, position_ids=torch.arange(n)[None])
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    mean = torch.nn.functional.one_hot(token).T.float()
    mean = mean / mean.sum(1, keepdim=True)
    for layer in llm.layers:
        repeated = layer.input_layernorm(embedded)[:, token]
        attended = layer.self_attn(repeated, position_embeddings=rope, attention_mask=mask)[0]
        embedded = embedded + mean @ attended
        embedded = embedded + layer.mlp(layer.post_attention_layernorm(embedded))
    return model.model.lm_head(llm.norm(embedded))[0, -1]


@PLAIN
def test_every_layer_is_its_attention_on_the_full_prompt_averaged_over_the_places_of_a_token(llava):
    batch = vlm.batch(llava)
    encoded = llava.encode(batch)
    state = prefill(llava, batch, encoded, Grouped())
    assert [s.counts().tolist() for s in state.cutter.spans] == [[6, 12]] * 6
    words = llava.model.get_input_embeddings()
    mean = torch.nn.functional.one_hot(GROUPS).T.float()
    mean = mean / mean.sum(1, keepdim=True)
    for row, images in ((0, [0]), (1, [1, 2])):
        ids = batch.input_ids[row][batch.attention_mask[row].bool()]
        visual = ids == llava.placeholder
        start, end = int(visual.nonzero()[0]), int(visual.nonzero()[-1]) + 1
        assert int(visual.sum()) == 16 * len(images) and end - start >= int(visual.sum())
        token, parts, count = torch.empty_like(ids), [], 0
        for place in range(len(ids)):
            if not visual[place]:
                token[place], count = count, count + 1
                parts.append(words(ids[place : place + 1]))
            elif (number := int(visual[:place].sum())) % 16 == 0:
                token[place : place + 16] = count + GROUPS
                parts.append(mean @ encoded.tokens[images[number // 16]])
                count += 6
        want = written_out(llava, torch.cat(parts)[None], token)
        assert torch.allclose(state.logits[row], want, rtol=0, atol=1e-5)


@PLAIN
def test_dymu_unmerges_what_its_tower_merged_unless_told_not_to(llava):
    batch = vlm.batch(llava)
    found = {}
    for unmerge in (True, False):
        method, schedule, kind = vlm.cell(llava, "dymu", 6, unmerge=unmerge)
        assert schedule.unmerges == unmerge
        found[unmerge] = llava.prefill(batch, None, method, schedule, seed=0, budget_kind=kind)
    stand = found[True].calls.stand_ins([1, 2])
    assert [(stand == t).nonzero()[:, 0].tolist() for t in range(12)] == found[True].calls.kept([1, 2])[-1]
    assert found[True].cache.get_seq_length() == found[False].cache.get_seq_length()
    assert not torch.allclose(found[True].logits, found[False].logits, atol=1e-3)


@pytest.mark.parametrize("groups", [[*range(15), -1], None])
def test_a_patch_that_no_token_or_several_stand_for_is_an_error(llava, groups):
    class Partial(Grouped):
        def reduce(self, view, keep):
            if groups:
                return Reduction.merge(torch.tensor(groups).expand(len(view.tokens), -1))
            return Reduction.keep(torch.tensor([0, 0, *range(1, 14)]).expand(len(view.tokens), -1), 16)

    with pytest.raises(BrokenPromiseError, match=r"Partial.*a patch of sample short"):
        prefill(llava, vlm.batch(llava), None, Partial(torch.arange(16).clamp(max=14)))

"""What methods read, against attention maps and hidden states that transformers returns under eager attention."""

import dataclasses

import pytest
import tiny
import torch
import vlm
from toksweep.harness.contracts import Reduction, Stage, UserError
from toksweep.harness.models import open_model
from toksweep.harness.models.abilities import LAST_LAYER, NEXT_LAYER, READABLE
from toksweep.harness.models.calls import BrokenPromiseError
from toksweep.harness.models.taps import tap
from toksweep.harness.schedule import lay_out

PLAIN = torch.no_grad()
IN_LLM = tuple(sorted(READABLE["decoder"]))


def close(a, b, atol=1e-5):
    assert a.shape == b.shape
    assert torch.allclose(a, b, rtol=0, atol=atol), float((a - b).abs().max())


@pytest.fixture(scope="module")
def eager(llava_folder):
    return open_model(str(llava_folder), attention="eager")


@dataclasses.dataclass
class Watching:
    """Keeps the first tokens of every picture, or of all pictures together, and all views."""

    reads: tuple[str, ...] = ()
    views: list = dataclasses.field(default_factory=list)

    def reduce(self, view, keep):
        self.views.append(view)
        size, n = view.tokens.shape[:2]
        return Reduction.keep(torch.arange(keep).expand(size, keep), n, position="renumber")


def watch(llava, batch, *stages):
    watching = Watching()
    state = llava.prefill(batch, None, watching, lay_out(stages, llava.shape), seed=0)
    return watching.views, state


# --------------------------------------------------------------------------------------------------------- vision tower


@PLAIN
@pytest.mark.parametrize("layer", [1, -2])
def test_vision_layers_show_queries_keys_and_the_mean_of_all_rows(llava, eager, layer):
    batch = vlm.batch(llava)
    names = [f"{kind}@{layer}" for kind in ("received_attention", "class_query", "keys")]
    found = {k: torch.stack(v) for k, v in llava.encode(batch, frozenset(names)).signals.items()}
    out = eager.model.model.vision_tower(vlm.pixels(batch), output_attentions=True, output_hidden_states=True)
    maps = out.attentions[layer]
    close(found[names[0]], maps.mean(2)[:, :, 1:], 2e-6)
    query, key = found[names[1]], found[names[2]]
    rows = torch.einsum("bhd,bhnd->bhn", query, key) * query.shape[-1] ** -0.5
    close(rows.softmax(-1), maps[:, :, 0], 2e-6)


@PLAIN
def test_a_tower_without_a_class_token_shows_the_mean_of_patches_rows(tmp_path):
    folder = tiny.save_llava(tmp_path / "siglip", tower="siglip", llm="qwen2")
    model, eager = open_model(str(folder)), open_model(str(folder), attention="eager")
    batch = vlm.batch(model)
    found = model.encode(batch, frozenset({"received_attention@-2"})).signals["received_attention@-2"]
    maps = eager.model.model.vision_tower(vlm.pixels(batch), output_attentions=True).attentions
    close(torch.stack(found), maps[-2].mean(2), 2e-6)
    assert "class_attention" not in model.info.signals


@PLAIN
def test_a_view_at_the_projector_has_what_it_asked_for(llava):
    batch = vlm.batch(llava)
    stage = Stage("projector", 4, reads=("features", "text_embeddings"))
    views, _ = watch(llava, batch, stage)
    assert [len(view.tokens) for view in views] == [1, 2]  # prompts of unequal lengths do not share a view
    hidden = llava.model.model.vision_tower(vlm.pixels(batch), output_hidden_states=True).hidden_states[-2]
    close(torch.cat([view["features"] for view in views]), hidden[:, 1:])
    for row, view in enumerate(views):
        last = int((batch.input_ids[row] == llava.placeholder).nonzero()[-1, 0])
        words = llava.model.get_input_embeddings()(batch.input_ids[row, last + 1 :])
        for got in view["text_embeddings"]:
            assert torch.equal(got, words)


@PLAIN
def test_rows_in_front_of_the_projector_pass_it_after_the_cut(llava):
    batch = vlm.batch(llava)

    class Means:
        def reduce(self, view, keep):
            assert view.class_index == 16
            groups = torch.arange(17).expand(len(view.tokens), 17) * keep // 17
            return Reduction.merge(groups, position="renumber")

    stages = (Stage("projector", 4, reads=("class_token",), features=True),)
    state = llava.prefill(batch, None, Means(), lay_out(stages, llava.shape), seed=0)
    hidden = llava.model.model.vision_tower(vlm.pixels(batch), output_hidden_states=True).hidden_states[-2]
    rows = torch.cat([hidden[:, 1:], hidden[:, :1]], 1)
    merged = torch.stack([rows[:, [i for i in range(17) if i * 4 // 17 == g]].mean(1) for g in range(4)], 1)
    tokens = llava.model.model.multi_modal_projector(merged)
    for row, features in ((0, tokens[0]), (1, tokens[1:].flatten(0, 1))):
        ids = batch.input_ids[row][batch.attention_mask[row].bool()]
        on = (ids == llava.placeholder).nonzero()[:, 0]
        words = llava.model.get_input_embeddings()(ids)
        given = torch.cat([words[: on[0]], features, words[on[-1] + 1 :]])[None]
        out = llava.text_model(inputs_embeds=given).last_hidden_state
        close(state.logits[row], llava.model.lm_head(out[0, -1]))
    entry = state.calls.kept([0])[0]
    assert entry == [[0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [-1, 13, 14, 15]]


# ------------------------------------------------------------------------------------------------------------------ LLM


def whole(eager, one, layer):
    """Maps of the layers before and behind a cut, hidden states at the door and at the cut, and the picture's slots."""
    out = eager.model.model(
        input_ids=one.input_ids, attention_mask=one.attention_mask, pixel_values=vlm.pixels(one),
        output_attentions=True, output_hidden_states=True,
    )  # fmt: skip
    on = one.input_ids[0] == eager.placeholder
    return (
        out.attentions[layer - 1][0],
        out.attentions[layer][0],
        out.hidden_states[0][0],
        out.hidden_states[layer][0],
        on,
    )


@PLAIN
@pytest.mark.parametrize("joint", [False, True])
def test_every_signal_of_a_cut_is_what_eager_attention_says(llava, eager, joint):
    batch, layer = vlm.batch(llava), 3
    reads = tuple(name for name in IN_LLM)
    views, _ = watch(llava, batch, Stage("decoder", 8, layer=layer, reads=reads, joint=joint))
    seen = [(view, i) for view in views for i in range(len(view.tokens))]
    assert len(seen) == (2 if joint else 3)
    for (view, i), (row, image) in zip(seen, [(0, 0), (1, 0), (1, 1)], strict=False):
        one, _ = llava.single(batch, None, row)
        before, behind, door, hidden, on = whole(eager, one, layer)
        slots = on.nonzero()[:, 0] if joint else on.nonzero()[:, 0][16 * image : 16 * (image + 1)]
        text = range(int(on.nonzero()[-1, 0]) + 1, len(on))
        got = {name: view[name][i] for name in reads}
        for prefix, maps in (("", before), ("next_", behind)):
            close(got[f"{prefix}last_attention"], maps[:, -1, slots])
            close(got[f"{prefix}text_attention"], maps[:, text][..., slots])
        close(got["next_visual_attention"], behind[:, on].mean(1)[:, slots])
        norm = eager.text_model.norm
        close(got["normed"], norm(hidden)[slots])
        close(got["text_normed"], norm(hidden)[text])
        close(got["entering"], door[slots])
        close(got["text_embeddings"], door[text])
        assert got["places"].tolist() == slots.tolist()
        query, key = got["prompt_queries"], got["prompt_keys"].repeat_interleave(2, 0)
        ahead = torch.ones(len(on), len(on), dtype=torch.bool).triu(1)
        scores = (query @ key.mT * query.shape[-1] ** -0.5).masked_fill(ahead, -torch.inf)
        close(scores.softmax(-1), before)
        assert torch.equal(got["keys"], got["prompt_keys"][:, slots])
        assert torch.equal(got["text_keys"], got["prompt_keys"][:, text])


@PLAIN
@pytest.mark.parametrize("position", ["keep", "renumber"])
def test_a_layer_is_asked_ahead_as_it_runs_behind_an_earlier_cut(llava, position):
    batch, heard = vlm.batch(llava), []

    class Twice:
        def reduce(self, view, keep):
            if view.layer == 4:
                heard.append(view)
            size, n = view.tokens.shape[:2]
            picks = torch.arange(0, n, n // keep)[:keep].expand(size, keep)
            return Reduction.keep(picks, n, position=position)

    reads = tuple(sorted(NEXT_LAYER))
    stages = (Stage("decoder", 8, layer=2), Stage("decoder", 8, layer=4, reads=reads))
    seen = []
    with tap(llava.text_model.layers[4].self_attn, seen.append):
        state = llava.prefill(batch, None, Twice(), lay_out(stages, llava.shape), seed=0)
    slots = state.cutter.spans[4].slots()
    ran = seen[0].rows([-1])[:, :, 0]
    views = [(view, i) for view in heard for i in range(len(view.tokens))]
    for (view, i), (row, places) in zip(views, slots, strict=True):
        close(view["next_last_attention"][i], ran[row][:, places])
        close(view["next_keys"][i], seen[0].key[row][:, places])


@PLAIN
def test_nothing_is_computed_that_nobody_reads(llava, monkeypatch):
    from toksweep.harness.models import signals

    def never(*args, **kwargs):
        raise AssertionError("a signal that nobody reads was computed")

    monkeypatch.setattr(signals, "tap", never)
    monkeypatch.setattr(signals, "Probe", never)
    stages = (Stage("projector", 8), Stage("decoder", 4, layer=2))
    watch(llava, vlm.batch(llava), *stages)


def test_the_names_of_signals_lie_in_one_place():
    assert READABLE["decoder"] > LAST_LAYER | NEXT_LAYER


@pytest.mark.parametrize(
    "name", ["class_attention", "class_attention@5", "class_attention@-6", "keys@x", "features@1", "last_attention"]
)
def test_a_vision_layer_that_is_not_there_is_refused(llava, name):
    with pytest.raises(UserError, match=f"the signal {name} at the place projector"):
        watch(llava, vlm.batch(llava), Stage("projector", 8, reads=(name,)))


# ---------------------------------------------------------------------------------------------- pictures of a sample


@dataclasses.dataclass
class Share:
    """Gives the first picture of a sample `first` tokens, and the last one the rest."""

    first: int
    position: str = "keep"
    views: list = dataclasses.field(default_factory=list)

    def reduce(self, view, keep):
        self.views.append(view)
        n = view.tokens.shape[1]
        head = [torch.arange(min(self.first, keep)) for _ in view.tokens]
        tails = [torch.arange(n - keep + len(h), n) for h in head]
        picks = [torch.cat([h, t]) for h, t in zip(head, tails, strict=True)]
        return Reduction.keep(picks, n, position=self.position)


@PLAIN
@pytest.mark.parametrize("position", ["keep", "renumber"])
@pytest.mark.parametrize("stage", [Stage("projector", 8, joint=True), Stage("decoder", 8, layer=2, joint=True)])
@pytest.mark.parametrize("first", [0, 3, 16])
def test_a_sample_may_divide_its_tokens_among_its_pictures(llava, stage, position, first):
    batch = vlm.batch(llava)
    schedule = lay_out((stage,), llava.shape)
    options = {"seed": 0, "max_new_tokens": 3}
    share = Share(first, position)
    answers = llava.answer(batch, None, share, schedule, **options)
    assert [a.visual_tokens[-1] for a in answers] == [8, 16]
    assert answers[1].kept_indices == ([*range(first), *range(16 + first, 32)],)
    two = next(view for view in share.views if view.tokens.shape[1] == 32)
    assert two.image[0].tolist() == [0] * 16 + [1] * 16
    for row, answer in enumerate(answers):
        one, _ = llava.single(batch, None, row)
        assert llava.answer(one, None, Share(first, position), schedule, **options) == [answer]
    state = llava.prefill(batch, None, Share(first, position), schedule, seed=0)
    written = torch.zeros(2, 0, dtype=torch.long)
    for _ in range(2):
        token = state.logits.argmax(-1)
        written = torch.cat([written, token[:, None]], 1)
        state = llava.decode_step(state, token)
        again = llava.prefill(vlm.longer(batch, written), None, Share(first, position), schedule, seed=0)
        close(state.logits, again.logits)


@PLAIN
def test_positions_follow_each_picture_of_a_joint_cut(llava):
    one, _ = llava.single(vlm.batch(llava), None, 1)
    state = llava.prefill(one, None, Share(3), lay_out((Stage("projector", 8, joint=True),), llava.shape), seed=0)
    on = (one.input_ids[0] == llava.placeholder).nonzero()[:, 0]
    wanted = [i for i in range(one.input_ids.shape[1]) if i not in on[3:19].tolist()]
    assert state.cutter.spans[-1].position[0].tolist() == wanted


@PLAIN
def test_later_cuts_see_what_a_joint_cut_left_of_each_picture(llava):
    batch = vlm.batch(llava)
    cuts = (Stage("projector", 8, joint=True), Stage("decoder", 4, layer=2, joint=True, reads=("last_attention",)))
    share = Share(3)
    (short, long) = llava.answer(batch, None, share, lay_out(cuts, llava.shape), seed=0, max_new_tokens=1)
    assert long.visual_tokens == (16, 16, 8, 8, 8, 8)
    assert long.kept_indices[1] == [0, 1, 2, *range(27, 32)]
    assert short.kept_indices[1] == [0, 1, 2, 15]
    view = share.views[-1]
    assert view["last_attention"].shape == (1, 4, 16)
    assert view.image[0].tolist() == [0] * 3 + [1] * 13
    assert view.origin[0].tolist() == [0, 1, 2, *range(3, 16)]


@PLAIN
def test_tokens_of_several_pictures_may_merge(llava):
    batch = vlm.batch(llava)

    class Across:
        def reduce(self, view, keep):
            size, n = view.tokens.shape[:2]
            return Reduction.merge((torch.arange(n) % keep).expand(size, n), position="renumber")

    answer = llava.answer(
        batch, None, Across(), lay_out((Stage("projector", 8, joint=True),), llava.shape), seed=0, max_new_tokens=1
    )[1]
    assert answer.kept_indices == ([[i, i + 16] for i in range(16)],)
    assert answer.visual_tokens == (16,) * 6
    assert {patch.entering for patch in answer.evidence} == {0.5}


class Backwards:
    def reduce(self, view, keep):
        n = view.tokens.shape[1]
        return Reduction.keep(torch.arange(n - 1, n - keep - 1, -1).expand(len(view.tokens), keep), n)


class TooFew:
    def reduce(self, view, keep):
        return Reduction.keep(torch.arange(keep - 1).expand(len(view.tokens), keep - 1), view.tokens.shape[1])


def test_pictures_out_of_order_are_a_broken_promise(llava):
    one, _ = llava.single(vlm.batch(llava), None, 1)
    schedule = lay_out((Stage("projector", 12, joint=True),), llava.shape)
    with pytest.raises(BrokenPromiseError, match="sample long that are not in the order of its images"):
        llava.prefill(one, None, Backwards(), schedule, seed=0)


def test_a_joint_cut_is_held_to_the_count_of_the_whole_sample(llava):
    one, _ = llava.single(vlm.batch(llava), None, 1)
    schedule = lay_out((Stage("projector", 12, joint=True),), llava.shape)
    with pytest.raises(BrokenPromiseError, match="asked for 24 tokens of the pictures of sample long and returned 23"):
        llava.prefill(one, None, TooFew(), schedule, seed=0)


# --------------------------------------------------------------------------------------------------------- text encoder


@PLAIN
def test_patches_and_questions_meet_in_the_space_of_a_text_encoder(llava, clip_folder):
    from transformers import CLIPModel, CLIPProcessor

    batch = vlm.batch(llava)
    found = llava.encode(batch, frozenset({"clip_patches", "clip_text"})).signals
    clip, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder).tokenizer
    tower = llava.model.model.vision_tower
    hidden = tower(vlm.pixels(batch), output_hidden_states=True).hidden_states[-2][:, 1:]
    close(torch.stack(found["clip_patches"]), clip.visual_projection(tower.post_layernorm(hidden)))
    for row, image in ((0, 0), (1, 1), (1, 2)):
        ids = tokenizer(batch.questions[row])["input_ids"]
        padded = torch.tensor([ids + [0] * (-len(ids) % 16)]).view(-1, 16)
        close(found["clip_text"][image], clip.get_text_features(padded).pooler_output)


@PLAIN
def test_a_long_question_has_several_segments(llava):
    assert len(llava.text_encoder.ids("red " * 40)) == 3


def test_a_model_without_a_text_encoder_says_which_flag_names_one(llava_folder):
    model = open_model(str(llava_folder))
    with pytest.raises(UserError, match="--text-encoder"):
        model.encode(vlm.batch(model), frozenset({"clip_text"}))

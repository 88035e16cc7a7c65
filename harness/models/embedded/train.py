"""Trains `toksweep-mini`: `python -m toksweep.harness.models.embedded.train --out DIR`, resumable, on a CPU or a GPU.

Stages: `tower` (dense labels per patch, several labels for the class token), then with the tower frozen `language`
(projector and language model on pictures), `places` (where things are, and nothing else), `scenes` (everything again),
`moments` (what hangs on time, in four frames) and `films` (pictures and clips); and at last a text encoder for the
space of the class token.
Every stage reads training seeds that no other stage and no evaluation reads. Full tokens only, throughout.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.spawn import spawn

from . import batches, mini
from .contrast import train_text
from .muon import Muon

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

SEED = 20_261_121
SCENES_OF_A_STAGE = 500_000_000
"""Stages read training scenes from different starts, this far apart."""


@dataclass(frozen=True)
class Plan:
    """One stage: how many steps of how many pictures (or clips), and how fast."""

    steps: int
    size: int
    lr: float = 0.02
    adam: float = 2e-3
    warmup: int = 30
    clips: int = 0
    moments: int = 0
    """Clips of every step, beside the scenes: of all frames, and of four."""
    weight: float = 1.0
    """Of the scenes' loss beside those of the clips, whose few answers make for loud gradients."""
    kind: str = "scenes"
    """Of the pictures: `patches`, `scenes`, `places` or `moments`; see `batches.Stream`."""
    tower: bool = False
    language: bool = True
    """What learns: the vision tower, the projector and the language model."""


class Heads(nn.Module):
    """What the tower's outputs are asked during training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.patches = nn.Linear(width, sum(batches.PATCH_HEADS.values()))
        self.picture = nn.Linear(width, batches.PICTURE_HEAD)

    def forward(self, patches: torch.Tensor, picture: torch.Tensor, batch: batches.Batch) -> dict[str, torch.Tensor]:
        """Losses by name; `patches` [n, patches, dim], `picture` [n, dim]."""
        assert batch.patches is not None and batch.picture is not None
        found = self.patches(self.norm(patches)).float().split(list(batches.PATCH_HEADS.values()), -1)
        losses = {}
        for i, (name, logits) in enumerate(zip(batches.PATCH_HEADS, found, strict=True)):
            wanted = batch.patches[..., i].flatten()
            losses[name] = F.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=batches.IGNORED)
        losses["picture"] = F.binary_cross_entropy_with_logits(self.picture(picture).float(), batch.picture)
        return losses


class Trainer:
    """The model, its optimisers and its place in the plan; everything that a checkpoint holds."""

    def __init__(
        self, out: Path, device: str, workers: int, minutes: float, *, share: tuple[int, int] = (0, 1)
    ) -> None:
        from transformers import AttentionInterface, LlavaForConditionalGeneration

        torch.manual_seed(SEED)
        self.out, self.device, self.workers = out, torch.device(device), workers
        self.deadline = time.monotonic() + 60 * minutes
        self.model = LlavaForConditionalGeneration(mini.config())
        _initialise(self.model)
        AttentionInterface.register("packed", _packed)
        self.model.model.language_model.set_attn_implementation("packed")
        self.model.to(self.device)
        self.heads = Heads(mini.WIDTH).to(self.device)
        self.share = share
        self.stage, self.step, self.seconds = "", 0, 0.0

    # ------------------------------------------------------------------------------------------------------- forward

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 on a GPU; float32 on a CPU, where bfloat16 is several times slower."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def see(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes [n, h, w, 3] to patch features [n, patches, dim] and the class token's output [n, dim]."""
        values = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        outputs = self.model.model.vision_tower(pixel_values=values, output_hidden_states=True)
        return outputs.hidden_states[-2][:, 1:], outputs.pooler_output

    def answer_loss(self, features: torch.Tensor, batch: batches.Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the answers, and the share of whole answers that are right, by family."""
        assert batch.ids is not None and batch.segment is not None and batch.position is not None
        assert batch.target is not None and batch.family is not None
        core = self.model.model
        embeds = core.get_input_embeddings()(batch.ids)
        projected = core.multi_modal_projector(features).flatten(0, 1)
        placeholder = batch.ids == self.model.config.image_token_id
        embeds = embeds.masked_scatter(placeholder[..., None], projected.to(embeds.dtype))
        length = batch.ids.shape[1]
        order = torch.arange(length, device=embeds.device)
        same = batch.segment[:, :, None] == batch.segment[:, None, :]
        allowed = (same | (batch.segment == 0)[:, None, :]) & (order[:, None] >= order[None, :])
        start = int((batch.segment[0] == 0).sum())  # what all questions see is equally long in every row
        hidden = core.language_model(
            inputs_embeds=embeds, attention_mask=allowed[:, None, start:], position_ids=batch.position, use_cache=False
        ).last_hidden_state
        asked = batch.target != batches.IGNORED
        logits = self.model.lm_head(hidden[asked]).float()
        wanted = batch.target[asked]
        loss = F.cross_entropy(logits, wanted)
        with torch.no_grad():
            wrong = torch.zeros_like(batch.segment, dtype=torch.bool)
            wrong[asked] = logits.argmax(-1) != wanted
            shares = _whole_answers(wrong, batch.segment, batch.family)
        return loss, shares

    def losses(self, batch: batches.Batch, plan: Plan) -> tuple[torch.Tensor, dict[str, float]]:
        """What a step of the plan goes down on, and figures for the log."""
        figures: dict[str, float] = {}
        with self.autocast():
            with torch.set_grad_enabled(plan.tower):
                patches, picture = self.see(batch.pixels)
            total = patches.new_zeros(())
            if plan.language:
                loss, shares = self.answer_loss(patches, batch)
                total, figures = total + loss, figures | shares
            if plan.tower and batch.patches is not None:
                labels = self.heads(patches, picture, batch)
                total = total + (0.2 if plan.language else 1.0) * torch.stack(list(labels.values())).sum()
                figures |= {f"label {name}": float(value.detach()) for name, value in labels.items()}
        return total, {"loss": float(total.detach()), **figures}

    # --------------------------------------------------------------------------------------------------------- running

    def run(self, stage: str, plan: Plan, offset: int) -> bool:
        """Go on with a stage; False when the time is up before its end."""
        if self.stage != stage:
            self.stage, self.step, self.optimisers = stage, 0, self._optimisers(plan)
        saved = shown = time.monotonic()
        steps = range(self.step, plan.steps)
        sizes = {plan.kind: plan.size} | {k: n for k, n in (("clips", plan.clips), ("moments", plan.moments)) if n}
        streams = {
            kind: batches.batches(kind, size, "train", steps, offset=offset, workers=self.workers, share=self.share)
            for kind, size in sizes.items()
        }
        totals: dict[str, list[float]] = {}
        for step in steps:
            rate = min(1.0, (step + 1) / plan.warmup, 1.25 * (1 - step / plan.steps) + 0.01)
            for optimiser, base in zip(self.optimisers, (plan.lr, plan.adam), strict=True):
                for group in optimiser.param_groups:
                    group["lr"] = base * rate
            for kind, stream in streams.items():
                loss, figures = self.losses(next(stream).to(self.device), plan)
                torch.autograd.backward(loss * plan.weight if kind == plan.kind else loss)
                for name, value in figures.items():
                    totals.setdefault(f"{kind}.{name}", []).append(value)
            over = self._gather(time.monotonic() > self.deadline)
            nn.utils.clip_grad_norm_([p for o in self.optimisers for g in o.param_groups for p in g["params"]], 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            self.step = step + 1
            now = time.monotonic()
            if now - shown > 20 or self.step == plan.steps:
                self.seconds += now - shown
                self.note({name: round(sum(v) / len(v), 4) for name, v in totals.items()})
                totals, shown = {}, now
            if now - saved > 240:
                self.save()
                saved = now
            if over:
                self.save()
                return self.step == plan.steps
        self.save()
        return True

    def _gather(self, over: bool) -> bool:
        """Make all processes go on with their mean gradient, and stop together when one of them says so."""
        if self.share[1] == 1:
            return over
        gradients = [p.grad for o in self.optimisers for g in o.param_groups for p in g["params"] if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([float(over)], device=self.device)])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat / self.share[1], [*(g.numel() for g in gradients), 1])
        for gradient, mean in zip(gradients, parts, strict=False):
            gradient.copy_(mean.view_as(gradient))
        return bool(parts[-1] > 0)

    def _optimisers(self, plan: Plan) -> list[torch.optim.Optimizer]:
        tower: list[nn.Module] = [self.model.model.vision_tower, self.heads]
        rest: list[nn.Module] = [self.model.model.multi_modal_projector, self.model.model.language_model]
        rest.append(self.model.lm_head)
        parts = tower * plan.tower + rest * plan.language
        for module in tower + rest:
            module.requires_grad_(module in parts)
        found = [(n, p) for part in parts for n, p in part.named_parameters()]
        plain = ("embed", "patches", "picture", "lm_head", "position")
        matrices = [p for n, p in found if p.ndim == 2 and not any(word in n for word in plain)]
        heads = set(map(id, self.model.lm_head.parameters()))
        matrices = [p for p in matrices if id(p) not in heads]
        chosen = set(map(id, matrices))
        others = [p for _, p in found if id(p) not in chosen]
        return [
            Muon(matrices, plan.lr, decay=0.01),
            torch.optim.AdamW(others, plan.adam, (0.9, 0.98), weight_decay=0.01),
        ]

    def note(self, figures: dict[str, float]) -> None:
        """One line of the log."""
        if self.share[0]:
            return
        line = json.dumps({"stage": self.stage, "step": self.step, "seconds": round(self.seconds), **figures})
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.share[0]:
            return
        state = {
            "model": self.model.state_dict(), "heads": self.heads.state_dict(), "stage": self.stage, "step": self.step,
            "seconds": self.seconds, "optimisers": [o.state_dict() for o in self.optimisers],
        }  # fmt: skip
        part = self.out / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.out / "checkpoint.pt")

    def resume(self, plans: dict[str, Plan]) -> None:
        """Go back to the checkpoint, if there is one."""
        path = self.out / "checkpoint.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        self.optimisers = self._optimisers(plans[self.stage])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def _initialise(model: LlavaForConditionalGeneration) -> None:
    """Draw weights of an ordinary scale, and start position embeddings as waves over rows and columns.

    With waves, "the patch to the left" is one rotation for all patches; from noise, large shapes and the order of
    letters were still unlearned after 9,000 scenes.
    """
    for name, p in model.named_parameters():
        if "patch_embedding" in name:
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
        elif "embed_tokens" in name:
            nn.init.normal_(p, std=0.5)
        elif p.ndim == 2 and "position_embedding" not in name:
            nn.init.normal_(p, std=p.shape[1] ** -0.5)
            if name.endswith(("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight", "lm_head.weight")):
                p.data.mul_(0.1)
    table = model.model.vision_tower.embeddings.position_embedding.weight.data
    side, width = round((len(table) - 1) ** 0.5), table.shape[1]
    rates = torch.pi * 2.0 ** -torch.linspace(0, 4, width // 4)
    phases = torch.arange(side)[:, None] * rates
    waves = torch.cat([phases.sin(), phases.cos()], -1)
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    table[1:] = 0.4 * torch.cat([rows, columns], -1).flatten(0, 1)
    table[0] = 0


def _packed(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, scaling: float | None = None, **_: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention of pictures, causally, and of the questions behind them by a mask [b, 1, questions, length].

    One mask for everything would take almost twice the time on clips: no kernel skips what it hides.
    """
    start = query.shape[2] - (0 if attention_mask is None else attention_mask.shape[2])
    pictures = F.scaled_dot_product_attention(
        query[:, :, :start], key[:, :, :start], value[:, :, :start], is_causal=True, scale=scaling
    )
    asked = F.scaled_dot_product_attention(query[:, :, start:], key, value, attn_mask=attention_mask, scale=scaling)
    return torch.cat([pictures, asked], 2).transpose(1, 2).contiguous(), None


def _whole_answers(wrong: torch.Tensor, segment: torch.Tensor, family: torch.Tensor) -> dict[str, float]:
    """Share of segments without a wrong token, by family."""
    rows = torch.arange(len(segment), device=segment.device)[:, None].expand_as(segment)
    width = int(segment.max()) + 1
    asked = segment > 0
    place = (rows * width + segment)[asked]
    bad = torch.zeros(len(segment) * width, device=segment.device).index_add_(0, place, wrong[asked].float())
    kind = torch.full((len(segment) * width,), -1, device=segment.device).index_put_((place,), family[asked])
    return {
        name: float((bad[kind == i] == 0).float().mean()) for i, name in enumerate(batches.KINDS) if (kind == i).any()
    }


PLANS = {
    "tower": Plan(steps=700, size=32, tower=True, language=False, kind="patches"),
    "language": Plan(steps=740, size=16),
    "places": Plan(steps=160, size=16, kind="places"),
    "scenes": Plan(steps=600, size=16),
    "moments": Plan(steps=600, size=6, kind="moments"),
    "films": Plan(steps=2000, size=12, clips=2, moments=2, weight=3.0),
}


def go_on(trainer: Trainer, plans: dict[str, Plan]) -> bool:
    """Run the stages from where the trainer's folder stands; False when the time is up before the last one's end."""
    trainer.resume(plans)
    names = list(plans)
    left = names[names.index(trainer.stage) :] if trainer.stage else names
    return all(trainer.run(name, plans[name], offset=SCENES_OF_A_STAGE * names.index(name)) for name in left)


def main() -> None:
    """Train from where the output folder stands, until the plan or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--processes", type=int, default=1, help="that share every batch, on a CPU")
    parser.add_argument("--plans", type=json.loads, default={}, help='{"tower": {"steps": 100}}')
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.processes == 1:
        _train(0, given)
    else:
        (given.out / "rendezvous").unlink(missing_ok=True)
        spawn(_train, (given,), given.processes)  # type: ignore[no-untyped-call]


def _train(number: int, given: argparse.Namespace) -> None:
    """One of the processes."""
    torch.set_num_threads(given.threads)
    if given.processes > 1:
        meeting = (given.out / "rendezvous").resolve().as_uri()
        torch.distributed.init_process_group("gloo", meeting, rank=number, world_size=given.processes)
    plans = {name: Plan(**{**asdict(plan), **given.plans.get(name, {})}) for name, plan in PLANS.items()}
    trainer = Trainer(given.out, given.device, given.workers, given.minutes, share=(number, given.processes))
    if go_on(trainer, plans) and number == 0:
        train_text(trainer.model.model.vision_tower, trainer.out, offset=SCENES_OF_A_STAGE * len(plans))


if __name__ == "__main__":
    main()

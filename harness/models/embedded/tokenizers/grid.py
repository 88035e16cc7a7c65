"""`toksweep-mini-vq`: a small grid of codes of diffusers' `VQModel`, and how its codebook learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..muon import Muon
from .learner import Learner

if TYPE_CHECKING:
    from diffusers import VQModel

NAME = "toksweep-mini-vq"
SIDE = 32
"""Of a training tile in pixels: the network is convolutions throughout, and many small tiles differ more than few."""
CODES, DIM = 256, 8
COMMITMENT = 0.25
DECAY = 0.98
"""Of the running means that a code is the mean of."""
RARE = 0.1
"""A code that so few pixels' features choose per step, on average, is moved onto one of them."""


def build() -> VQModel:
    """The model with random weights: a quarter of the picture's sides, 256 codes."""
    from diffusers import VQModel

    return VQModel(
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=16,
        sample_size=64,
        num_vq_embeddings=CODES,
        vq_embed_dim=DIM,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


class Grid(Learner):
    """The model and what its codebook remembers between steps.

    Codes are running means of the features that chose them (van den Oord et al., 2017, arXiv:1711.00937, appendix A.1).
    The first steps train without quantising, so that the codes start from features that mean something.
    """

    lr, adam = 0.02, 2e-3
    size, side = 48, SIDE
    free_steps = 300

    def __init__(self) -> None:
        super().__init__()
        self.model = build()
        self.counts: torch.Tensor
        self.sums: torch.Tensor
        self.register_buffer("counts", torch.ones(CODES))
        self.register_buffer("sums", torch.zeros(CODES, DIM))

    def loss(self, tiles: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Of tiles [n, 3, side, side] in [-1, 1]: mean squared error, and what keeps features near their codes."""
        with torch.autocast(tiles.device.type, torch.bfloat16):
            features = self.model.encode(tiles).latents.float()
        figures, commitment = {}, features.new_zeros(())
        shown = features
        if step >= self.free_steps:
            flat = features.permute(0, 2, 3, 1).reshape(-1, DIM)
            codebook = self.model.quantize.embedding.weight
            chosen = torch.cdist(flat.detach(), codebook.detach()).argmin(1)
            rows = codebook[chosen].detach().view(*features.shape[:1], *features.shape[2:], DIM).permute(0, 3, 1, 2)
            commitment = F.mse_loss(features, rows)
            shown = features + (rows - features).detach()
            used = torch.bincount(chosen, minlength=CODES).float()
            share = used / used.sum()
            figures["codes"] = float(torch.exp(-(share * share.clamp_min(1e-9).log()).sum()))
            if self.training:
                self._follow(flat.detach(), chosen, used, step)
        elif step == self.free_steps - 1:
            self._start(features.detach().permute(0, 2, 3, 1).reshape(-1, DIM), step)
        with torch.autocast(tiles.device.type, torch.bfloat16):
            decoded = self.model.decode(shown, force_not_quantize=True).sample.float()
        error = F.mse_loss(decoded, tiles)
        return error + COMMITMENT * commitment, {"mse": float(error.detach()), **figures}

    @torch.no_grad()
    def _start(self, flat: torch.Tensor, step: int) -> None:
        codebook = self.model.quantize.embedding.weight
        codebook.copy_(_some(flat, CODES, step))
        for _ in range(10):
            chosen = torch.cdist(flat, codebook).argmin(1)
            counts = torch.bincount(chosen, minlength=CODES).float()
            sums = torch.zeros_like(codebook).index_add_(0, chosen, flat)
            codebook.copy_(torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], codebook))
        self.counts.copy_(counts)
        self.sums.copy_(codebook * counts[:, None])

    @torch.no_grad()
    def _follow(self, flat: torch.Tensor, chosen: torch.Tensor, used: torch.Tensor, step: int) -> None:
        codebook = self.model.quantize.embedding.weight
        self.counts.lerp_(used, 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(codebook).index_add_(0, chosen, flat), 1 - DECAY)
        dead = self.counts < RARE * len(flat) / CODES
        if dead.any():
            self.counts[dead] = len(flat) / CODES
            self.sums[dead] = _some(flat, int(dead.sum()), step) * self.counts[dead][:, None]
        codebook.copy_(self.sums / self.counts[:, None])

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the kernels between features, Adam for the rest; the codes follow by themselves."""
        learned = {n: p for n, p in self.model.named_parameters() if "quantize" not in n}
        kernels = [p for n, p in learned.items() if p.ndim == 4 and "conv_in" not in n and "conv_out" not in n]
        chosen = set(map(id, kernels))
        rest = [p for p in learned.values() if id(p) not in chosen]
        return [Muon(kernels, self.lr), torch.optim.AdamW(rest, self.adam, (0.9, 0.98), weight_decay=0.0)]


def _some(flat: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Some of the rows, the same for a seed."""
    generator = torch.Generator(flat.device).manual_seed(seed)
    return flat[torch.randint(len(flat), (count,), generator=generator, device=flat.device)]

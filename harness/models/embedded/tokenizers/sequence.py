"""`toksweep-mini-tok`: a small one-dimensional tokenizer of the TiTok family, and how any prefix of it learns to draw.

Nested dropout (Rippel et al., 2014, arXiv:1402.0915; One-D-Piece's tail token drop, arXiv:2501.10064): each part of a
batch is drawn from its own number of tokens. The error enters by its logarithm, so that a decibel is worth the same at
every length; by itself it would belong to the shortest prefixes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .....methods.titok import Block, PixelHead, TiTok, TiTokConfig, Trunk, ViTSize
from ..muon import Muon
from .learner import Learner

NAME = "toksweep-mini-tok"
SIDE, PATCH, LATENTS = 64, 8, 64
LEVELS = (8,) * 8 + (4,) * 4
"""Of a token's channels: 32 bits."""
WIDTH, HEADS = 192, 3
PARTS = ((2, 64, 64), (1, 8, 63), (1, 1, 7))
"""Of a batch: how large a share, and tokens from and to, uniform in the logarithm."""
PLACE = 32
"""The last channels start as the place of a patch or token, those before them as its content."""
KIND = WIDTH - PLACE - 1
"""The channel between starts as a mark of what asks in the first block: tokens in the encoder, patches behind it."""


def config() -> TiTokConfig:
    """Pictures of 64 x 64 pixels, 1 to 64 tokens of 32 bits."""
    return TiTokConfig(
        image_size=SIDE,
        patch=PATCH,
        latents=LATENTS,
        token_size=len(LEVELS),
        encoder=ViTSize(WIDTH, 3, HEADS),
        decoder=ViTSize(WIDTH, 4, HEADS),
        quantizer="fsq",
        parts=LEVELS,
        nested=True,
        tiled=True,
    )


class Plain(Block):
    """A block whose attention is written out: on a CPU the fused kernel takes twice the time, with its gradient."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """[batch, n, width]; no mask, since every part of a batch has one length."""
        batch, n, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(batch, n, width))
        made: torch.Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return made


class Sequence(Learner):
    """The network, and the loss of its prefixes."""

    lr, adam = 0.03, 2e-3
    size, side = 48, SIDE

    def __init__(self) -> None:
        super().__init__()
        self.model = TiTok(config())
        for trunk in (self.model.encoder, self.model.decoder):
            trunk.blocks = nn.ModuleList(Plain(WIDTH, HEADS) for _ in trunk.blocks)
        initialise(self.model)

    def loss(self, tiles: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Of tiles [n, 3, side, side] in [-1, 1]: the error's logarithm, mean over the parts of the batch by share."""
        pictures = (tiles + 1) / 2
        device = tiles.device.type
        rng = np.random.default_rng((0xD10, step))
        unit = len(pictures) // sum(share for share, _, _ in PARTS)
        sizes = [share * unit for share, _, _ in PARTS]
        losses, figures = [], {}
        with torch.autocast(device, torch.bfloat16):  # one context: weights are converted once
            vectors = self.model.quantizer(self.model.read(pictures).float()).vectors
            shown, wanted = torch.split(vectors, sizes), torch.split(pictures, sizes)
            for i, (share, low, high) in enumerate(PARTS):
                length = min(high, int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))
                error = F.mse_loss(self.model.draw(shown[i][:, :length]).float(), wanted[i])
                losses.append(share * torch.log(error))
                figures[f"psnr {low}-{high}"] = -10 * math.log10(float(error.detach()))
        return torch.stack(losses).sum() / sum(share for share, _, _ in PARTS), figures

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between features, Adam for the rest."""
        inner = {n: p for n, p in self.model.named_parameters() if ".blocks." in n and p.ndim == 2}
        rest = [p for n, p in self.model.named_parameters() if n not in inner]
        return [
            Muon(inner.values(), self.lr, dtype=torch.bfloat16),
            torch.optim.AdamW(rest, self.adam, (0.9, 0.98), weight_decay=0.0),
        ]


def initialise(model: TiTok) -> None:
    """Start near a path through the network that already means something.

    Patches start as their cosine transform, and are drawn by its inverse. Places start as waves over rows and columns.
    A latent token's place is the mean over its region in a quadtree: one token for the whole tile, three more for its
    quarters, and so on to one for each patch. Attention starts as looking at its own place. From noise,
    all tokens mean the same at first, and it takes most of a short training to part them.
    """
    for name, p in model.named_parameters():
        if p.ndim == 2 and ".blocks." in name:
            nn.init.normal_(p, std=p.shape[1] ** -0.5)
            if ".out." in name or ".down." in name:
                p.data.mul_(0.1)
    basis, scale = _cosines(KIND)
    head, bias = model.head, model.patches.bias
    assert isinstance(head, PixelHead) and bias is not None
    with torch.no_grad():
        model.patches.weight.zero_()
        model.patches.weight[:KIND] = (basis * scale[:, None]).view(KIND, 3, PATCH, PATCH)
        bias.copy_(-0.5 * model.patches.weight.sum((1, 2, 3)))
        back = (basis / scale[:, None]).view(KIND, 3, PATCH, PATCH).permute(2, 3, 1, 0)
        head.colours.weight.zero_()
        head.colours.weight[:, :KIND] = 0.3 * back.reshape(-1, KIND)
        head.colours.bias.fill_(0.5)
        head.smooth.weight.zero_()
        head.smooth.weight[range(3), range(3), 1, 1] = 1
        kept = range(len(LEVELS))  # the slowest waves of a patch make its token
        gain = torch.where(basis[kept].view(len(kept), 3, -1).std(-1).sum(1) < 1e-5, 0.3, 1.0)  # the mean is loud
        nn.init.normal_(model.to_tokens.weight, std=0.02)
        model.to_tokens.weight[kept, kept] = gain
        nn.init.normal_(model.from_tokens.weight, std=0.02)
        model.from_tokens.weight[kept, kept] = 1.5 / gain
        model.mask_token.zero_()
        model.latents.zero_()
        _place(model.encoder, model.encoder.latent_positions)
        _place(model.decoder, model.decoder.grid_positions)


def _place(trunk: Trunk, asking: torch.Tensor) -> None:
    """Places and the first look; in the first block what asks looks at the others, not at its like."""
    grid = SIDE // PATCH
    waves = _waves(grid)
    regions = torch.stack([waves[y : y + side, x : x + side].mean((0, 1)) for y, x, side in quadtree(grid)])
    regions = F.normalize(regions, dim=-1) * waves[0, 0].norm() * (regions.norm(dim=-1, keepdim=True) > 1e-3)
    trunk.class_token.zero_()
    trunk.grid_positions.zero_()
    trunk.grid_positions[1:, WIDTH - PLACE :] = waves.flatten(0, 1)
    nn.init.normal_(trunk.latent_positions, std=0.05)
    trunk.latent_positions[:, WIDTH - PLACE :] = regions
    asking[:, KIND] = 4
    for number, block in enumerate(trunk.blocks):
        assert isinstance(block, Block)
        query, key, value = block.qkv.weight.view(3, HEADS, WIDTH // HEADS, WIDTH)
        for head in range(HEADS if number == 0 else HEADS // 2):
            for part, sign in ((query, 1), (key, -1)):
                part[head] *= 0.3 if number else 0.05
                part[head, :PLACE, WIDTH - PLACE :] += torch.eye(PLACE)
                if number == 0:
                    part[head, PLACE, KIND] = sign
        if number == 0:
            value.copy_(torch.eye(WIDTH).view(HEADS, WIDTH // HEADS, WIDTH))
            block.out.weight.copy_(torch.eye(WIDTH))
            block.out.weight[KIND:] = 0


def _waves(grid: int) -> torch.Tensor:
    """[grid, grid, PLACE]; inner products fall from one patch to its neighbours at once, and stay there."""
    rates = torch.arange(1, PLACE // 4 + 1) * math.pi / grid
    phases = torch.arange(grid)[:, None] * rates
    waves = torch.cat([phases.sin(), phases.cos()], -1)
    return torch.cat([waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)], -1)


def quadtree(grid: int) -> list[tuple[int, int, int]]:
    """(top, left, side) in patches of every latent's region: the whole, then level by level three of each four.

    Regions of a level come far apart, not in rows.
    """
    found = [(0, 0, grid)]
    side = grid // 2
    while side:
        corners = [(top, left, side) for top in range(0, grid, side) for left in range(0, grid, side)]
        found += sorted((c for c in corners if (c[0] // side) % 2 or (c[1] // side) % 2), key=_scattered)
        side //= 2
    return found


def _scattered(corner: tuple[int, int, int]) -> int:
    """Bits of row and column, lowest first, so that neighbours come last."""
    top, left, side = corner
    order, top, left = 0, top // side, left // side
    for _ in range(4):
        order = order * 4 + (top & 1) * 2 + ((top ^ left) & 1)
        top, left = top >> 1, left >> 1
    return order


def _cosines(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[count, 3 * PATCH ** 2] an orthonormal transform of a patch, slow waves first, colour later than light; and
    factors that bring faster waves, which are weaker in pictures, nearer to the others."""
    place = torch.arange(PATCH) + 0.5
    lines = torch.stack([torch.cos(math.pi * k * place / PATCH) for k in range(PATCH)])
    lines /= lines.norm(dim=1, keepdim=True)
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [-0.5, 1, -0.5]])
    colours /= colours.norm(dim=1, keepdim=True)
    keyed = []
    for c in range(3):
        for v in range(PATCH):
            for u in range(PATCH):
                rank = math.hypot(u, v) + 2 * (c > 0)
                keyed.append((rank, torch.einsum("c,y,x->cyx", colours[c], lines[v], lines[u]).flatten()))
    keyed.sort(key=lambda pair: pair[0])
    basis = torch.stack([wave for _, wave in keyed[:count]])
    scale = torch.tensor([0.6 * (1 + rank) ** 0.5 for rank, _ in keyed[:count]])
    return basis, scale

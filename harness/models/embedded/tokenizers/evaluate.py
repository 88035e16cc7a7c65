"""Scores exported tokenizers on pictures they never saw: `python -m ...tokenizers.evaluate TOK [--vq FOLDER]`.

PSNR on the tasks `photos` and `text`, legibility on `text`, after every doubling of tokens; then a grid of codes, JPEG
and WebP at the bits of all tokens. Intervals are over photographs, and so are differences, picture by picture.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .....methods.network import cropped, joined, padded, picture, pixels, tiles
from .....methods.titok_checkpoints import load
from .....metrics.fidelity import Psnr
from .....metrics.statistics import Array, Interval, cluster_bootstrap, paired_difference
from .....metrics.text import TextAccuracy, TextSimilarity
from .....tasks.reconstruction.photos import photos
from .....tasks.reconstruction.text import text
from ....contracts import Budget, Item, Memo, Output, Sample
from ....registry import registry

if TYPE_CHECKING:
    from PIL.Image import Image

Draw = Callable[["Image"], "Image"]
Scores = dict[str, dict[tuple[str, str], list[float]]]
"""By metric, then by cluster and bin."""


def prefixes(folder: Path) -> dict[int, Draw]:
    """A one-dimensional tokenizer at 1, 2, 4, ... tokens a tile; pictures are cut into tiles."""
    network = load(folder)
    side, most = network.config.image_size, network.config.latents
    memo: dict[int, tuple[Image, torch.Tensor]] = {}  # of the last picture, which comes once for every length

    def draw(image: Image, length: int) -> Image:
        if 0 not in memo or memo[0][0] is not image:
            parts = tiles(padded(pixels(image, 0, "cpu", torch.float32), (side, side)), side)
            with torch.inference_mode():
                memo[0] = (image, torch.cat([network.encode(part) for part in torch.split(parts, 32)]))
        with torch.inference_mode():
            drawn = [network.decode(part[:, :length]) for part in torch.split(memo[0][1], 32)]
        return picture(cropped(joined(torch.cat(drawn), -(-image.width // side)), image.size), 0)

    lengths = [2**i for i in range(most.bit_length()) if 2**i <= most]
    return {length: lambda image, length=length: draw(image, length) for length in lengths}  # type: ignore[misc]


def grid_of_codes(folder: Path) -> Draw:
    """A `VQModel` on whole pictures."""
    from diffusers import VQModel

    model = VQModel.from_pretrained(folder, torch_dtype=torch.float32).eval()

    def draw(image: Image) -> Image:
        values = padded(pixels(image, -1, "cpu", torch.float32), (4, 4))
        with torch.inference_mode():
            drawn = model.decode(model.encode(values).latents).sample
        return picture(cropped(drawn, image.size), -1)

    return draw


def codec(name: str, budget: str) -> Draw:
    """A codec of ours."""
    coder = registry("methods").get(name).build()

    def draw(image: Image) -> Image:
        drawn: Image = coder.decode(coder.encode(image, Budget.parse(budget), Memo()))  # type: ignore[attr-defined]
        return drawn

    return draw


def score(draws: dict[str, Draw], samples: Mapping[str, Sequence[Sample]]) -> dict[str, Scores]:
    """Scores of every drawer, in `Scores`; the metrics of words where a task has some."""
    found: dict[str, Scores] = {name: defaultdict(lambda: defaultdict(list)) for name in draws}
    for task, listed in samples.items():
        metrics = [Psnr(), *((TextAccuracy(), TextSimilarity()) if task == "text" else ())]
        for sample in listed:
            image, memo = sample.images[0](), Memo()
            for name, draw in draws.items():
                output = Output(image=draw(image))
                own = Memo()
                for metric in metrics:
                    items: list[Item] = metric.score(output, sample, memo if isinstance(metric, Psnr) else own)
                    where = f"{metric.name} of {task}"
                    for item in items:
                        bin_ = item.slices.get(metric.mean_over, "") if metric.mean_over else ""
                        found[name][where][sample.cluster_id, bin_].append(item.value)
    return found


def table(scores: dict[tuple[str, str], list[float]]) -> tuple[Array, Array]:
    """[clusters, bins] sums and counts."""
    clusters = sorted({cluster for cluster, _ in scores})
    bins = sorted({bin_ for _, bin_ in scores})
    sums, counts = np.zeros((len(clusters), len(bins))), np.zeros((len(clusters), len(bins)))
    for (cluster, bin_), values in scores.items():
        sums[clusters.index(cluster), bins.index(bin_)] = sum(values)
        counts[clusters.index(cluster), bins.index(bin_)] = len(values)
    return sums, counts


def report(found: dict[str, Scores]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Means and differences to the drawer before, each with its interval."""
    told: dict[str, dict[str, dict[str, list[float]]]] = {}
    for where in next(iter(found.values())):
        tables = {name: table(scores[where]) for name, scores in found.items()}
        names = list(tables)
        told[where] = {
            "mean": {name: _rounded(cluster_bootstrap(*both)) for name, both in tables.items()},
            "less the one before": {
                name: _rounded(paired_difference(*tables[before], *tables[name])) for before, name in pairwise(names)
            },
        }
    return told


def _rounded(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tok", type=Path)
    parser.add_argument("--vq", type=Path)
    parser.add_argument("--bpp", default="0.5bpp", help="of the codecs")
    parser.add_argument("--save", type=Path, help="a folder for the pictures of the task `text`")
    given = parser.parse_args()
    torch.set_num_threads(1)
    draws: dict[str, Draw] = {f"{length} tokens": draw for length, draw in prefixes(given.tok).items()}
    if given.vq:
        draws["grid"] = grid_of_codes(given.vq)
    draws |= {name: codec(name, given.bpp) for name in ("jpeg", "webp")}
    draws["untouched"] = lambda image: image
    samples = {"photos": photos(None), "text": text(None)}
    if given.save:
        given.save.mkdir(parents=True, exist_ok=True)
        for sample in samples["text"][::3]:
            image = sample.images[0]()
            for name, draw in draws.items():
                draw(image).save(given.save / f"{sample.id}-{name.replace(' ', '-')}.png")
    print(json.dumps(report(score(draws, samples)), indent=1))


if __name__ == "__main__":
    main()

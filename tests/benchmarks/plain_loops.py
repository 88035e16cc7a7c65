"""Plain loops that choose as the compressors do, written from their definitions: one image, one token or pair a time.

An inner product, a sum and a mean of vectors are one call; nothing else is vectorised. Every function in `LOOPS` takes
a view and the count that `reduce` is asked for, does what needs no timing, and returns the rest as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, inf, sqrt

import numpy as np
import torch
from toksweep.harness.contracts import View
from toksweep.methods import counts, ops
from toksweep.methods.attention import one_head
from toksweep.methods.compressors import aim, vqtoken

Vectors = list[np.ndarray]
Rows = list[list[int]]


@dataclass(frozen=True)
class Part:
    """A method held against a loop by the operation that dominates it: all of it would be a second implementation."""

    name: str
    ours: Callable[[], object]
    loop: Callable[[], object]


LOOPS: dict[tuple[str, str], Callable[[View, int], Callable[[], object] | Part]] = {}


def loop(place, *names):
    """Register what chooses as these compressors do at a place."""

    def register(prepare):
        LOOPS.update({(name, place): prepare for name in names})
        return prepare

    return register


# ------------------------------------------------------------------------------------------------------ shared by loops


def vectors(tensor: torch.Tensor) -> Vectors:
    """[n, dim] to n vectors."""
    return list(tensor.double().numpy())


def joined(heads: torch.Tensor) -> Vectors:
    """[heads, n, d] to n vectors, heads one after another."""
    return vectors(heads.transpose(0, 1).flatten(1))


def averaged(heads: torch.Tensor) -> Vectors:
    """[heads, n, d] to n vectors, the mean over heads."""
    return [token.mean(0) for token in heads.double().transpose(0, 1).numpy()]


def mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def best(scores: Sequence[float], keep: int | None = None) -> list[int]:
    """Places from the highest score on; of equals the first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:keep]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / sqrt(vector.dot(vector))


def nearest(vector: np.ndarray, others: dict[int, np.ndarray]) -> int:
    """The key of the other that is most alike; of equals the first."""
    return max(others, key=lambda i: others[i].dot(vector))


def pairs(points: Vectors, relation: Callable[[np.ndarray, np.ndarray], float]) -> list[list[float]]:
    """A symmetric relation of all pairs."""
    found = [[0.0] * len(points) for _ in points]
    for i, one in enumerate(points):
        for j in range(i + 1):
            found[i][j] = found[j][i] = float(relation(one, points[j]))
    return found


def cosines(points: Vectors) -> list[list[float]]:
    return pairs([unit(p) for p in points], np.dot)


def distances(points: Vectors) -> list[list[float]]:
    return pairs(points, lambda a, b: sqrt((gap := a - b).dot(gap)))


def greedy(n: int, keep: int, value: Callable[[int], float], picked: Callable[[int], None]) -> list[int]:
    """Pick the free place of the largest value, again and again."""
    free = list(range(n))
    for _ in range(keep):
        pick = max(free, key=value)
        free.remove(pick)
        picked(pick)
    return sorted(set(range(n)) - set(free))


def merge_best(candidates: Iterable[tuple[float, int, int]], n: int, merges: int) -> dict[int, list[int]]:
    """Of (likeness, source, target) the most alike merge: the members of every token that is left."""
    groups = {i: [i] for i in range(n)}
    for _, source, target in sorted(candidates, key=lambda c: -c[0])[:merges]:
        groups[target] += groups.pop(source)
    return groups


def bipartite(points: Vectors, protected: int) -> list[tuple[float, int, int]]:
    """Every even place that may merge, with the odd one most like it."""
    units = [unit(p) for p in points]
    odd = {i: units[i] for i in range(1, len(points), 2)}
    found = [(i, nearest(units[i], odd)) for i in range(0, len(points), 2) if i >= protected]
    return [(float(units[i].dot(units[j])), i, j) for i, j in found]


def absorb(scores, metric: Vectors, dominant: int, contextual: int, pool: int | None = None) -> Rows:
    ranked = best(scores)
    rest = sorted(ranked[dominant:]) if pool is None else ranked[dominant:][: max(pool, contextual)]
    targets = rest[:: len(rest) // contextual][:contextual] if contextual else []
    units = {i: unit(metric[i]) for i in targets}
    groups = {i: [i] for i in ranked[:dominant] + targets}
    for i in rest:
        if targets and i not in units:
            groups[nearest(unit(metric[i]), units)].append(i)
    return list(groups.values())


def absorb_neighbours(metric: Vectors, centres: list[int], neighbours: int = 32) -> Rows:
    units = [unit(m) for m in metric]
    rows = []
    for centre in centres:
        alike = [-inf if i == centre else u.dot(units[centre]) for i, u in enumerate(units)]
        rows.append([centre, *best(alike, neighbours)])
    return [*rows, [i for i in range(len(units)) if i not in centres]]


def density_peaks(points: Vectors, neighbours: int, noise: list[float]) -> tuple[list[float], list[list[float]]]:
    width = sqrt(len(points[0]))
    distance = [[d / width for d in row] for row in distances(points)]
    near = [sorted(row)[:neighbours] for row in distance]
    density = [exp(-sum(d * d for d in row) / len(row)) + 1e-6 * draw for row, draw in zip(near, noise, strict=True)]
    furthest = max(map(max, distance))
    apart = [
        min((d for d, other in zip(row, density, strict=True) if other > own), default=furthest)
        for row, own in zip(distance, density, strict=True)
    ]
    return [own * gap for own, gap in zip(density, apart, strict=True)], distance


def dpc_knn(points: Vectors, clusters: int, neighbours: int, noise: list[float]) -> tuple[list[int], list[int]]:
    """The cluster of every point, and the centres, the best first."""
    scores, distance = density_peaks(points, neighbours, noise)
    centres = best(scores, clusters)
    rank = {centre: row for row, centre in enumerate(centres)}
    near = (rank.get(i, min(range(clusters), key=lambda c: row[centres[c]])) for i, row in enumerate(distance))
    return list(near), centres


def members(labels: Sequence[int]) -> Rows:
    groups: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        groups.setdefault(label, []).append(i)
    return list(groups.values())


def frames(view: View) -> int:
    return int(view.image.max()) + 1


# ----------------------------------------------------------------------------------------------------- one ranking each


@loop("projector", "fastervlm", "hired")
def class_attention(view, keep):
    heads = view["class_attention@-2"][0].tolist()
    return lambda: best(mean(heads), keep)


@loop("decoder", "fastv")
def last_attention(view, keep):
    heads = view["last_attention"][0].tolist()
    return lambda: best(mean(heads), keep)


@loop("decoder", "pyramiddrop")
def next_last_attention(view, keep):
    heads = view["next_last_attention"][0].tolist()
    return lambda: best(mean(heads), keep)


@loop("decoder", "duet_vlm")
def next_text_attention(view, keep):
    rows = view["next_text_attention"][0].flatten(0, 1).tolist()
    return lambda: best(mean(rows), keep)


@loop("projector", "oracle")
def evidence(view, keep):
    covered = view["evidence"][0].tolist()
    return lambda: best([1 + c if c > 0 else i * 0.6180339887 % 1 for i, c in enumerate(covered)], keep)


@loop("projector", "hiprune")
def hiprune(view, keep):
    first, second = view["received_attention@8"][0].tolist(), view["received_attention@-2"][0].tolist()
    n, width = len(first[0]), view.grid[1]

    def choose():
        anchors, deep = best(mean(first), round(keep * 0.1 / 5)), best(mean(second))
        buffers = {min(max(a + step, 0), n - 1) for a in anchors for step in (-1, 1, -width, width)} - {*anchors}
        found = anchors + [i for i in deep if i in buffers]
        return (found + [i for i in deep if i not in found])[:keep]

    return choose


@loop("decoder", "prunevid")
def attended(view, keep):
    rows, count = view["text_attention"][0].flatten(0, 1).tolist(), frames(view)
    each = len(rows[0]) // count

    def choose():
        scores = [max(column) for column in zip(*rows, strict=True)]
        share, more = divmod(keep, count)
        kept = [best(scores[f * each : (f + 1) * each], share + (f < more)) for f in range(count)]
        return [f * each + i for f, frame in enumerate(kept) for i in frame]

    return choose


@loop("projector", "dycoke")
def dycoke(view, keep):
    points, count = vectors(view.tokens[0]), frames(view)
    n = len(points) // count

    def choose():
        earlier = [(None, f - 1, f - 2 if f + 2 < count else None, f - 1)[f % 4] for f in range(count)]
        share, more = divmod(keep - n * earlier.count(None), count - earlier.count(None))
        kept, pruned = [], 0
        for frame, other in enumerate(earlier):
            order = range(n)
            if other is not None:
                alike = [unit(points[frame * n + i]).dot(unit(points[other * n + i])) for i in range(n)]
                order, pruned = best([-a for a in alike], share + (pruned < more)), pruned + 1
            kept += [frame * n + i for i in order]
        return kept

    return choose


# ------------------------------------------------------------------------------------------------------ greedy searches


@loop("projector", "divprune")
def divprune(view, keep):
    points = vectors(view.tokens[0])

    def choose():
        alike = cosines(points)
        gap = [1 - sorted(row)[-2] for row in alike]
        first = []

        def picked(pick):
            for i, a in enumerate(alike[pick]):
                gap[i] = 1 - a if not first else min(gap[i], 1 - a)
            first.append(pick)

        return greedy(len(points), keep, gap.__getitem__, picked)

    return choose


@loop("projector", "todre")
def todre(view, keep):
    points, heads = vectors(view.tokens[0]), view["class_attention@-1"][0].tolist()

    def choose():
        alike, total = cosines(points), [0.0] * len(points)
        total[best(mean(heads), 1)[0]] = -inf

        def picked(pick):
            for i, a in enumerate(alike[pick]):
                total[i] += a

        return greedy(len(points), keep, lambda i: -total[i], picked)

    return choose


@loop("projector", "catp")
def catp(view, keep):
    points, words = vectors(view.tokens[0]), vectors(view["text_embeddings"][0])

    def choose():
        alike, text = [[(1 + a) / 2 for a in row] for row in cosines(points)], unit(sum(words))
        bonus = [0.7 * (1 + unit(p).dot(text)) / 2 for p in points]
        covered = [0.0] * len(points)

        def gain(i):
            return bonus[i] + sum([a - c for a, c in zip(alike[i], covered, strict=True) if a > c])

        def picked(pick):
            covered[:] = map(max, covered, alike[pick])

        return greedy(len(points), keep, gain, picked)

    return choose


@loop("projector", "cdpruner")
def cdpruner(view, keep):
    points, patches, texts = (vectors(t[0]) for t in (view.tokens, view["clip_patches"], view["clip_text"]))

    def choose():
        scores = [-sum(unit(p).dot(unit(t)) for t in texts) / len(texts) for p in patches]
        low, high = min(scores), max(scores)
        relevance = [(s - low + 1e-6) / (high - low) for s in scores]
        kernel = [[relevance[i] * a * relevance[j] for j, a in enumerate(row)] for i, row in enumerate(cosines(points))]
        residual = [row[i] for i, row in enumerate(kernel)]
        factor: list[list[float]] = [[] for _ in kernel]

        def picked(pick):
            own, length = tuple(factor[pick]), sqrt(residual[pick])
            for i, row in enumerate(factor):
                row.append((kernel[pick][i] - sum([a * b for a, b in zip(own, row, strict=True)])) / length)
                residual[i] -= row[-1] ** 2

        return greedy(len(points), keep, residual.__getitem__, picked)

    return choose


@loop("projector", "vispruner")
def vispruner(view, keep):
    points, heads = vectors(view["features"][0]), view["class_attention@-2"][0].tolist()

    def choose():
        alike, order, important = cosines(points), best(mean(heads)), keep // 2
        kept, rest = order[:important], order[important:]
        while (more := len(rest) - (keep - important)) > 0:
            odd = rest[1::2]
            likest = [max([alike[i][j] for j in odd]) for i in rest[::2]]
            rest = [rest[2 * i] for i in best(likest)[min(8, more, len(rest) // 2) :]] + odd
        return kept + rest

    return choose


@loop("decoder", "dart")
def dart(view, keep):
    keys, words = joined(view["keys"][0]), joined(view["text_keys"][0])
    states, text = vectors(view["normed"][0]), vectors(view["text_normed"][0])

    def choose():
        strongest = [best([sum(abs(k)) for k in group], 4) for group in (keys, words)]
        units, taken = [unit(s) for s in states], set(strongest[0])
        visited = [units[i] for i in strongest[0]] + [unit(text[i]) for i in strongest[1]]
        share, more = divmod(keep - 4, len(visited))
        for turn, pivot in enumerate(visited):
            unlike = [-inf if i in taken else -u.dot(pivot) for i, u in enumerate(units)]
            taken.update(best(unlike, share + (turn < more)))
        return list(taken)

    return choose


# -------------------------------------------------------------------------------------------------------------- merging


@loop("encoder", "tome", "auroracap", "tinychart")
def bipartite_by_keys(view, keep):
    keys = view["keys"][0]

    def choose():
        points = averaged(keys)
        return [*merge_best(bipartite(points, 1), len(points), len(points) - 1 - keep).values()]

    return choose


@loop("encoder", "dymu")
def dymu(view, keep):
    keys = view["keys"][0]

    def choose():
        points = averaged(keys)
        found, n = bipartite(points, 1), len(points)
        least = max(0.0, sorted((alike for alike, _, _ in found), reverse=True)[n - 1 - keep])
        above = [pair for pair in found if pair[0] > least]
        return [*merge_best(above, n, (n - 1) // 2).values()]

    return choose


@loop("encoder", "pitome")
def pitome(view, keep):
    keys = view["keys"][0]

    def choose():
        points = averaged(keys)[1:]
        energy = [sum([a - 0.9 if a > 0.9 else exp(a - 0.9) - 1 for a in row]) for row in cosines(points)]
        ranked = best(energy)
        groups = merge_best(bipartite([points[i] for i in ranked], 0), len(points), len(points) - keep)
        return [[0], *([1 + ranked[i] for i in group] for group in groups.values())]

    return choose


@loop("projector", "aim")
def aim_rounds(view, keep):
    first = vectors(view.tokens[0])

    def choose():
        points, rows = first, [[i] for i in range(len(first))]
        while len(points) > keep:
            found, n = bipartite(points, 0), len(points)
            groups = merge_best(found, n, min(n - keep, n // 2))
            alike = {i: a for a, i, _ in found}
            order = sorted((i for i in groups if i % 2 == 0), key=lambda i: -alike[i]) + list(range(1, n, 2))
            rows = [[member for i in groups[o] for member in rows[i]] for o in order]
            points = [sum(points[i] for i in groups[o]) / len(groups[o]) for o in order]
        return rows

    return choose


@loop("decoder", "aim")
def aim_rank(view, keep):
    queries, keys = view["prompt_queries"][:, :1], view["prompt_keys"][:, :1]
    rows, columns = vectors(queries[0, 0]), vectors(keys[0, 0])

    def walk():
        n, share = len(rows), [1 / len(rows)] * len(rows)
        moves = []
        for i, query in enumerate(rows):
            logits = [10 * float(query.dot(key)) / sqrt(len(query)) for key in columns[: i + 1]]
            highest = max(logits)
            weights = [exp(logit - highest) for logit in logits]
            total = sum(weights)
            moves.append([w / total for w in weights])
        for _ in range(5):
            after = [0.0] * n
            for own, row in zip(share, moves, strict=True):
                for j, move in enumerate(row):
                    after[j] += own * move
            share = after
        return share

    return Part("page_rank of a head", lambda: aim.page_rank(queries, keys), walk)


@loop("projector", "visionzip")
def visionzip(view, keep, part=10 / 64, pool=None):
    heads, keys = view["class_attention@-2"][0].tolist(), view["keys@-2"][0]
    contextual = round(keep * part)

    def choose():
        rows = absorb(mean(heads), averaged(keys)[1:], keep - contextual - 1, contextual, pool and pool * contextual)
        return [[len(heads[0])], *rows]

    return choose


@loop("projector", "duet_vlm")
def duet_vlm(view, keep):
    return visionzip(view, keep, 7 / 307, 4)


@loop("projector", "visiondrop")
def visiondrop_door(view, keep):
    return visionzip(view, keep, 0.135)


@loop("decoder", "visiondrop")
def visiondrop(view, keep):
    heads, keys = view["next_visual_attention"][0].tolist(), view["next_keys"][0]
    contextual = round(keep * 0.135)
    return lambda: absorb(mean(heads), averaged(keys), keep - contextual, contextual)


@loop("projector", "prumerge")
def prumerge(view, keep):
    query, keys = view["class_query@-1"][0].double().flatten().numpy(), joined(view["keys@-1"][0])[1:]
    return lambda: absorb_neighbours(keys, best([query.dot(key) for key in keys], keep - 1))


@loop("projector", "prumerge_plus")
def prumerge_more(view, keep):
    attention, metric = one_head(view)
    rank = attention.argsort(descending=True).argsort()
    number, spacing = counts.within(rank, keep - 1)
    marked = counts.sampled(attention.shape[1], spacing) | (rank < number[:, None])
    kept, centres = marked.sum(1), (~marked).to(torch.int8).argsort(stable=True)
    chosen, keys = centres[0, : kept[0]].tolist(), vectors(metric[0])
    return Part(
        "absorb_neighbours", lambda: ops.absorb_neighbours(attention, metric, centres, kept),
        lambda: absorb_neighbours(keys, chosen),
    )  # fmt: skip


@loop("projector", "m3")
def m3(view, keep):
    rows, columns = view.grid

    def choose():
        height, width = rows, columns
        while height * width > keep:
            height, width = height // 2, width // 2
        cells = [(i // columns * height // rows, i % columns * width // columns) for i in range(rows * columns)]
        return members([y * width + x for y, x in cells])

    return choose


# ------------------------------------------------------------------------------------------------------------- clusters


@loop("projector", "ppe")
def ppe(view, keep):
    points = vectors(view.tokens[0])
    noise = view.noise(len(points))[0].tolist()
    return lambda: members(dpc_knn(points, keep, 5, noise)[0])


@loop("decoder", "sparsevlm")
def sparsevlm(view, keep):
    visual, words, points = (vectors(t[0]) for t in (view["entering"], view["text_embeddings"], view.tokens))
    attention = view["text_attention"][0].transpose(0, 1).tolist()
    n = len(points)
    whole = max(w for w in range(keep) if w + (int((n - w) * 0.3) + 1) // 10 + 1 <= keep)
    recycled = int((n - whole) * 0.3) + 1
    noise = view.noise(recycled)[0].tolist()

    def choose():
        shares = [0.0] * len(words)
        for token in visual:
            logits = [token.dot(word) for word in words]
            weights = [exp(a - max(logits)) for a in logits]
            shares = [s + w / sum(weights) for s, w in zip(shares, weights, strict=True)]
        raters = [t for t, share in enumerate(shares) if share > sum(shares) / len(shares)]
        ranked = best(mean([mean(attention[t]) for t in raters]))
        others = ranked[whole : whole + recycled]
        labels, _ = dpc_knn([points[i] for i in others], keep - whole, keep - whole, noise)
        return [[i] for i in ranked[:whole]] + [[others[i] for i in row] for row in members(labels)]

    return choose


@loop("projector", "centerclip")
def centerclip(view, keep):
    points, count = vectors(view.tokens[0]), frames(view)
    each = 2 * len(points) // count

    def medoids(points, clusters):
        distance = distances(points)
        chosen = [best([p.dot(p) for p in points], 1)[0]]
        gap = distance[chosen[0]]
        while len(chosen) < clusters:
            chosen.append(best(gap, 1)[0])
            gap = [*map(min, gap, distance[chosen[-1]])]
        while True:
            groups: dict[int, list[int]] = {c: [] for c in chosen}
            for i, row in enumerate(distance):
                groups[i if i in groups else min(chosen, key=row.__getitem__)].append(i)
            moved = [min(m, key=lambda i, m=m: sum([distance[i][j] for j in m])) for m in groups.values()]
            if moved == chosen:
                return chosen
            chosen = moved

    def choose():
        return [
            first + i
            for first in range(0, len(points), each)
            for i in medoids(points[first : first + each], 2 * keep // count)
        ]

    return choose


@loop("decoder", "holitom")
def fold(view, keep):
    points, heads = vectors(view.tokens[0]), view["last_attention"][0].tolist()

    def choose():
        kept = best(mean(heads), keep)
        units, groups = {i: unit(points[i]) for i in sorted(kept)}, {i: [i] for i in kept}
        for i, point in enumerate(points):
            if i not in units:
                groups[nearest(unit(point), units)].append(i)
        return list(groups.values())

    return choose


@loop("projector", "holitom", "prunevid")
def clusters_of_a_frame(view, keep):
    count = frames(view)
    points = view.tokens[:, : view.tokens.shape[1] // count]
    plain, noise = vectors(points[0]), view.noise(points.shape[1])
    return Part(
        "dpc_knn of a frame", lambda: ops.dpc_knn(points, keep // count, 7, noise),
        lambda: dpc_knn(plain, keep // count, 7, noise[0].tolist()),
    )  # fmt: skip


@loop("projector", "fastvid")
def peaks_of_a_frame(view, keep):
    points = view.tokens[:, : view.tokens.shape[1] // frames(view)]
    plain, noise = vectors(points[0]), view.noise(points.shape[1])
    return Part(
        "density_peaks of a frame", lambda: ops.density_peaks(points, 4, noise)[0],
        lambda: density_peaks(plain, 4, noise[0].tolist())[0],
    )  # fmt: skip


@loop("projector", "vqtoken")
def round_of_k_means(view, keep):
    points = torch.nn.functional.normalize(view.tokens, dim=-1)
    first = vqtoken.start(points, view.noise(keep // frames(view)))
    plain, places = vectors(points[0]), first[0].tolist()

    def assign():
        centres = {row: plain[place] for row, place in enumerate(places)}
        return [nearest(point, centres) for point in plain]

    return Part("k_means, one round", lambda: vqtoken.k_means(points, first, most=1)[0], assign)

"""The regression check: what a cell spends and keeps must be equal, and its scores must not be shown to be worse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..harness.contracts import UserError
from ..metrics.statistics import Interval, noninferiority
from ..results.records import ILLUSTRATIVE_BELOW
from ..results.store import ResultsFolder
from .baseline import make_baseline, unpack
from .pairing import Scored, pair

Level = Literal["regression", "unproven", "note"]
MARGIN = 0.01
"""A score may fall by this share of the baseline's score."""
OVERLAP = 0.9
"""Elsewhere than in the baseline's environment, kept tokens must overlap this much (Jaccard, mean over samples)."""
DRIFT = 0.02
"""Elsewhere, mean tokens, FLOPs and bits may differ by this share."""

FINE, REGRESSION, UNPROVEN = 0, 1, 3
MEND = "if the change is meant, write the baseline anew with --update-baseline"


@dataclass(frozen=True)
class Finding:
    """One thing that the check noticed. `note` changes no exit code."""

    level: Level
    cell: str
    what: str


@dataclass(frozen=True)
class CheckResult:
    """Exit code 0 (fine), 1 (regression) or 3 (not enough evidence), and why.

    Attributes:
        same_environment: whether figures had to be equal exactly.
        cells: how many cells were compared.
    """

    exit_code: int
    findings: tuple[Finding, ...]
    same_environment: bool
    cells: int

    def to_json(self) -> dict[str, object]:
        """A JSON-ready mapping."""
        return asdict(self)

    def to_text(self) -> str:
        """The verdict in a sentence, then a line per finding."""
        verdict = {FINE: "Fine", REGRESSION: "Regression", UNPROVEN: "Not enough evidence"}[self.exit_code]
        how = "exactly" if self.same_environment else "by overlap and drift"
        lines = [f"{verdict}: {self.cells} cells compared with the baseline, spending and kept tokens {how}."]
        lines += [f"{f.level}: {f.cell + ' ' if f.cell else ''}{f.what}" for f in self.findings]
        return "\n".join(lines)


def check(
    folder: ResultsFolder, baseline: Mapping[str, Any], *, margin: float = MARGIN, overlap: float = OVERLAP
) -> CheckResult:
    """Compare a results folder with a baseline.

    In the baseline's environment (library versions, device, dtype, attention kernel) tokens per layer, FLOPs, bits and
    kept indices must be equal sample by sample. Elsewhere kept tokens must overlap by `overlap`, and means may drift
    by 2%. Scores are compared by a paired cluster bootstrap: they may fall by `margin` of the baseline's score. Equal
    scores are fine whatever their number; differing ones of fewer than 30 clusters are not enough evidence. A cell or
    sample that is missing, and a sample that fails now, is a regression; a new cell is a note.

    Args:
        baseline: from `read_baseline` or `make_baseline`.

    Raises:
        UserError: nothing to compare in the folder, or a margin or an overlap that makes no sense.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise UserError(f"The margin {margin} must be at least 0: it is the share of its score that a cell may lose.")
    if not 0 <= overlap <= 1:
        raise UserError(f"The overlap {overlap} must lie between 0 and 1.")
    now = make_baseline(folder)
    same = now["environment"] == baseline["environment"]
    old, new = ({c["key"]: c for c in side["cells"]} for side in (baseline, now))
    findings: list[Finding] = []
    if not same:
        findings.append(Finding("note", "", f"another environment than the baseline's: {_differing(baseline, now)}"))
    for name, before in old.items():
        if name not in new:
            findings.append(Finding("regression", name, f"is in the baseline and not in the folder; {MEND}"))
            continue
        exact = same and before["setting"] == new[name]["setting"]
        findings += (Finding(level, name, what) for level, what in _compare(before, new[name], exact, margin, overlap))
    findings += (Finding("note", name, "is new, with nothing to compare") for name in new if name not in old)
    levels = {f.level for f in findings}
    code = REGRESSION if "regression" in levels else UNPROVEN if "unproven" in levels else FINE
    return CheckResult(code, tuple(findings), same, len(old.keys() & new.keys()))


def _differing(baseline: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    a, b = baseline["environment"], now["environment"]
    sides = [{**e.get("libraries", {}), "device": e.get("device")} for e in (a, b)]
    names = sorted(n for n in {*sides[0], *sides[1]} if sides[0].get(n) != sides[1].get(n))
    return ", ".join(f"{n} {sides[0].get(n)} there and {sides[1].get(n)} here" for n in names) or "other fields"


def _compare(
    old: Mapping[str, Any], new: Mapping[str, Any], exact: bool, margin: float, overlap: float
) -> Iterator[tuple[Level, str]]:
    shared = [i for i in old["samples"] if i in new["samples"]]
    if missing := [i for i in old["samples"] if i not in new["samples"]]:
        yield "regression", f"lacks {_list(missing)} of the baseline; sweep them too, or {MEND}"
    changed = [i for i in shared if old["samples"][i]["input"] != new["samples"][i]["input"]]
    if changed:
        yield "unproven", f"has other data than the baseline in {_list(changed)}; {MEND}"
    pairs = {i: (old["samples"][i], new["samples"][i]) for i in shared if i not in set(changed)}
    for status in ("failed", "bad_input", "infeasible"):
        if worse := [i for i, (a, b) in pairs.items() if b["status"] == status != a["status"]]:
            yield "regression", f"is {status} now, and was not, in {_list(worse)}"
    done = {i: (a, b) for i, (a, b) in pairs.items() if {a["status"], b["status"]} <= {"ok", "infeasible"}}
    yield from _spending(done, exact)
    yield from _keeping(done, exact, overlap)
    yield from _scoring(old, new, pairs, margin)


def _spending(pairs: Mapping[str, tuple[Any, Any]], exact: bool) -> Iterator[tuple[Level, str]]:
    for field, name in (("tokens", "tokens per layer"), ("flops", "FLOPs"), ("bits", "bits")):
        if exact:
            if differing := [i for i, (a, b) in pairs.items() if a.get(field) != b.get(field)]:
                a, b = (side.get(field) for side in pairs[differing[0]])
                yield "regression", f"has other {name} in {_list(differing)}: {_brief(a)} before, {_brief(b)} now"
            continue
        both = [(a[field], b[field]) for a, b in pairs.values() if field in a and field in b]
        if not both:
            continue
        before, after = (sum(_total(pair[side]) for pair in both) / len(both) for side in (0, 1))
        if abs(after - before) > DRIFT * before:
            yield (
                "regression",
                f"has {name} {after:g} in the mean, {before:g} before, which is more than {DRIFT:.0%} apart",
            )


def _keeping(pairs: Mapping[str, tuple[Any, Any]], exact: bool, overlap: float) -> Iterator[tuple[Level, str]]:
    if exact:
        if differing := [i for i, (a, b) in pairs.items() if a.get("kept") != b.get("kept")]:
            yield "regression", f"keeps other tokens in {_list(differing)}"
        return
    found = [_jaccard(a["kept"], b["kept"]) for a, b in pairs.values() if "kept" in a and "kept" in b]
    if found and (mean := sum(found) / len(found)) < overlap:
        yield (
            "regression",
            f"keeps other tokens: an overlap of {mean:.3f} with the baseline's, and {overlap:g} is asked",
        )


def _jaccard(a: list[str], b: list[str]) -> float:
    """Of the stage where two selections agree least; 0 where their stages differ in number."""
    if len(a) != len(b):
        return 0.0
    sets = [(unpack(x), unpack(y)) for x, y in zip(a, b, strict=True)]
    return min((len(x & y) / len(x | y) if x | y else 1.0 for x, y in sets), default=1.0)


def _scoring(
    old: Mapping[str, Any], new: Mapping[str, Any], pairs: Mapping[str, tuple[Any, Any]], margin: float
) -> Iterator[tuple[Level, str]]:
    for name, about in old["metrics"].items():
        if name not in new["metrics"]:
            yield "regression", f"has no {name} any more"
            continue
        now = new["metrics"][name]
        if about["protocol"] != now["protocol"]:
            there, here = about["protocol"], now["protocol"]
            yield "unproven", f"has {name} under another protocol ({there!r} before, {here!r} now); {MEND}"
            continue
        if lost := [i for i, (a, b) in pairs.items() if name in a["scores"] and name not in b["scores"]]:
            yield "regression", f"has no {name} any more in {_list(lost)}"
        if now.get("of_set"):
            yield "note", f"has {name}, one figure of the set, which is not compared: what it rests on is, by sample"
            continue
        both = {i: p for i, p in pairs.items() if name in p[0]["scores"] and name in p[1]["scores"]}
        yield from _paired(name, both, about["higher_is_better"], margin)


def _paired(
    name: str, pairs: Mapping[str, tuple[Any, Any]], higher_is_better: bool, margin: float
) -> Iterator[tuple[Level, str]]:
    if recut := [i for i, (a, b) in pairs.items() if _counts(a, name) != _counts(b, name)]:
        yield "unproven", f"has other items under {name} in {_list(recut)}; {MEND}"
        return
    sides = [{i: _scored(p[side], name) for i, p in pairs.items()} for side in (0, 1)]
    got = pair([sides[0]], [sides[1]]) if pairs else None
    if got is None or got.identical:
        return
    change = f"has {name} {got.b:.5g}, {got.a:.5g} before"
    if got.n_clusters < ILLUSTRATIVE_BELOW:
        yield "unproven", f"{change}; {got.n_clusters} clusters are too few to tell ({ILLUSTRATIVE_BELOW} are needed)"
        return
    d = got.difference
    gain = d if higher_is_better else Interval(-d.value, -d.high, -d.low)
    allowed = margin * abs(got.a)
    verdict = noninferiority(gain, allowed)
    ends = (
        f"difference {d.value:+.4g}, 95% interval {d.low:+.4g} to {d.high:+.4g}, allowed loss {allowed:.4g}; "
        f"{got.n_samples} samples, {got.n_clusters} clusters"
    )
    if verdict == "regressed":
        yield "regression", f"{change}: {ends}"
    elif verdict == "not enough evidence":
        yield "unproven", f"{change}: {ends}"
    else:
        yield "note", f"{change}, within the margin: {ends}"


def _scored(sample: Mapping[str, Any], name: str) -> Scored:
    return Scored(sample["cluster"], {b: (total, count) for b, (total, count) in sample["scores"][name].items()})


def _counts(sample: Mapping[str, Any], name: str) -> dict[str, int]:
    return {b: count for b, (_, count) in sample["scores"][name].items()}


def _total(value: Any) -> float:
    """A count, or the mean over layers of a list of counts."""
    return sum(value) / max(len(value), 1) if isinstance(value, list) else float(value)


def _brief(value: Any) -> str:
    """Tokens per layer as runs: 12 x 576, 12 x 64."""
    if not isinstance(value, list):
        return str(value)
    runs: list[list[int]] = []
    for count in value:
        if runs and runs[-1][1] == count:
            runs[-1][0] += 1
        else:
            runs.append([1, count])
    return ", ".join(f"{times} x {count}" for times, count in runs)


def _list(ids: list[str]) -> str:
    what = "sample" if len(ids) == 1 else "samples"
    return f"{len(ids)} {what} ({', '.join(ids[:2])}{', ...' if len(ids) > 2 else ''})"

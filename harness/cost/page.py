"""Makes `README.md` of this folder: the published conventions, and which published figures agree with them.

python -m toksweep.harness.cost.page published_efficiency.csv > harness/cost/README.md
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from inspect import getdoc
from pathlib import Path

from ..models.published import load_config
from .agreement import (
    COMPARED,
    FITTED,
    INSIDE_LLM,
    NO_COUNT,
    NONE_FITS,
    QUANTISED,
    TOLERANCE,
    Figure,
    Finding,
    findings,
    implied_tokens,
    read_figures,
    text_length,
)
from .conventions import CONVENTIONS

LLAVA = "llava-hf/llava-1.5-7b-hf"
TEXT = 64


def page(table: Path) -> str:
    """The whole page, from a CSV of published figures (see `agreement.read_figures`)."""
    figures = read_figures(table)
    found = findings(figures)
    return "\n\n".join([conventions_part(), _agreement_part(found), _others_part(figures, found)]) + "\n"


def conventions_part() -> str:
    """What needs no published figures: the conventions and what they make of LLaVA-1.5-7B."""
    rows = []
    for name in COMPARED:
        about, formula, source = _about(name)
        full, cut = _tera(name, 576), _tera(name, 64)
        rows.append([f"`{name}`", about, formula, source, f"{full:.2f}", f"{cut:.2f}", f"{100 * cut / full:.0f}%"])
    values = [_tera(name, 576) for name in COMPARED]
    shares = [100 * _tera(name, 64) / _tera(name, 576) for name in COMPARED]
    head = ["name", "what is counted", "formula", "printed by", "576 tokens", "64 tokens", "left"]
    viewer, viewer_next = _tera("toksweep", 576), _tera("toksweep", 2880)
    return f"""# What papers count as FLOPs

Made by `python -m toksweep.harness.cost.page published_efficiency.csv`; every figure below is computed.

`toksweep cost` counts two operations per multiply-add, the text of the prompt, grouped keys as they are, all three FFN
matrices, attention scores, and `lm_head` on the last position, and shows vision tower, projector and the method's own
products in columns of their own. Papers count otherwise, and the same LLaVA-1.5-7B on the same 576 tokens comes to
anything from {min(values):.2f} to {max(values):.2f} TFLOPs. To set a printed figure beside ours, name its convention:

```bash
toksweep cost --model {LLAVA} --method divprune --budget 64 \\
  --flops-convention pio_fvlm --flops-convention hiprune
```

## The conventions

LLaVA-1.5-7B with {TEXT} text tokens, TFLOPs of the LLM; n visual tokens unless it says with text, at each of T layers
of width d and FFN width m. A cut inside the LLM is summed layer by layer. *Left* is what a paper would print as the
share of FLOPs that 64 of 576 tokens cost: the convention alone moves it from {min(shares):.0f}% to {max(shares):.0f}%.

{_table(head, rows)}

Figures of LLM-Viewer (FiCoCo 2411.17686, AIM) follow from no formula in a paper, and have no function. They come to
what our prefill counts with {TEXT} text tokens: {viewer:.1f} at 576 tokens and {viewer_next:.1f} at 2880, printed
8.5 and 42.7."""


def _agreement_part(found: Sequence[Finding]) -> str:
    rows = []
    for paper in dict.fromkeys(f.figure.paper for f in found):
        mine = [f for f in found if f.figure.paper == paper]
        agreeing = Counter(name for f in mine for name in f.agreeing)
        best = _best(mine)
        rows.append([paper, len(mine), *(agreeing[n] or "" for n in COMPARED), _examples(mine, best)])
    some = sum(bool(f.agreeing) for f in found)
    own = [bool(f.agreeing) for f in found if f.figure.method.startswith("DyCoke (K=")]
    return f"""## Which published figures agree

{len(found)} figures of {len(rows)} sources: TFLOPs, and shares of the full-token FLOPs other than 100%. {some} of them
agree within {TOLERANCE:.0%} with at least one convention, when a figure is read as printed: as many visual tokens at
every layer. Text lengths are the paper's where it states them (DivPrune, by benchmark). Elsewhere a convention that
counts text gets the length with which it gives the paper's first full-token figure, and is not credited with that
figure. How many agree with which, and examples as printed and as computed by the one that agrees most:

{_table(["source", "figures", *(f"`{n}`" for n in COMPARED), "examples"], rows)}

Several agree with one figure where they differ by less than {TOLERANCE:.0%} for the model at hand, as `pio_fvlm` and
`holitom` always do, or where only a share is printed, in which the unit cancels.

DyCoke prints the share of tokens that is left for decoding, after a second cut. What its prefill sees is
(1 + 3 (1 - K)) / 4 of the tokens; read so, {sum(own)} of the {len(own)} figures of its own method agree."""


def _others_part(figures: Sequence[Figure], found: Sequence[Finding]) -> str:
    reasons = []
    for why in (NO_COUNT, INSIDE_LLM, QUANTISED, FITTED, NONE_FITS):
        papers = Counter(f.figure.paper for f in found if f.why == why)
        reasons.append([why, papers.total(), ", ".join(f"{p} {n}" for p, n in papers.items())])
    implied = []
    for paper in dict.fromkeys(f.figure.paper for f in found):
        mine = [f for f in found if f.figure.paper == paper]
        if best := _best(mine):
            text, _ = text_length(figures, paper, best)
            for f in mine:
                if f.why in (INSIDE_LLM, NONE_FITS) and f.values and not f.figure.percent:
                    tokens = implied_tokens(f.figure, best, text)
                    values = [f"{f.figure.value:g}", f"{f.values[best]:.2f}", f"{tokens:.0f}"]
                    implied.append([paper, f.figure.method, f.figure.tokens, *values, f"`{best}`"])
    head = ["source", "method", "tokens printed", "TFLOPs printed", "computed", "tokens implied", "by"]
    return f"""## Why the others do not

{_table(["reason", "figures", "sources"], reasons)}

The last column but one says how many tokens at every layer would give the figure, by the convention that agrees most
with its source:

{_table(head, implied)}

- A count printed for a method that cuts inside the LLM is a mean over layers, the count after the cut, or what the
  method was set to; FLOPs tell which.
- EvoCut prints 2880 tokens for LLaVA-NeXT-7B, which is the most that a picture can have. Its full-token figure implies
  fewer, and its budgets of 160 imply more.
- LLaVA-Mini fuses all 576 tokens with the text before its LLM: its figures hardly fall with the count.
- DyCoke's full-token figure for the 0.5B model lies {_gap(found):.0%} below its own formula, for no cause that was
  found."""


def _gap(found: Sequence[Finding]) -> float:
    """Of DyCoke's full-token figure of the 0.5B model to its formula."""
    one = next(f for f in found if f.figure.paper == "DyCoke" and f.figure.full and "0.5b" in (f.figure.model or ""))
    return 1 - one.figure.value / one.values["dycoke"]


def _best(found: Sequence[Finding]) -> str | None:
    """The convention that most figures of a source agree with, its own where several do."""
    agreeing = Counter(name for f in found for name in f.agreeing)
    own = found[0].figure.paper.lower().replace("-", "_")
    return max(agreeing, key=lambda name: (agreeing[name], name == own), default=None)


def _examples(found: Sequence[Finding], best: str | None) -> str:
    agreeing = [f for f in found if best in f.agreeing]
    return ", ".join(_example(f, best) for f in agreeing[:1] + agreeing[1:][-1:] if best)


def _example(finding: Finding, name: str) -> str:
    figure = finding.figure
    unit, digits = ("%", 2) if figure.percent else (" T", 3)
    return f"{figure.value:g}{unit} as {finding.values[name]:.{digits}f}"


def _about(name: str) -> tuple[str, str, str]:
    """What is counted, the formula, and who prints it, from a convention's docstring."""
    if name not in CONVENTIONS:
        return "as said above", "our prefill", "`toksweep cost`"
    about, _, rest = (getdoc(CONVENTIONS[name]) or "").partition("\n\nFormula: ")
    formula, _, source = rest.partition("\nPrinted by: ")
    return " ".join(about.split()), formula, " ".join(source.split())


def _tera(name: str, tokens: int) -> float:
    config = load_config(LLAVA)
    return COMPARED[name](config, [tokens] * config.get_text_config().num_hidden_layers, TEXT) / 1e12


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(page(Path(sys.argv[1])))

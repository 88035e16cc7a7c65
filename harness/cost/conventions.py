"""FLOPs as papers print them: published conventions by name, to set a published figure beside ours.

What is printed for LLaVA-1.5-7B at 576 tokens differs by a factor of three, since papers count different things and
call all of them FLOPs. Every convention is one function of a configuration, the visual tokens at the input of every LLM
layer (as scheduled or executed) and the text tokens of the prompt. All of them cover the LLM alone: no vision tower, no
projector, no choice of tokens. In the formulas T layers of width d and FFN width m see n tokens each; attention is
written as if every head had its own keys, whatever the model does, unless it says otherwise.

`README.md` in this folder says which published figures agree with which. LLM-Viewer (FiCoCo, AIM) has no function here:
it counts two operations per multiply-add, three FFN matrices and the text, as our own prefill does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..contracts import UserError
from ..registry import near
from .closed_form import Llm

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FlopsConvention = Callable[["PretrainedConfig", Sequence[float], float], float]
"""Of a configuration, the visual tokens at every LLM layer, and the text tokens."""

DYCOKE_DECODED = 100
"""Output tokens that DyCoke counts."""


def pio_fvlm(config: PretrainedConfig, layers: Sequence[float], text_tokens: float) -> float:
    """Visual tokens only, one operation per multiply-add, two FFN matrices where Llama has three.

    Formula: T (4nd² + 2n²d + 2ndm)
    Printed by: PIO-FVLM (2602.04657), in the README of its repository; the formula is that of FastV (2403.06764)
    """
    return _fastv_formula(Llm.of(config), layers)


def divprune(config: PretrainedConfig, layers: Sequence[float], text_tokens: float) -> float:
    """As `pio_fvlm`, with the text tokens added, and layers before and after a cut summed.

    Formula: T (4nd² + 2n²d + 2ndm), n with text
    Printed by: DivPrune (2503.02175), `tflops.py` of its repository
    """
    return _fastv_formula(Llm.of(config), [n + text_tokens for n in layers])


def holitom(config: PretrainedConfig, layers: Sequence[float], text_tokens: float) -> float:
    """As `pio_fvlm`, kept for an LLM with grouped-query attention (Qwen2), whose keys and values cost less than that.

    Formula: T (4nd² + 2n²d + 2ndm)
    Printed by: HoliTom (2505.21334)
    """
    return _fastv_formula(Llm.of(config), layers)


def dycoke(config: PretrainedConfig, layers: Sequence[float], text_tokens: float) -> float:
    """As `holitom`, and the decoding of R = 100 output tokens.

    Formula: T (4nd² + 2n²d + 2ndm) + TR (4d² + 2dm + 2dn + d(R + 1))
    Printed by: DyCoke (2411.15024)
    """
    llm, decoded = Llm.of(config), DYCOKE_DECODED
    d, m = llm.width, llm.mlp
    return _fastv_formula(llm, layers) + sum(
        decoded * (4 * d * d + 2 * d * m + 2 * d * n + d * (decoded + 1)) for n in layers
    )


def pyramiddrop(config: PretrainedConfig, layers: Sequence[float], text_tokens: float) -> float:
    """Visual tokens only, one operation per multiply-add, all three FFN matrices.

    Formula: T (4nd² + 2n²d + 3ndm)
    Printed by: PyramidDrop (2410.17247) and those who follow it (HiDivDrop, SwiftVLM)
    """
    llm = Llm.of(config)
    d, m = llm.width, llm.mlp
    return sum(4 * n * d * d + 2 * n * n * d + 3 * n * d * m for n in layers)


def globalcom2(config: PretrainedConfig, layers: Sequence[float], text_tokens: float) -> float:
    """As `pyramiddrop`, two operations per multiply-add.

    Formula: 2T (4nd² + 2n²d + 3ndm)
    Printed by: GlobalCom² (2501.05179), Tables 8 and 9
    """
    return 2 * pyramiddrop(config, layers, text_tokens)


def hiprune(config: PretrainedConfig, layers: Sequence[float], text_tokens: float) -> float:
    """Two operations per weight and token, text and grouped keys as they are, `lm_head` on every position, and no
    attention scores: what a profiler reports that cannot look into a fused attention kernel.

    Formula: 2n (weights of the layers and of lm_head), n with text
    Printed by: HiPrune (2508.00553) and DiffPrune (2608.01985), neither of which states a formula
    """
    llm = Llm.of(config)
    layer = 2 * llm.width * (llm.queries + llm.groups) + 3 * llm.width * llm.mlp
    head = llm.width * llm.vocabulary * (layers[-1] + text_tokens)
    return 2 * (sum(layer * (n + text_tokens) for n in layers) + head)


def _fastv_formula(llm: Llm, tokens: Iterable[float]) -> float:
    d, m = llm.width, llm.mlp
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in tokens)


CONVENTIONS: dict[str, FlopsConvention] = {
    f.__name__: f for f in (pio_fvlm, divprune, holitom, dycoke, pyramiddrop, globalcom2, hiprune)
}


def flops_conventions(names: Iterable[str]) -> dict[str, FlopsConvention]:
    """Conventions by name.

    Raises:
        UserError: a name that is not among them.
    """
    found = {}
    for name in names:
        if name not in CONVENTIONS:
            raise UserError(
                f"There is no FLOPs convention {name!r}{near(name, CONVENTIONS)}; there are: {', '.join(CONVENTIONS)}."
            )
        found[name] = CONVENTIONS[name]
    return found

"""The one module that calls lmms-eval: loads its tasks, makes their prompts, scores answers and aggregates scores.

Importing lmms-eval takes seconds, so this is imported when an `lmms:` task is opened and no earlier.
"""

from __future__ import annotations

import copy
import inspect
import io
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

REASONING_TAGS = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'
"""Default of lmms-eval's command line, which strips these blocks, and white space around the rest, before scoring."""


@cache
def lmms_eval() -> Any:
    """The package, imported once, with what it changes in the process set back.

    It sends its log to the console, draws progress bars, and lets Pillow load truncated pictures half grey.
    """
    os.environ.setdefault("HF_HOME", str(Path("~/.cache/huggingface").expanduser()))  # its tasks read it when loaded
    from PIL import ImageFile

    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    import datasets
    import lmms_eval
    import lmms_eval.api.reasoning
    import lmms_eval.evaluator_utils
    import lmms_eval.protocol
    import lmms_eval.tasks
    from loguru import logger

    logger.remove()
    datasets.disable_progress_bars()
    ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    return lmms_eval


def load(name: str, yaml: Path, wrapper: str, changes: Mapping[str, object]) -> Any:
    """A task with the prompts of one of lmms-eval's wrappers, as its chat models get it.

    Args:
        yaml: the file that defines it; only its folder is indexed, since indexing all takes seconds.
        changes: to its configuration, such as a local `dataset_path`.

    Raises:
        tenacity.RetryError: its data cannot be loaded; the reason is its `last_attempt.exception()`.
    """
    manager = lmms_eval().tasks.TaskManager(
        "ERROR", include_path=[str(yaml.parent)], include_defaults=False, model_name=wrapper
    )
    tree = manager._load_individual_task_or_group({"task": name, **changes} if changes else name, task_type="chat")
    (task,) = tree.values()
    task.args = SimpleNamespace(output_path=None, process_with_media=False, reasoning_tags=REASONING_TAGS)
    task.set_config("num_fewshot", task.config.num_fewshot or 0)
    task.set_fewshot_seed(1234)
    return task


def messages(task: Any, number: int) -> Any:
    """The prompt of a document as chat messages. Pictures are decoded here."""
    asked = task.doc_to_messages(task.eval_docs[number])
    return lmms_eval().protocol.ChatMessages(messages=asked).messages


def targets(task: Any, number: int) -> tuple[str, ...]:
    """The reference answers of a document as texts; none where the task has no such thing or makes it elsewhere."""
    try:
        found = task.doc_to_target(task.eval_docs_no_media[number])
    except Exception:
        return ()  # scoring never asks for it in tasks with a `process_results` of their own
    return tuple(str(t) for t in (found if isinstance(found, list | tuple) else [found]) if t is not None)


def generation(task: Any) -> dict[str, Any]:
    """How a task wants its answers written."""
    return copy.deepcopy(task.config.generation_kwargs or {})


def score(task: Any, number: int, answer: str, seed: int) -> dict[tuple[str, str], object]:
    """What the task says of an answer, by metric and filter.

    Args:
        seed: some tasks guess where an answer cannot be read; each sample has draws of its own.
    """
    tools = lmms_eval().api.reasoning
    tags = tools.parse_reasoning_tags_config(REASONING_TAGS, task.config.reasoning_tags)
    doc = task.eval_docs_no_media[number]
    split = task.config.test_split if task.has_test_docs() else task.config.validation_split
    about = {"task": task.config.task, "doc_id": number, "repeats": task.config.repeats, "split": split}
    instance = task.construct_requests(doc_id=number, ctx="", metadata=about)
    instance.resps, instance.filtered_resps = [answer] * (task.config.repeats or 1), {}
    judge, scores = type(task).process_results, {}
    judge = getattr(judge, "__wrapped__", judge)  # it would try again for seconds and hide the reason
    with _seeded(seed):
        for ensemble in task._filters:
            ensemble.apply([instance], [doc])
            kept = instance.filtered_resps[ensemble.name]
            kept = tools.strip_reasoning_tags(kept, tags) if tags and isinstance(kept, str) else kept
            for metric, value in judge(task, copy.deepcopy(doc), [kept]).items():  # some edit the document
                scores[metric, ensemble.name] = value
    return scores


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def is_mean(function: Callable[..., object]) -> bool:
    """Is it lmms-eval's own mean?"""
    return function is lmms_eval().api.registry.AGGREGATION_REGISTRY["mean"]


@cache
def aggregations(yaml: Path) -> Mapping[str, Callable[..., object]]:
    """The aggregation functions of the task that a file defines, by metric, without its data."""
    from lmms_eval.api.registry import get_aggregation
    from lmms_eval.utils import load_yaml_config

    lmms_eval()
    config = load_yaml_config(str(yaml), mode="full")
    named = {m["metric"]: m["aggregation"] for m in config["metric_list"] if "aggregation" in m}
    return {k: get_aggregation(v) if isinstance(v, str) else v for k, v in named.items()}


def aggregate(function: Callable[..., object], values: Sequence[object]) -> float:
    """The figure of a set. The function gets a folder for files that it may write, and clean module globals; it may
    change the values.

    Raises:
        ValueError: it gives no number.
    """
    writes = "args" in inspect.signature(function).parameters
    with _clean_globals(function), tempfile.TemporaryDirectory() if writes else nullcontext() as folder:
        args = SimpleNamespace(output_path=folder, process_with_media=False, reasoning_tags=REASONING_TAGS)
        with redirect_stdout(io.StringIO()):  # OCRBench prints a table, and standard output is ours
            found = function(list(values), **({"args": args} if writes else {}))
    if isinstance(found, bool | int | float | np.number):
        return float(found)
    raise ValueError(f"the aggregation gives a {type(found).__name__}, which is no number")


@contextmanager
def _clean_globals(function: Callable[..., object]) -> Iterator[None]:
    """What a function adds up in its module (OCRBench does) must not reach the next cell."""
    space = getattr(inspect.unwrap(function), "__globals__", {})
    kept = {k: copy.deepcopy(v) for k, v in space.items() if type(v) in (dict, list, set) and k != "__builtins__"}
    try:
        yield
    finally:
        space.update(kept)

"""Looks at every task of an lmms-eval: what it shows, what its scoring reaches, whether it loads; makes the catalogue.

What scoring reaches is found in the syntax trees of the functions that a YAML file names and of all that they use, so
it errs on the side of refusing: a branch that is never taken counts.
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .catalogue import Row, group_note, members, read_yaml

JUDGES = frozenset((
    "openai", "OpenAI", "AzureOpenAI", "anthropic", "genai", "get_server", "ProviderFactory", "llm_judge",
    "get_chat_response", "get_eval", "get_judge_response", "API_URL", "OPENAI_API_KEY", "OPENAI_API_URL",
    "AZURE_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "dashscope", "judge_model",
))  # fmt: skip
JAVA = frozenset(("pycocoevalcap", "COCOEvalCap", "PTBTokenizer", "Meteor", "Spice"))
SIBLINGS = {
    "mmbench_en_dev": "mmbench_en_dev_static", "egoschema": "egoschema_subset", "mmbench_en": "mmbench_en_dev_static",
    "mmbench": "mmbench_en_dev_static", "textvqa": "textvqa_val", "textvqa_test": "textvqa_val",
    "vqav2": "vqav2_val", "vqav2_test": "vqav2_val", "docvqa_test": "docvqa_val", "infovqa_test": "infovqa_val",
    "vizwiz_vqa_test": "vizwiz_vqa_val", "mathvista_testmini": "",
}  # fmt: skip
OFFLINE = frozenset(("mmbench_en_dev_static",))
"""Reach a judge's code in a branch that they never take; read by hand."""


def survey(folder: Path) -> list[Row]:
    """Rows of all names in lmms-eval's folder of tasks. Runs the module code of every task: takes minutes."""
    from . import library

    library.lmms_eval()
    rows: dict[str, Row] = {}
    tags: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        with contextlib.suppress(Exception):  # templates and data in YAML that are no tasks
            data = read_yaml(path)
            for row in _rows(path, folder, data):
                rows.setdefault(row.name, row)
            labels = data.get("tag") or []
            for tag in [labels] if isinstance(labels, str) else labels:
                if isinstance(data.get("task"), str):
                    tags.setdefault(tag, []).append(data["task"])
    for tag, tagged in tags.items():
        rows.setdefault(tag, Row(tag, "tag", members=tuple(sorted(set(tagged)))))
    return [_settled(row, rows) for _, row in sorted(rows.items())]


def _rows(path: Path, folder: Path, data: Mapping[str, Any]) -> Iterator[Row]:
    file = str(path.relative_to(folder))
    task, group = data.get("task"), data.get("group")
    if isinstance(task, list) and isinstance(group, str):
        yield Row(group, "group", members=members(task), file=file, note=group_note(data))
    if not isinstance(task, str):
        return
    output = str(data.get("output_type", "generate_until"))
    media = media_of(path, data)
    source = str(data.get("dataset_path", ""))
    token = bool((data.get("dataset_kwargs") or {}).get("token"))
    reason = "it is a Python class, and we run tasks of YAML files" if "class" in data else ""
    reason = reason or _reason(path, data, task, output, media)
    note = "loading it reads all pictures, whatever the limit" if _reads_all(path, data) else ""
    yield Row(
        task, output=output, media=media, data=source, token=token, file=file, reason=reason,
        sibling=SIBLINGS.get(task, "") if reason else "", note=note,
    )  # fmt: skip


def _settled(row: Row, rows: Mapping[str, Row]) -> Row:
    """A group with what its members are."""
    from dataclasses import replace

    if row.kind == "task":
        return row
    found = [leaf for leaf in _leaves(row, rows) if leaf is not None]
    media = sorted({leaf.media for leaf in found})
    bad = [leaf for leaf in found if leaf.reason]
    reason = "" if found and not bad else f"of {len(found)} tasks, {len(bad)} are not ours to run"
    if bad:
        reason += f", such as {bad[0].name}: {bad[0].reason}"
    shown = "video" if "video" in media else media[0] if media else ""
    return replace(
        row, media=shown, token=any(leaf.token for leaf in found), reason=reason,
        sibling=SIBLINGS.get(row.name, "") if reason else "",
    )  # fmt: skip


def _leaves(row: Row, rows: Mapping[str, Row], depth: int = 0) -> Iterator[Row]:
    if row.kind == "task" or depth > 8:
        yield row
        return
    for member in row.members:
        if member in rows:
            yield from _leaves(rows[member], rows, depth + 1)


def _reason(path: Path, data: Mapping[str, Any], task: str, output: str, media: str) -> str:
    if output != "generate_until":
        return f"its output type is {output}, and we run generate_until"
    if media == "text":
        return "it shows no picture"
    if media == "audio":
        return "it needs audio, which no family of ours hears"
    metrics = [m["metric"] for m in data.get("metric_list") or [] if isinstance(m, dict) and "metric" in m]
    if metrics and all("submission" in str(m) for m in metrics):
        return "its answers are scored by a submission server"
    used = _used(path, _scoring(data))
    if used & JAVA:
        return "its scores need Java (pycocoevalcap)"
    if used & JUDGES and task not in OFFLINE:
        return "its scores can ask a judge or an API"
    return _unloadable(path)


def _unloadable(path: Path) -> str:
    """Why its configuration cannot be loaded here."""
    from lmms_eval.utils import load_yaml_config

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            load_yaml_config(str(path), mode="full")
    except ModuleNotFoundError as error:
        return f"it needs the package {error.name}, which lmms-eval does not install"
    except (ConnectionError, OSError) as error:
        if isinstance(error, FileNotFoundError) and "Hub" not in str(error):
            return f"it cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
        return ""  # it reads a file of the hub's, which may be out of reach here and now
    except BaseException as error:  # a task's module may exit
        if type(error).__name__ == "OpenAIError":
            return "it needs an API key as soon as it is loaded"
        return f"it cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
    return ""


def _scoring(data: Mapping[str, Any]) -> list[str]:
    found = [data.get("process_results"), data.get("process_docs")]
    for metric in data.get("metric_list") or []:
        if isinstance(metric, dict) and "submission" not in str(metric.get("metric")):
            found.append(metric.get("aggregation"))
    return [f for f in found if isinstance(f, str)]


def media_of(path: Path, data: Mapping[str, Any]) -> str:
    """image, video, audio or text: what a task shows, by the words of the functions that show it."""
    shown = [f for f in (data.get("doc_to_visual"), data.get("doc_to_messages")) if isinstance(f, str)]
    if not shown:
        return "text"
    used = {str(word).lower() for word in _used(path, shown)} | {f.lower() for f in shown}
    if any("audio" in word for word in used) and not any("video" in word or "image" in word for word in used):
        return "audio"
    return "video" if any("video" in word or word.endswith(".mp4") for word in used) else "image"


def _reads_all(path: Path, data: Mapping[str, Any]) -> bool:
    """GQA's way: pictures come from a second data set, which is read as a whole."""
    made = [f for f in (data.get("doc_to_visual"), data.get("process_docs")) if isinstance(f, str)]
    return "load_dataset" in _used(path, made)


# ------------------------------------------------------------------------------------------------------ syntax trees


def _used(path: Path, functions: Iterable[str]) -> frozenset[str]:
    """Names, attributes and short texts in functions of the YAML file's folder and in all that they use."""
    found: set[str] = set()
    for function in functions:
        if function.startswith("!function "):
            module, _, name = function.removeprefix("!function ").rpartition(".")
            _follow(_module(path.parent, module), name, found, set())
    return frozenset(found)


def _module(folder: Path, dotted: str) -> Path:
    return folder.joinpath(*dotted.split(".")).with_suffix(".py")


def _follow(file: Path, name: str, found: set[str], seen: set[tuple[Path, str]]) -> None:
    if (file, name) in seen or not file.is_file():
        return
    seen.add((file, name))
    defined, imported = _parsed(file)
    if name in imported:
        source, original = imported[name]
        found.update((original, *source.split(".")))
        for target, wanted in _targets(file, source, original):
            _follow(target, wanted, found, seen)
    for node in defined.get(name, ()):
        for inner in ast.walk(node):
            words = [getattr(inner, "id", None), getattr(inner, "attr", None)]
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and len(inner.value) < 40:
                words.append(inner.value)
            if isinstance(inner, ast.Import | ast.ImportFrom):
                words += [a.name for a in inner.names] + [getattr(inner, "module", None)]
            for word in filter(None, words):
                found.add(word)
                if isinstance(inner, ast.Name):
                    _follow(file, word, found, seen)


@cache
def _parsed(file: Path) -> tuple[dict[str, list[ast.stmt]], dict[str, tuple[str, str]]]:
    """What a module defines, by name, and where its imported names come from."""
    defined: dict[str, list[ast.stmt]] = {}
    imported: dict[str, tuple[str, str]] = {}
    try:
        body = ast.parse(file.read_text(encoding="utf-8", errors="replace")).body
    except SyntaxError:
        return {}, {}
    waiting = list(body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            defined.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    defined.setdefault(target.id, []).append(node)
        elif isinstance(node, ast.ImportFrom):
            imported |= {a.asname or a.name: ("." * node.level + (node.module or ""), a.name) for a in node.names}
        elif isinstance(node, ast.Import):
            imported |= {(a.asname or a.name).split(".")[0]: (a.name, "") for a in node.names}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            waiting[:0] = (
                node.body + getattr(node, "orelse", []) + [s for h in getattr(node, "handlers", []) for s in h.body]
            )
    return defined, imported


def _targets(file: Path, source: str, original: str) -> Iterator[tuple[Path, str]]:
    """Files of lmms-eval's that an import may mean."""
    if source.startswith("."):
        base = file.parents[len(source) - len(source.lstrip(".")) - 1].joinpath(
            *filter(None, source.lstrip(".").split("."))
        )
    elif source.startswith("lmms_eval."):
        root = next((p for p in file.parents if p.name == "lmms_eval"), None)
        if root is None:
            return
        base = root.joinpath(*source.split(".")[1:])
    else:
        base = file.parent.joinpath(*source.split("."))  # lmms-eval puts a task's folder on the path
    yield base.with_suffix(".py"), original
    yield base / "__init__.py", original

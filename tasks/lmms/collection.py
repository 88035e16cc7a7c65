"""The collection `lmms`: tasks of lmms-eval by name, with what stands in the way said before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...harness.contracts import GroupFigure, UserError
from ...harness.registry import collection
from .catalogue import Row, find, leaves, read_yaml, shipped, tasks_folder
from .wrappers import wrapper_of

if TYPE_CHECKING:
    from .borrowed import LmmsTask

log = logging.getLogger("toksweep")


@collection("lmms")
class Lmms:
    """Visual generate-until tasks of lmms-eval 0.7.3 and later, with its prompts, scores and aggregation."""

    def expand(self, name: str, include: Sequence[str], *, copied: bool) -> tuple[str, ...]:
        row = find(name, include)
        found = list(leaves(row, include))
        for leaf in found if not row.reason else [row]:
            if leaf.reason:
                mend = f" Take lmms:{leaf.sibling}, which asks the same." if leaf.sibling else ""
                raise UserError(f"lmms:{leaf.name} is not ours to run: {leaf.reason}.{mend}")
        if not copied:
            for leaf in found:
                _check_token(leaf)
        return tuple(dict.fromkeys(leaf.name for leaf in found))

    def figures(self, name: str, include: Sequence[str]) -> tuple[GroupFigure, ...]:
        row = find(name, include)
        if row.kind != "group":
            return ()
        if row.note:
            log.warning("lmms:%s: %s", name, row.note)
        members = tuple(dict.fromkeys(leaf.name for leaf in leaves(row, include)))
        return tuple(
            GroupFigure(name, members, str(asked["metric"]), bool(asked.get("weight_by_size", False)))
            for asked in read_yaml(tasks_folder() / row.file).get("aggregate_metric_list") or ()
            if asked.get("aggregation", "mean") == "mean"
        )

    def family(self, name: str, include: Sequence[str]) -> str:
        return find(name, include).family

    def open(
        self, name: str, *, family: str, include: Sequence[str], folder: Path | None,
        pixels: tuple[int | None, int | None] = (None, None),
    ) -> LmmsTask:  # fmt: skip
        from tenacity import RetryError

        from . import library
        from .borrowed import LmmsTask

        row = find(name, include)
        yaml = tasks_folder() / row.file
        if folder is None:
            _check_reachable(row)
        if row.note:
            log.warning("lmms:%s: %s", name, row.note)
        wrapper = wrapper_of(family).limited(*pixels)
        try:
            task = library.load(name, yaml, wrapper.name, _copy(folder, yaml) if folder else {})
        except RetryError as error:
            fault = error.last_attempt.exception()
            first = (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")
            raise UserError(
                f"The data of lmms:{name} ({folder or row.data}) cannot be loaded: {first}. {_mend(name)}"
            ) from error
        except (ImportError, AttributeError, OSError, ValueError, KeyError) as error:
            raise UserError(f"lmms:{name} cannot be loaded: {type(error).__name__}: {error}.") from error
        opened = LmmsTask(name, yaml, task, wrapper)
        opened.generation  # noqa: B018 - a task that wants its answers sampled is refused here
        return opened

    def rows(self) -> Iterator[Mapping[str, object]]:
        """Names that show a picture; those that show none are refused with that reason."""
        stated, table = shipped()
        for row in table.values():
            if row.media == "text":
                continue
            shows = f"{row.kind} of {len(row.members)}" if row.members else row.output
            shows += f"; {row.note}" if row.note else ""
            mend = f"; take lmms:{row.sibling}" if row.sibling else ""
            yield {
                "name": f"lmms:{row.name}",
                "family": row.family,
                "metrics": [],
                "builtin": False,
                "licence": None,
                "summary": f"not ours: {row.reason}{mend}"
                if row.reason
                else f"lmms-eval {stated}, {row.media}, {shows}",
            }


def _check_token(row: Row) -> None:
    """Raises UserError where lmms-eval will ask the hub with a token that is not there."""
    from huggingface_hub import get_token

    if row.token and not Path(row.data).exists() and get_token() is None:
        raise UserError(
            f"lmms:{row.name} asks the hub for {row.data} with a token, and none is stored: run `hf auth login` or set "
            f"HF_TOKEN. {_mend(row.name)}"
        )


def _check_reachable(row: Row) -> None:
    """Raises UserError where the hub can neither be reached nor was before; lmms-eval itself would try for a minute."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HTTPError

    if row.data.count("/") != 1 or Path(row.data).exists():
        return  # a builder of `datasets`, or files
    if Path(HF_HUB_CACHE, f"datasets--{row.data.replace('/', '--')}").is_dir():
        return
    try:
        HfApi().dataset_info(row.data, timeout=10)
    except (OSError, HTTPError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"The data of lmms:{row.name} is {row.data} on the Hugging Face hub, which cannot be had ({first}). "
            f"{_mend(row.name)}"
        ) from error


def _mend(name: str) -> str:
    return f"A local copy will do: --data lmms:{name}=DIR, with the files of the data set."


def _copy(folder: Path, yaml: Path) -> dict[str, object]:
    """What makes a task read a local copy of its data."""
    config = read_yaml(yaml)
    subset = config.get("dataset_name")
    readme = folder / "README.md"
    stated = readme.is_file() and f"config_name: {subset}" in readme.read_text(encoding="utf-8", errors="replace")
    return {"dataset_path": str(folder.resolve()), "dataset_name": subset if stated else None, "dataset_kwargs": None}

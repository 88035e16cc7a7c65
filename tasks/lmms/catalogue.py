"""The table of lmms-eval's tasks that ships with us: which are ours to run, and why not; made by a command.

`python -m toksweep.tasks.lmms.catalogue` writes `catalogue.csv` for the installed lmms-eval. Looking something up
imports nothing of lmms-eval.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from ...harness.contracts import UserError
from ...harness.registry import near

log = logging.getLogger("toksweep")
YES = "yes"
TABLE = Path(__file__).with_name("catalogue.csv")


@dataclass(frozen=True)
class Row:
    """What is known of a name without loading it.

    Attributes:
        kind: task, group or tag.
        output: lmms-eval's output type; empty for groups.
        media: image, video, audio, or text.
        data: hub id of the data, or what else `datasets` takes.
        token: the hub is asked with a stored token, even for public data.
        file: the YAML file, below lmms-eval's folder of tasks, or the path of a user's.
        members: of a group or tag.
        reason: why it is not ours to run; empty where it is.
        sibling: a task that asks the same and is ours.
        note: what to know before it starts, or of a group what is left out.
    """

    name: str
    kind: str = "task"
    output: str = ""
    media: str = ""
    data: str = ""
    token: bool = False
    file: str = ""
    members: tuple[str, ...] = ()
    reason: str = ""
    sibling: str = ""
    note: str = ""

    @property
    def family(self) -> str:
        return "video_qa" if self.media == "video" else "vqa"


def tasks_folder() -> Path:
    """lmms-eval's own folder of tasks, found without importing it.

    Raises:
        UserError: lmms-eval is not installed.
    """
    found = importlib.util.find_spec("lmms_eval")
    if found is None or not found.submodule_search_locations:
        raise UserError("lmms: tasks need lmms-eval: pip install 'lmms-eval[video-legacy]>=0.7.3,<0.8'.")
    return Path(found.submodule_search_locations[0]) / "tasks"


@cache
def catalogue() -> Mapping[str, Row]:
    """All names of the installed lmms-eval. Another version than the shipped table's is surveyed once, and cached."""
    stated, rows = read(TABLE)
    installed = version("lmms-eval")
    if stated == installed:
        return rows
    kept = Path("~/.cache/toksweep").expanduser() / f"lmms-eval-{installed}.csv"
    if not kept.is_file():
        log.warning(
            "lmms-eval %s is installed, and our table of its tasks is of %s: making another, which takes minutes",
            installed, stated,
        )  # fmt: skip
        from .survey import survey

        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(write(installed, survey(tasks_folder())), encoding="utf-8")
    return read(kept)[1]


def shipped() -> tuple[str, Mapping[str, Row]]:
    """The shipped table and the version that it is of."""
    return read(TABLE)


def own_tasks(folders: Iterable[str]) -> dict[str, Row]:
    """The tasks and groups of a user's folders. Their YAML is read; no Python is run."""
    from .survey import media_of

    found: dict[str, Row] = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.yaml")):
            data = read_yaml(path)
            named = data.get("task")
            if isinstance(named, str):
                media = media_of(path, data)
                source = str(data.get("dataset_path", ""))
                found[named] = Row(
                    named, output=str(data.get("output_type", "generate_until")), media=media, data=source,
                    token=bool((data.get("dataset_kwargs") or {}).get("token")) and "/" in source,
                    file=str(path.resolve()), reason=_own_reason(data),
                )  # fmt: skip
            elif isinstance(named, list) and isinstance(data.get("group"), str):
                found[data["group"]] = Row(
                    data["group"], "group", members=members(named), file=str(path.resolve()), note=group_note(data)
                )
    return found


def group_note(data: Mapping[str, Any]) -> str:
    """What is left out of a group: a figure that is no mean of its tasks' figures."""
    asked = data.get("aggregate_metric_list") or ()
    own = [str(a.get("metric")) for a in asked if isinstance(a, dict) and a.get("aggregation", "mean") != "mean"]
    if not own:
        return ""
    return (
        f"its tasks are run; its own {', '.join(own)} are not, for a Python function makes them of its tasks' figures"
    )


def members(listed: Iterable[Any]) -> tuple[str, ...]:
    """Names in a group's list, whose parts may be groups written out."""
    found: list[str] = []
    for part in listed:
        inner = part.get("task") if isinstance(part, dict) else part
        found += members(inner) if isinstance(inner, list) else [str(inner)]
    return tuple(found)


def _own_reason(data: Mapping[str, Any]) -> str:
    if "class" in data:
        return "it is a Python class, and we run tasks of YAML files"
    output = str(data.get("output_type", "generate_until"))
    return "" if output == "generate_until" else f"its output type is {output}, and we run generate_until"


def find(name: str, folders: Sequence[str]) -> Row:
    """A name of lmms-eval's or of a user's folder; lmms-eval's own win, as they do there.

    Raises:
        UserError: an unknown name; near names are listed.
    """
    known, own = catalogue(), own_tasks(folders)
    found = known.get(name) or own.get(name)
    if found is None:
        close = near(name, [*own, *known])
        raise UserError(
            f"lmms-eval has no task {name!r}{close}. See all: toksweep list tasks; yours: --include-path DIR."
        )
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """A task's YAML with what it includes, a function being the text `!function utils.score`."""
    data = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe loader that knows one more tag
    data = data if isinstance(data, dict) else {}
    included = data.pop("include", [])
    whole: dict[str, Any] = {}
    for other in reversed([included] if isinstance(included, str) else included):
        at = Path(other) if Path(other).is_file() else path.parent / other
        whole |= read_yaml(at) if at.is_file() else {}
    return whole | data


class _Loader(yaml.SafeLoader):
    """Safe YAML with lmms-eval's `!function`."""


_Loader.add_constructor("!function", lambda _, node: f"!function {node.value}")


def read(path: Path) -> tuple[str, dict[str, Row]]:
    """The version that a table is of, and its rows by name."""
    first, _, rest = path.read_text(encoding="utf-8").partition("\n")
    rows = {}
    for line in csv.DictReader(io.StringIO(rest)):
        values: dict[str, Any] = dict(line)
        values |= {"token": line["token"] == YES, "members": tuple(line["members"].split())}
        rows[line["name"]] = Row(**values)
    return first.removeprefix("# lmms-eval ").strip(), rows


def write(stated: str, rows: Iterable[Row]) -> str:
    """A table as text."""
    out = io.StringIO()
    names = [f.name for f in fields(Row)]
    table = csv.DictWriter(out, names, lineterminator="\n")
    out.write(f"# lmms-eval {stated}\n")
    table.writeheader()
    table.writerows(_plain(row) for row in rows)
    return out.getvalue()


def _plain(row: Row) -> dict[str, str]:
    values = {f.name: getattr(row, f.name) for f in fields(Row)}
    return values | {"token": YES if row.token else "", "members": " ".join(row.members)}


def leaves(row: Row, folders: Sequence[str]) -> Iterator[Row]:
    """The tasks of a group or tag, at any depth; a task is its own."""
    if row.kind == "task":
        yield row
        return
    for member in row.members:
        yield from leaves(find(member, folders), folders)


if __name__ == "__main__":
    from .survey import survey

    TABLE.write_text(write(version("lmms-eval"), survey(tasks_folder())), encoding="utf-8")

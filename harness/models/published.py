"""Configurations of models: from a local folder, from what comes with the package, else from the hub.

The stored ones are the hub's `config.json` as far as the architecture needs it, so that costs are known and plans are
made without weights and without a network. A stored `<org>--<name>.json` answers for the hub id `<org>/<name>`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..contracts import UserError
from .embedded import embedded

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_STORE = Path(__file__).with_name("configs")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def stored_configs() -> list[str]:
    """Hub ids whose configuration is stored with us; answers without importing torch."""
    return sorted(path.stem.replace("--", "/", 1) for path in _STORE.glob("*.json"))


def stored_path(ref: str) -> Path:
    """Where the configuration of a hub id would be stored."""
    return _STORE / f"{ref.replace('/', '--')}.json"


def local_folder(ref: str) -> Path | None:
    """The folder of a model that comes with the package, by its name, or the one that `ref` is the path of."""
    path = Path(ref).expanduser()
    return embedded().get(ref) or (path if path.is_dir() else None)


def load_config(ref: str) -> PretrainedConfig:
    """The configuration of a model: `ref` is the name of an embedded one, a folder with a `config.json`, or a hub id.

    A folder wins over the store, the store over the hub; code that comes with a checkpoint is never run.

    Raises:
        UserError: a folder without `config.json`, a file that is no configuration, a class that transformers does not
            know, a reference that is neither folder nor hub id, or a hub id that cannot be reached.
    """
    from transformers import AutoConfig

    folder, stored = local_folder(ref), stored_path(ref)
    if folder:
        source = folder / "config.json"
        if not source.is_file():
            raise UserError(f"{ref} has no config.json: give the folder that save_pretrained wrote.")
    elif stored.is_file() and ref in stored_configs():
        source = stored
    elif not _HUB_ID.fullmatch(ref):
        raise UserError(f"{ref!r} is neither an embedded model, nor a folder, nor a hub id like org/name{_known()}")
    else:
        return _from_hub(ref)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            str(source), trust_remote_code=False, local_files_only=True
        )
        return config
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source} cannot be read as a model configuration: {_first_line(error)}.") from error


def hub_revision(ref: str) -> str:
    """The commit that a hub id stands for: the hub's newest, without a network the one in the local cache.

    Raises:
        UserError: neither can be had.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError  # that of httpx or httpx2

    try:
        sha: str | None = HfApi().model_info(ref, timeout=10).sha
        if sha:
            return sha
        fault: Exception = ValueError("it names no commit")
    except (OSError, HTTPError) as error:
        fault = error
    try:
        return Path(snapshot_download(ref, local_files_only=True)).name
    except OSError as error:
        raise UserError(
            f"{ref} cannot be fetched from the hub ({_first_line(fault)}) and is not in the local cache: "
            "check the id and the network, or give a local folder."
        ) from error


def _from_hub(ref: str) -> PretrainedConfig:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # that of httpx or httpx2
    from transformers import AutoConfig

    fault: Exception | None = None
    try:
        # Without a network this fails at once, while fetching a file retries for half a minute.
        revision = HfApi().model_info(ref, timeout=10).sha or "main"
    except (OSError, HTTPError) as error:
        fault, revision = error, "main"
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            ref, revision=revision, local_files_only=fault is not None, trust_remote_code=False
        )
        return config
    except OSError as error:
        raise UserError(
            f"The configuration of {ref} cannot be fetched from the hub ({_first_line(fault or error)}): check the id "
            f"and the network, or give a local folder{_known()}"
        ) from error
    except (ValueError, KeyError) as error:
        raise UserError(f"{ref} cannot be used: {_first_line(error)}.") from error


def _known() -> str:
    return "; toksweep list models shows what is at hand without a network."


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

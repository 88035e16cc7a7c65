"""Where the weights of a tokenizer come from: a folder, what comes with the package, else the hub."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from .contracts import UserError
from .digest import digest, file_digest
from .registry import ROOT

EMBEDDED = Path(__file__).parent / "models" / "embedded" / "tokenizers"
PUBLISHED = ROOT / "methods" / "tokenizers" / "published.csv"
_DETERMINING = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.jit", "*.json")


def embedded_tokenizers() -> dict[str, Path]:
    """Folders of the tokenizers that come with the package, by name."""
    return {path.parent.name: path.parent for path in sorted(EMBEDDED.glob("*/config.json"))}


@dataclass(frozen=True)
class Published:
    """A checkpoint that others released, by the name that we give it, and what its authors say of it; or one of ours.

    Attributes:
        method: the tokenizer that loads it.
        library_class: of the library that holds the architecture; empty where that is ours.
        hub, subfolder: where it is; of ours, `hub` is its name.
        tokens: of a picture of 256 x 256; the most, where it varies.
        codes: the size of the code book, of all books of a token together; None of continuous latents.
        channels: numbers of a continuous token; None of discrete ones.
        bits_per_pixel: at 256 x 256 and, of continuous latents, 16 bits a number.
    """

    name: str
    method: str
    library_class: str
    hub: str
    subfolder: str
    tokens: int | None
    codes: int | None
    channels: int | None
    bits_per_pixel: float | None


@cache
def published() -> Mapping[str, Published]:
    """The released checkpoints that tokenizers know by name."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: Published(
            row["name"],
            row["method"],
            row["library_class"],
            row["hub"],
            row["subfolder"],
            _whole(row["tokens"]),
            _whole(row["codes"]),
            _whole(row["channels"]),
            float(row["bits_per_pixel"]) if row["bits_per_pixel"] else None,
        )
        for row in rows
    }


def known_to(method: str) -> list[str]:
    """Names of the released checkpoints that a tokenizer loads."""
    return [p.name for p in published().values() if p.method == method]


def _whole(text: str) -> int | None:
    return int(text) if text else None


@dataclass(frozen=True)
class Checkpoint:
    """A folder, or a folder of a hub repository at one commit.

    Attributes:
        folder: None on the hub.
        repository: hub id, None for a folder.
        subfolder: of either.
        pinned: the commit of a hub id that is given as `org/name@COMMIT`.
    """

    folder: Path | None
    repository: str | None
    subfolder: str = ""
    pinned: str = ""

    def __str__(self) -> str:
        return str(PurePosixPath(self.folder or self.repository or "", self.subfolder))

    def revision(self) -> str:
        """A digest of local files, or the hub's commit.

        Raises:
            UserError: no weights in the folder, or a hub that knows no such repository or cannot be reached.
        """
        if self.folder is None:
            assert self.repository
            return self.pinned or _commit(self.repository)
        place = self.folder / self.subfolder
        found = sorted({path for pattern in _DETERMINING for path in place.glob(pattern)})
        if not any(path.suffix != ".json" for path in found):
            raise UserError(f"{place} holds no weights: a tokenizer needs a *.safetensors file beside its config.json.")
        return digest([[path.name, file_digest(path)] for path in found])

    def local(self, *only: str) -> Path:
        """The folder with its files, fetched from the hub where they are not at hand.

        Args:
            only: patterns of the files that are needed; all by default.

        Raises:
            UserError: damaged files, or a hub that cannot be reached.
        """
        from .models.loading import check_sums

        if self.folder is not None:
            check_sums(self.folder / self.subfolder)
            return self.folder / self.subfolder
        from huggingface_hub import snapshot_download

        assert self.repository
        inside = [str(PurePosixPath(self.subfolder, name)) for name in only or ("*",)]
        try:
            fetched = snapshot_download(self.repository, revision=self.revision(), allow_patterns=inside)
        except OSError as error:
            raise UserError(
                f"{self.repository} cannot be fetched ({error}): check the network, or give a folder."
            ) from error
        return Path(fetched) / self.subfolder


def checkpoint(ref: str, subfolder: str = "") -> Checkpoint:
    """The checkpoint of a name that comes with the package, of a folder, or of a hub id like `org/name[@COMMIT]`.

    Raises:
        UserError: none of these.
    """
    folder = Path(ref).expanduser()
    if own := embedded_tokenizers().get(ref):
        return Checkpoint(own, None, subfolder)
    if folder.is_dir():
        return Checkpoint(folder, None, subfolder)
    repository, pin, pinned = ref.partition("@")
    if pin and not re.fullmatch("[0-9a-f]{7,40}", pinned):
        raise UserError(f"{ref!r} names no commit behind the @: write its hexadecimal digits, since a branch moves on.")
    if repository.count("/") != 1 or not all(repository.split("/")):
        known = ", ".join(embedded_tokenizers())
        raise UserError(f"{ref!r} is neither a folder, nor a hub id like org/name, nor one of ours ({known}).")
    return Checkpoint(None, repository, subfolder, pinned)


@cache
def _commit(repository: str) -> str:
    """Asked for once per process."""
    from .models.published import hub_revision

    return hub_revision(repository)

"""What a pack is: `header | BASE | OVERLAY`, the tokens that stand in front of a request.

`Pack` is immutable; a new version is a new object, so a swap is one assignment. Its base is frozen; a save appends
segments to its overlay (`infbox.pack.overlay`), until a rebase makes a new base (`infbox.pack.rebase`). `Writer` turns
files and changes into segments with a tokenizer's format. `Pack.workspace` reads a pack as a model has to: the files of
the base, then the overlay's changes in order.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from infbox.pack import diffs
from infbox.pack.formats import Part
from infbox.pack.history import path_bytes
from infbox.pack.tokens import PackTokenizer, TokenIds, join

Kind = Literal["header", "file", "omitted", "note", "changed", "renamed", "deleted"]


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of a pack that was tokenised apart.

    Attributes:
        kind: `file` is a whole file (in the overlay a new one, or one shorter than its diff).
        path: the file it is about, or "".
        body: a `file`'s text, or the hunks of a `changed` or `renamed` one.
        old_path: what a `renamed` file was called.
        names: the paths of an `omitted` segment, by their bytes, also those that it has no room to say.
        outlines: what each of `names` defines, or "".
    """

    kind: Kind
    ids: TokenIds
    path: str = ""
    body: str = ""
    old_path: str = ""
    names: tuple[str, ...] = ()
    outlines: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """How many tokens it is."""
        return self.ids.size


@dataclass(frozen=True, eq=False)
class Pack:
    """One version of a workspace's prefix.

    Attributes:
        version: counts up with each change, from 1.
        fingerprint: of the tokenizer and format that it was written with.
        born: the version at which this base came into being, by `build` or a rebase.
    """

    version: int
    fingerprint: str
    header: Segment
    base: tuple[Segment, ...]
    overlay: tuple[Segment, ...] = ()
    born: int = 1

    @cached_property
    def ids(self) -> TokenIds:
        """All token ids, read-only."""
        return join(segment.ids for segment in (self.header, *self.base, *self.overlay))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the ids as little-endian 32-bit numbers, in hexadecimal."""
        return _digest(self.ids)

    @cached_property
    def base_digest(self) -> str:
        """Of header, base and `born`. Of two packs of a workspace that share it, the older is a prefix of the newer.

        `born` is in it because a rebase may keep the whole base and write a shorter overlay.
        """
        return hashlib.sha256(f"{self.born} {_digest(self.ids[: self.base_tokens])}".encode()).hexdigest()

    @cached_property
    def base_tokens(self) -> int:
        """Tokens of header and base."""
        return self.header.tokens + sum(segment.tokens for segment in self.base)

    @cached_property
    def overlay_tokens(self) -> int:
        """Tokens of the overlay."""
        return sum(segment.tokens for segment in self.overlay)

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return self.base_tokens + self.overlay_tokens

    def workspace(self) -> dict[str, str]:
        """The text of each file that is shown whole, from the base with the overlay applied.

        Raises:
            PatchError: an overlay entry does not fit what was shown before it; that is a fault of this program.
        """
        shown = {segment.path: segment.body for segment in self.base if segment.kind == "file"}
        for segment in self.overlay:
            match segment.kind:
                case "file":
                    shown[segment.path] = segment.body
                case "changed":
                    shown[segment.path] = diffs.apply(shown[segment.path], segment.body)
                case "renamed":
                    shown[segment.path] = diffs.apply(shown.pop(segment.old_path), segment.body)
                case "deleted" | "omitted":
                    for path in segment.names or (segment.path,):
                        shown.pop(path, None)
                case "header" | "note":
                    pass
        return shown

    @cached_property
    def omitted(self) -> dict[str, str]:
        """Outlines of the files that are not shown whole, by path."""
        omitted: dict[str, str] = {}
        for segment in (*self.base, *self.overlay):
            omitted.pop(segment.path, None)
            omitted.update(zip(segment.names, segment.outlines, strict=True))
        return omitted


class Writer:
    """Files and changes as segments, in the format of a tokenizer's family."""

    def __init__(self, tokenizer: PackTokenizer) -> None:
        self.tokenizer = tokenizer
        self._format = tokenizer.format

    def header(self, repo: str) -> Segment:
        """What the pack begins with; `repo` is the repository's name, the same on every machine."""
        return Segment("header", self._ids(self._format.header(repo)), path=repo)

    def file(self, path: str, text: str) -> Segment:
        """A whole file."""
        return Segment("file", self._ids(self._format.file(path, text)), path, text)

    def omitted(self, outlines: Mapping[str, str], listed: Collection[str] | None = None) -> Segment:
        """Files by name and outline; `listed`: of only these it is said, the others are counted."""
        names = sorted(outlines, key=path_bytes)
        said = outlines.keys() if listed is None else set(listed)
        lines = [(name, outlines[name]) for name in names if name in said]
        ids = self._ids(self._format.omitted(lines, len(names)))
        return Segment("omitted", ids, names=tuple(names), outlines=tuple(outlines[name] for name in names))

    def note(self) -> Segment:
        """What an overlay begins with."""
        return Segment("note", self._ids(self._format.changes()))

    def deleted(self, path: str) -> Segment:
        """A file that is no more."""
        return Segment("deleted", self._ids(self._format.deleted(path)), path)

    def renamed(self, old_path: str, path: str, old: str, new: str) -> Segment:
        """A file under a new name, with what changed in it."""
        hunks = diffs.unified(old, new)
        return Segment("renamed", self._ids(self._format.renamed(old_path, path, hunks)), path, hunks, old_path)

    def change(self, path: str, old: str, new: str) -> Segment:
        """A file's diff, or the whole file where that is fewer tokens."""
        hunks = diffs.unified(old, new)
        changed = Segment("changed", self._ids(self._format.changed(path, hunks)), path, hunks)
        # Tokens a character differ little within a file: what is twice as long need not be tokenised to be longer.
        return changed if 2 * len(hunks) < len(new) else shortest(changed, self.file(path, new))

    def _ids(self, parts: list[Part]) -> TokenIds:
        return self.tokenizer.encode_parts(parts)


def _digest(ids: TokenIds) -> str:
    return hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest()


def shortest(*segments: Segment) -> Segment:
    """The one with the fewest tokens, the first of equals."""
    return min(segments, key=lambda segment: segment.tokens)

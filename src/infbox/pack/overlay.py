"""Saves become overlay entries: append-only, and only what a request will see.

A `Packer` holds a workspace's current pack. `save` notes a file's new content, which is *pending*; `seal` appends what
is different from what the pack shows, and returns the pack that is then exposed. So saves between two requests
coalesce, and one that undoes itself in between costs nothing; once sealed, undoing appends again.

A rebase may run elsewhere: `rebase` of `infbox.pack.rebase` takes an immutable pack, and `Packer.swap` puts the result
in place, with what was saved since.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from infbox.pack.budget import is_machine_written
from infbox.pack.diffs import split_lines
from infbox.pack.formats import shown_text
from infbox.pack.history import path_bytes
from infbox.pack.layout import Pack, Segment, Writer
from infbox.pack.rebase import DEFAULT_RULES, Rules, needs_rebase, rebase
from infbox.pack.symbols import outlines
from infbox.pack.tokens import PackTokenizer

# Lines to compare, above which only renames without a change are looked for.
_COMPARED_LINES = 2_000_000
# The share of lines that a renamed file keeps, as for git.
_SIMILAR = 0.5


class Packer:
    """One workspace's pack, kept up to date. Not for several threads at once; the packs it returns are."""

    def __init__(self, tokenizer: PackTokenizer, pack: Pack, rules: Rules = DEFAULT_RULES) -> None:
        self.writer = Writer(tokenizer)
        self.rules = rules
        self.pack = pack
        self._shown = pack.workspace()
        self._pending: dict[str, str | None] = {}

    @property
    def pending(self) -> frozenset[str]:
        """Paths whose saved content is not what the pack shows."""
        return frozenset(self._pending)

    @property
    def needs_rebase(self) -> bool:
        """Whether the overlay has grown past the share that the rules allow."""
        return needs_rebase(self.pack, self.rules)

    def save(self, path: str, content: bytes | None) -> None:
        """Note a file's content; None: it is no more."""
        self._note(path, None if content is None else shown_text(content))

    def _note(self, path: str, text: str | None) -> None:
        omitted = path in self.pack.omitted
        if text is None:
            same = not omitted and path not in self._shown
        elif omitted and is_machine_written(path, text):
            same = True
        else:
            same = self._shown.get(path) == text
        if same:
            self._pending.pop(path, None)
        else:
            self._pending[path] = text

    def save_all(self, changes: Mapping[str, bytes | None]) -> None:
        """Note several files at once."""
        for path, content in changes.items():
            self.save(path, content)

    def seal(self) -> Pack:
        """Append what is pending, and return the pack: from now on it is taken as seen by a request."""
        if self._pending:
            pending, self._pending = self._pending, {}
            left_out = self._left_out(pending)
            changes = {path: text for path, text in pending.items() if path not in left_out}
            entries = append_entries(self.writer, self._shown, changes)
            said = {path: line for path, line in left_out.items() if self.pack.omitted.get(path) != line}
            entries += [self.writer.omitted(said)] if said else []
            if entries:
                self.pack = self._with(self.pack, entries)
            for path, text in pending.items():
                if text is None or path in left_out:
                    self._shown.pop(path, None)
                else:
                    self._shown[path] = text
            if self._is_over_budget(self.pack):
                self.swap(rebase(self.writer, self.pack, self.rules))
            elif self.pack.overlay and self.pack.tokens <= self.rules.small_tokens:
                self.swap(rebase(self.writer, self.pack, self.rules, whole=True))
        return self.pack

    def _left_out(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """Outlines of the files not to be shown: for what they are, or as new ones that would drive out the others."""
        texts = {path: text for path, text in changes.items() if text is not None}
        machine_written = [path for path, text in texts.items() if is_machine_written(path, text)]
        if (budget := self.rules.budget_tokens) is None:
            return dict.fromkeys(machine_written, "")
        new = texts.keys() - self._shown.keys() - set(machine_written)
        room = budget - self.rules.base_budget_tokens
        large = {path: texts[path] for path in sorted(new) if self.writer.file(path, texts[path]).tokens > room}
        return dict.fromkeys(machine_written, "") | outlines(large)

    def _is_over_budget(self, pack: Pack) -> bool:
        return self.rules.budget_tokens is not None and pack.tokens > self.rules.budget_tokens

    def _with(self, pack: Pack, entries: Iterable[Segment]) -> Pack:
        note = () if pack.overlay else (self.writer.note(),)
        overlay = (*pack.overlay, *note, *entries)
        return Pack(pack.version + 1, pack.fingerprint, pack.header, pack.base, overlay, pack.born)

    def rebase(self, whole: bool = False) -> Pack:
        """Seal, and make a new base at once; `whole`: leave nothing in the overlay, whatever it costs."""
        self.swap(rebase(self.writer, self.seal(), self.rules, whole=whole))
        return self.pack

    def swap(self, pack: Pack) -> None:
        """Put a rebased pack in place. What was sealed or saved since it was begun becomes pending."""
        since = {path: said for path, said in self.pack.omitted.items() if pack.omitted.get(path) != said}
        if since:
            pack = self._with(pack, [self.writer.omitted(since)])
            if self._is_over_budget(pack):
                pack = rebase(self.writer, pack, self.rules)
        shown = pack.workspace()
        gone = (shown.keys() | pack.omitted.keys()) - self._shown.keys() - self.pack.omitted.keys()
        # What the rebase left out stays out.
        wanted: dict[str, str | None] = {path: text for path, text in self._shown.items() if path not in pack.omitted}
        wanted |= dict.fromkeys(gone)
        wanted |= self._pending
        version = max(pack.version, self.pack.version + 1)
        self.pack = replace(pack, version=version, born=version)
        self._shown, self._pending = shown, {}
        for path, text in wanted.items():
            self._note(path, text)


def append_entries(writer: Writer, shown: Mapping[str, str], changes: Mapping[str, str | None]) -> list[Segment]:
    """Overlay entries that make `changes` of what is `shown`, by the path's bytes: the order of events has no say."""
    ordered = sorted(changes, key=path_bytes)
    gone = [path for path in ordered if changes[path] is None]
    born = {path: text for path in ordered if (text := changes[path]) is not None and path not in shown}
    sources = _renames({path: shown[path] for path in gone if path in shown}, born)
    renamed = set(sources.values())
    entries: list[Segment] = []
    for path in ordered:
        text = changes[path]
        if text is None:
            if path not in renamed:
                entries.append(writer.deleted(path))
        elif path in shown:
            entries.append(writer.change(path, shown[path], text))
        elif path not in sources:
            entries.append(writer.file(path, text))
        else:
            old_path = sources[path]
            rename = writer.renamed(old_path, path, shown[old_path], text)
            apart = [writer.deleted(old_path), writer.file(path, text)]
            entries += [rename] if rename.tokens <= sum(entry.tokens for entry in apart) else apart
    return entries


def _renames(gone: Mapping[str, str], born: Mapping[str, str]) -> dict[str, str]:
    """For files that are new, the path of a lost one that they come from: the same text, else the most similar."""
    sources: dict[str, str] = {}
    by_text: dict[str, list[str]] = {}
    for path, text in gone.items():
        by_text.setdefault(text, []).append(path)
    for path, text in born.items():
        if text and by_text.get(text):
            sources[path] = by_text[text].pop(0)
    taken = set(sources.values())
    lost = {path: Counter(split_lines(text)) for path, text in gone.items() if path not in taken}
    found = {path: Counter(split_lines(text)) for path, text in born.items() if path not in sources}
    lines = sum(map(len, lost.values())) * len(found) + sum(map(len, found.values())) * len(lost)
    if lines > _COMPARED_LINES:
        return sources
    pairs = [(_similarity(kept, found[new]), new, old) for old, kept in lost.items() for new in found]
    for similarity, new, old in sorted(pairs, key=lambda pair: (-pair[0], path_bytes(pair[1]), path_bytes(pair[2]))):
        if similarity >= _SIMILAR and new not in sources and old not in taken:
            sources[new] = old
            taken.add(old)
    return sources


def _similarity(one: Counter[str], other: Counter[str]) -> float:
    """Characters in lines that both have, as a share of the longer text."""
    longer = max(_characters(one), _characters(other))
    return _characters(one & other) / longer if longer else 0.0


def _characters(lines: Counter[str]) -> int:
    return sum(len(line) * count for line, count in lines.items())

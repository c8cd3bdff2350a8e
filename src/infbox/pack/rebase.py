"""New bases: the first one of a workspace, and those that take in an overlay.

A rebase costs the prefill of all tokens after the first that is different, so it keeps the longest part of the old base
that pays. Files of the kept part that have changed since stay there as they were, corrected by one diff each in the new
overlay; the files after it that have not changed keep their order, and what has changed is moved to the end, the last
changed last. So what changes often gathers at the end, where it is cheap to change again.

Where to cut: an overlay that may grow to `limit` tokens and holds `carried` ones after the rebase is full again after
`limit - carried` tokens, so the cut that makes `cost / (limit - carried)` smallest prefills least in the long run.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from infbox.pack.budget import choose
from infbox.pack.formats import shown_text
from infbox.pack.history import path_bytes
from infbox.pack.layout import Pack, Segment, Writer

# What the names of omitted files may take of the budget.
_NAMES_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a base is made anew, and how large a pack may be.

    Attributes:
        overlay_fraction: of the base's tokens, that the overlay may have.
        overlay_minimum_tokens: that it may have in any case.
        budget_tokens: of the whole pack; None: no limit.
    """

    overlay_fraction: float = 0.1
    overlay_minimum_tokens: int = 2_000
    budget_tokens: int | None = None

    def limit(self, base_tokens: int) -> float:
        """Tokens that the overlay of such a base may have."""
        return max(self.overlay_minimum_tokens, self.overlay_fraction * base_tokens)


DEFAULT_RULES = Rules()


def build(writer: Writer, repo: str, files: Iterable[tuple[str, bytes]], rules: Rules = DEFAULT_RULES) -> Pack:
    """A workspace's first pack.

    Args:
        repo: the repository's name, the same on every machine.
        files: in the order of the base; `infbox.pack.history.oldest_first` gives it.
    """
    segments = [writer.file(path, shown_text(content)) for path, content in files]
    header = writer.header(repo)
    return Pack(1, writer.tokenizer.fingerprint, header, _within(writer, header, segments, (), rules))


def needs_rebase(pack: Pack, rules: Rules) -> bool:
    """Whether the overlay is larger than the rules allow."""
    return pack.overlay_tokens > rules.limit(pack.base_tokens)


def rebase(writer: Writer, pack: Pack, rules: Rules = DEFAULT_RULES, *, whole: bool = False) -> Pack:
    """The pack of the same workspace with another base. Looks at nothing but the pack, so any thread may run it.

    Args:
        whole: leave no correction in the overlay, whatever it costs.
    """
    shown = pack.workspace()
    old = [segment for segment in pack.base if segment.kind == "file"]
    fresh = [shown.get(segment.path) == segment.body for segment in old]
    kept_paths = {segment.path for segment, is_fresh in zip(old, fresh, strict=True) if is_fresh}
    moved = [writer.file(path, shown[path]) for path in _by_last_change(pack, shown.keys() - kept_paths)]
    fixes = {
        segment.path: _fix(writer, segment, shown.get(segment.path))
        for segment in old
        if segment.path not in kept_paths
    }
    cut = 0 if rules.budget_tokens is not None and pack.tokens > rules.budget_tokens else None
    if cut is None:
        cut = _whole_cut(fresh) if whole else _best_cut(old, fresh, moved, fixes, pack.header.tokens, rules)
    in_front = {segment.path for segment in old[:cut]}
    base = old[:cut] + [segment for segment in old[cut:] if segment.path in kept_paths]
    base += [segment for segment in moved if segment.path not in in_front]
    carried = [fixes[segment.path] for segment in old[:cut] if segment.path in fixes]
    omitted = pack.omitted - shown.keys()
    if cut == 0 and not carried:
        placed = _within(writer, pack.header, base, omitted, rules)
    else:
        placed = (*base, *_names(writer, omitted, rules))
    overlay = (writer.note(), *carried) if carried else ()
    return Pack(pack.version + 1, pack.fingerprint, pack.header, placed, overlay)


def _fix(writer: Writer, segment: Segment, text: str | None) -> Segment:
    """What corrects a file of the base that is not as it was."""
    return writer.deleted(segment.path) if text is None else writer.change(segment.path, segment.body, text)


def _by_last_change(pack: Pack, paths: Iterable[str]) -> list[str]:
    """Paths in the order in which the overlay last spoke of them."""
    last = {segment.path: position for position, segment in enumerate(pack.overlay)}
    return sorted(paths, key=lambda path: (last.get(path, -1), path_bytes(path)))


def _whole_cut(fresh: list[bool]) -> int:
    """The longest part of the base that has no file which changed."""
    return fresh.index(False) if False in fresh else len(fresh)


def _best_cut(
    old: list[Segment],
    fresh: list[bool],
    moved: list[Segment],
    fixes: dict[str, Segment],
    header_tokens: int,
    rules: Rules,
) -> int:
    """How many files of the old base to keep: see the module's first paragraphs."""
    size = {segment.path: segment.tokens for segment in moved}
    kept = header_tokens
    tail = sum(segment.tokens for segment, is_fresh in zip(old, fresh, strict=True) if is_fresh) + sum(size.values())
    carried = 0
    best, best_rate = 0, float("inf")
    for cut in range(len(old) + 1):
        limit = rules.limit(kept + tail)
        if carried <= limit / 2:
            rate = (tail + carried) / (limit - carried)
            # The longer of equals.
            if rate <= best_rate:
                best, best_rate = cut, rate
        if cut < len(old):
            segment = old[cut]
            kept += segment.tokens
            if fresh[cut]:
                tail -= segment.tokens
            else:
                tail -= size.get(segment.path, 0)
                carried += fixes[segment.path].tokens
    return best


def _within(
    writer: Writer, header: Segment, files: list[Segment], omitted: Iterable[str], rules: Rules
) -> tuple[Segment, ...]:
    """The files that the budget allows, in order, and the names of the others."""
    if rules.budget_tokens is None:
        return (*files, *_names(writer, omitted, rules))
    room = int(rules.budget_tokens / (1 + rules.overlay_fraction)) - header.tokens
    texts = {segment.path: segment.body for segment in files}
    tokens = {segment.path: segment.tokens for segment in files}
    others = set(omitted)
    if others or sum(tokens.values()) > room:
        chosen = choose(texts, tokens, int(room - rules.budget_tokens * _NAMES_SHARE))
        others |= texts.keys() - chosen
        files = [segment for segment in files if segment.path in chosen]
    return (*files, *_names(writer, others, rules))


def _names(writer: Writer, omitted: Iterable[str], rules: Rules) -> tuple[Segment, ...]:
    """Files by name, as many names as their share of the budget holds."""
    names = sorted(omitted, key=path_bytes)
    if not names:
        return ()
    room = float("inf") if rules.budget_tokens is None else rules.budget_tokens * _NAMES_SHARE
    segment = writer.omitted(names)
    listed = len(names)
    while segment.tokens > room and listed:
        listed = min(listed - 1, int(listed * room / segment.tokens))
        segment = writer.omitted(names, listed)
    return (segment,)

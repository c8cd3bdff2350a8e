"""New bases: the first one of a workspace, and those that take in an overlay.

A rebase costs the prefill of all tokens after the first that is different, so it keeps the longest part of the old base
that pays. Files of the kept part that have changed since stay there as they were, corrected by one diff each in the new
overlay; the files after it that have not changed keep their order, and what has changed is moved to the end, the last
changed last. So what changes often gathers at the end, where it is cheap to change again.

Where to cut: an overlay that may grow to `limit` tokens and holds `carried` ones after the rebase is full again after
`limit - carried` tokens, so the cut that makes `cost / (limit - carried)` smallest prefills least in the long run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from infbox.pack.budget import choose, is_machine_written, rank
from infbox.pack.formats import omitted_line, shown_text
from infbox.pack.history import path_bytes
from infbox.pack.layout import Pack, Segment, Writer
from infbox.pack.symbols import outlines
from infbox.pack.tokens import join

# What names and outlines of the files that are not shown whole may take of the budget.
_MAP_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a base is made anew, and how large a pack may be.

    Attributes:
        overlay_fraction: of the base's tokens, that the overlay may have.
        overlay_minimum_tokens: that it may have in any case.
        budget_tokens: of the whole pack; None: no limit.
        small_tokens: a pack of no more than these gets a new base with each save: that costs less than it reads better.
    """

    overlay_fraction: float = 0.1
    overlay_minimum_tokens: int = 2_000
    budget_tokens: int | None = None
    small_tokens: int = 0

    def limit(self, base_tokens: int) -> float:
        """Tokens that the overlay of such a base may have."""
        return max(self.overlay_minimum_tokens, self.overlay_fraction * base_tokens)

    @property
    def base_budget_tokens(self) -> float:
        """What a new base may have, so that the overlay fits the budget too."""
        return float("inf") if self.budget_tokens is None else int(self.budget_tokens / (1 + self.overlay_fraction))


DEFAULT_RULES = Rules()


def build(writer: Writer, repo: str, files: Iterable[tuple[str, bytes]], rules: Rules = DEFAULT_RULES) -> Pack:
    """A workspace's first pack.

    Args:
        repo: the repository's name, the same on every machine.
        files: in the order of the base; `infbox.pack.history.oldest_first` gives it.
    """
    texts = {path: shown_text(content) for path, content in files}
    omitted = dict.fromkeys((path for path, text in texts.items() if is_machine_written(path, text)), "")
    segments = [writer.file(path, text) for path, text in texts.items() if path not in omitted]
    header = writer.header(repo)
    return Pack(1, writer.tokenizer.fingerprint, header, _within(writer, header, segments, omitted, rules))


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
    made = _cut(writer, pack, cut, shown, moved, fixes, rules)
    if rules.budget_tokens is not None and made.tokens > rules.budget_tokens:
        made = _cut(writer, pack, 0, shown, moved, fixes, rules)
    return made


def _cut(
    writer: Writer,
    pack: Pack,
    cut: int,
    shown: Mapping[str, str],
    moved: list[Segment],
    fixes: Mapping[str, Segment],
    rules: Rules,
) -> Pack:
    """The new pack that keeps the first `cut` files of the old base."""
    old = [segment for segment in pack.base if segment.kind == "file"]
    in_front = {segment.path for segment in old[:cut]}
    base = old[:cut] + [segment for segment in old[cut:] if segment.path not in fixes]
    base += [segment for segment in moved if segment.path not in in_front]
    carried = [fixes[segment.path] for segment in old[:cut] if segment.path in fixes]
    omitted = {path: said for path, said in pack.omitted.items() if path not in shown}
    if cut == 0:
        placed = _within(writer, pack.header, base, omitted, rules)
    else:
        placed = (*base, *_map(writer, omitted, sorted(omitted, key=path_bytes), rules, rules.base_budget_tokens))
    overlay = (writer.note(), *carried) if carried else ()
    version = pack.version + 1
    return Pack(version, pack.fingerprint, pack.header, placed, overlay, version)


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
    writer: Writer, header: Segment, files: list[Segment], omitted: Mapping[str, str], rules: Rules
) -> tuple[Segment, ...]:
    """The files that the budget allows, in order, and what is said of the others."""
    others = dict(omitted)
    room = rules.base_budget_tokens - header.tokens
    tokens = {segment.path: segment.tokens for segment in files}
    ranking: list[str] = []
    if rules.budget_tokens is not None and (others or sum(tokens.values()) > room):
        texts = {segment.path: segment.body for segment in files}
        ranking = rank(texts, tokens)
        chosen = choose(ranking, tokens, int(room - rules.budget_tokens * _MAP_SHARE))
        ranking = [path for path in ranking if path not in chosen]
        # Parsing is slow: of those that there is no room for, not even the outline is needed.
        parsed = int(rules.budget_tokens * _MAP_SHARE / 10)
        others |= dict.fromkeys(ranking, "") | outlines({path: texts[path] for path in ranking[:parsed]})
        files = [segment for segment in files if segment.path in chosen]
        room -= sum(segment.tokens for segment in files)
    ranking += sorted(omitted, key=path_bytes)
    return (*files, *_map(writer, others, ranking, rules, room))


def _map(
    writer: Writer, omitted: Mapping[str, str], ranking: list[str], rules: Rules, room: float
) -> tuple[Segment, ...]:
    """Files by name and outline, as many lines as their share of the budget holds, the most useful first."""
    if not omitted:
        return ()
    if rules.budget_tokens is None:
        return (writer.omitted(omitted),)
    room = min(room, rules.budget_tokens * _MAP_SHARE)
    listed: list[str] = []
    left = room - writer.omitted(omitted, ()).tokens
    for path in ranking:
        left -= writer.tokenizer.encode(omitted_line(path, omitted[path])).size
        if left < 0:
            break
        listed.append(path)
    said = writer.omitted(omitted, listed)
    # Lines that stand together can be more tokens than apart.
    while said.tokens > room and listed:
        del listed[int(len(listed) * 0.9) :]
        said = writer.omitted(omitted, listed)
    return (said if said.tokens <= room else replace(said, ids=join(())),)

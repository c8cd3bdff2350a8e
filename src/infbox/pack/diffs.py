"""Unified diffs of two texts, with little context, and their exact application.

Lines end with `\\n` alone, so that `\\r\\n`, form feeds and the like stay inside of them. `unified` gives hunks without
file headers (who changed is the title of an overlay entry); `apply` is its inverse, used to prove packs right.

A long run of removed lines is told by its ends and its length, as a line `\\ 36 more lines removed`: the reader has
them all above. Over 250 commits of flask, removed lines were more tokens than added ones. But for these lines a diff is
one that `patch` applies.
"""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from infbox.errors import InfboxError

CONTEXT_LINES = 1
# Of a run of removed lines, how many are told at its beginning and end; and how many more it must have to be cut.
_HEAD_LINES, _TAIL_LINES, _FEW_LINES = 2, 1, 3
# difflib's time is quadratic; what differs over more lines than these is one change.
_COMPARED_LINES = 20_000

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NO_NEWLINE = "\\ No newline at end of file\n"
_REMOVED = re.compile(r"\\ (\d+) more lines removed\n")

Change = tuple[int, int, int, int]


class PatchError(InfboxError):
    """A diff does not fit the text that it is applied to."""


def unified(old: str, new: str, context: int = CONTEXT_LINES, *, whole: bool = False) -> str:
    """The hunks that make `new` of `old`; empty where the texts are equal. `whole`: with all removed lines."""
    before, after = split_lines(old), split_lines(new)
    written: list[str] = []
    for hunk in _hunks(_changes(before, after), context, len(before), len(after)):
        first, last = hunk[0], hunk[-1]
        written.append(f"@@ -{_range(first[0], last[1])} +{_range(first[2], last[3])} @@\n")
        for old_from, old_to, new_from, new_to in hunk:
            if before[old_from:old_to] == after[new_from:new_to]:
                written += [_line(" ", line) for line in before[old_from:old_to]]
            else:
                written += _removed(before[old_from:old_to], whole)
                written += [_line("+", line) for line in after[new_from:new_to]]
    return "".join(written)


def apply(old: str, hunks: str) -> str:
    """The text that `hunks` make of `old`.

    Raises:
        PatchError: the hunks are not of this text.
    """
    before = split_lines(old)
    made: list[str] = []
    position = 0
    side = ""
    for line in split_lines(hunks):
        head = _HUNK.match(line)
        if head and line[0] == "@":
            start = int(head[1]) - (head[2] != "0")
            made += before[position:start]
            position = start
            continue
        body = line[1:]
        if line == _NO_NEWLINE:
            if side in " +":
                made[-1] = made[-1].removesuffix("\n")
            continue
        if left_out := _REMOVED.fullmatch(line):
            position += int(left_out[1])
            continue
        side = line[0]
        if side in " -":
            if position >= len(before) or before[position].removesuffix("\n") != body.removesuffix("\n"):
                raise PatchError(f"a diff does not fit at line {position + 1}: {line!r}")
            position += 1
        if side in " +":
            made.append(body)
    return "".join(made + before[position:])


def split_lines(text: str) -> list[str]:
    """Lines with their `\\n`; the last one may have none."""
    lines = text.split("\n")
    ended = [line + "\n" for line in lines[:-1]]
    return ended if not lines[-1] else [*ended, lines[-1]]


def _removed(lines: list[str], whole: bool) -> list[str]:
    written = [_line("-", line) for line in lines]
    left_out = len(lines) - _HEAD_LINES - _TAIL_LINES
    if whole or left_out <= _FEW_LINES:
        return written
    return [*written[:_HEAD_LINES], f"\\ {left_out} more lines removed\n", *written[-_TAIL_LINES:]]


def _changes(before: list[str], after: list[str]) -> Iterator[Change]:
    """What is different, in order: lines before[a:b] became after[c:d]."""
    shorter = min(len(before), len(after))
    start = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    end = next((i for i in range(shorter - start) if before[-1 - i] != after[-1 - i]), shorter - start)
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    if not old and not new:
        return
    if not old or not new or len(old) + len(new) > _COMPARED_LINES:
        yield start, start + len(old), start, start + len(new)
        return
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=len(old) > 2_000).get_opcodes():
        if tag != "equal":
            yield start + a, start + b, start + c, start + d


def _hunks(changes: Iterator[Change], context: int, old_lines: int, new_lines: int) -> Iterator[list[Change]]:
    """Changes with the equal lines around and between them, those close to each other together."""
    hunk: list[Change] = []
    for a, b, c, d in changes:
        if hunk and a - hunk[-1][1] > 2 * context:
            yield _closed(hunk, context, old_lines, new_lines)
            hunk = []
        if hunk:
            hunk.append((hunk[-1][1], a, hunk[-1][3], c))
        else:
            before = min(context, a, c)
            hunk.append((a - before, a, c - before, c))
        hunk.append((a, b, c, d))
    if hunk:
        yield _closed(hunk, context, old_lines, new_lines)


def _closed(hunk: list[Change], context: int, old_lines: int, new_lines: int) -> list[Change]:
    _, b, _, d = hunk[-1]
    return [*hunk, (b, min(b + context, old_lines), d, min(d + context, new_lines))]


def _range(start: int, end: int) -> str:
    """A range of lines as diff writes it: from 1, and an empty one after the line before it."""
    count = end - start
    if count == 1:
        return str(start + 1)
    return f"{start + (count > 0)},{count}"


def _line(sign: str, line: str) -> str:
    return sign + line if line.endswith("\n") else f"{sign}{line}\n{_NO_NEWLINE}"

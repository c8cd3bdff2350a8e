"""How a workspace is written down for a model: the repository format of its family, or a plain one.

A format turns files and changes into *parts*: `Marker`, a control token of ours, and `str`, text in which nothing is a
control token whatever it says (`infbox.pack.tokens` sees to that). `FORMATS` is the table; a family with a format of
its own is one more entry. A segment begins with a marker, or with `#` at the start of a line, and ends with a newline,
so that segments that were tokenised apart read as one text.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

# Part of every key under which tokens are remembered: raise it with any change of what is written.
FORMAT_VERSION = 1

_NO_NEWLINE = "\\ No newline at end of file\n"
_TO_QUOTE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\"\\\ud800-\udfff]|: | -> |^[ #`]| $")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_CHANGES = (
    "The files above have changed since. What follows are the changes, oldest first, as unified diffs or whole files; "
    "the latest holds.\n"
)


@dataclass(frozen=True)
class Marker:
    """A control token that stands for itself, by its text in the tokenizer."""

    token: str


Part = Marker | str


class PlainFormat:
    """Markdown, for families whose tokenizers know no repository format. Fences are longer than any in the content."""

    name = "plain"
    markers: tuple[str, ...] = ()

    def header(self, repo: str) -> list[Part]:
        """What every pack begins with."""
        return [f"# Repository: {quote(repo)}\n"]

    def file(self, path: str, text: str) -> list[Part]:
        """A whole file, in the base or as a new file in the overlay."""
        return self._block(f"## File: {quote(path)}\n", "", end_line(text))

    def changed(self, path: str, hunks: str) -> list[Part]:
        """The hunks of a unified diff against what was shown of `path` before."""
        return self._block(f"## Changed: {quote(path)}\n", "diff", hunks)

    def renamed(self, old: str, new: str, hunks: str) -> list[Part]:
        """A file under a new name; `hunks`, which may be empty, are against its content under the old one."""
        title = f"## Renamed: {quote(old)} -> {quote(new)}\n"
        return self._block(title, "diff", hunks) if hunks else [title]

    def deleted(self, path: str) -> list[Part]:
        """A file that is no more."""
        return [f"## Deleted: {quote(path)}\n"]

    def changes(self) -> list[Part]:
        """What the overlay begins with."""
        return ["# Changes\n" + _CHANGES]

    def omitted(self, lines: Sequence[tuple[str, str]], count: int) -> list[Part]:
        """Files that are not shown whole: names and outlines, which may be empty, of some of `count`."""
        return ["## " + _omitted(lines, count)]

    def fim(self, path: str, prefix: str, suffix: str) -> list[Part] | None:
        """What stands after a pack so that the model writes what is between `prefix` and `suffix` of a file.

        None where the family cannot do that.
        """
        return None

    def _block(self, title: str, language: str, body: str) -> list[Part]:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`{3,}", body)), default=2))
        return [f"{title}{fence}{language}\n{body}{fence}\n"]


@dataclass(frozen=True)
class Fim:
    """A family's control tokens for fill-in-the-middle. `path_inside`: the path stands behind `prefix`, not before."""

    prefix: str
    suffix: str
    middle: str
    path_inside: bool = False


class MarkedFormat(PlainFormat):
    """Files between control tokens: `<repo>name`, then `<file>path`, newline, content for each file."""

    def __init__(self, name: str, repo: str, file: str, fim: Fim) -> None:
        self.name = name
        self.markers = (repo, file, fim.prefix, fim.suffix, fim.middle)
        self._repo, self._file = Marker(repo), Marker(file)
        self._fim = fim

    def header(self, repo: str) -> list[Part]:
        return [self._repo, f"{quote(repo)}\n"]

    def file(self, path: str, text: str) -> list[Part]:
        return [self._file, f"{quote(path)}\n{end_line(text)}"]

    def changed(self, path: str, hunks: str) -> list[Part]:
        return [self._file, f"Changed: {quote(path)}\n{hunks}"]

    def renamed(self, old: str, new: str, hunks: str) -> list[Part]:
        return [self._file, f"Renamed: {quote(old)} -> {quote(new)}\n{hunks}"]

    def deleted(self, path: str) -> list[Part]:
        return [self._file, f"Deleted: {quote(path)}\n"]

    def changes(self) -> list[Part]:
        return [self._file, "Changes: \n" + _CHANGES]

    def fim(self, path: str, prefix: str, suffix: str) -> list[Part] | None:
        title = f"{quote(path)}\n"
        prefix_marker, *others = (Marker(token) for token in (self._fim.prefix, self._fim.suffix, self._fim.middle))
        suffix_marker, middle_marker = others
        start = [prefix_marker, title] if self._fim.path_inside else [title, prefix_marker]
        return [self._file, *start, prefix, suffix_marker, suffix, middle_marker]

    def omitted(self, lines: Sequence[tuple[str, str]], count: int) -> list[Part]:
        return [self._file, "Omitted: \n" + _omitted(lines, count)]


PLAIN = PlainFormat()
# Qwen2.5-Coder's and Qwen3-Coder's, from their model cards' repository-level completion.
QWEN = MarkedFormat("qwen", "<|repo_name|>", "<|file_sep|>", Fim("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"))
# StarCoder2's, from its paper, "StarCoder 2 and The Stack v2: The Next Generation". SmolLM2 has only the first two of
# these tokens, and gets the plain format: an instruction-tuned model of prose reads that better.
STARCODER2 = MarkedFormat(
    "starcoder2", "<repo_name>", "<file_sep>", Fim("<fim_prefix>", "<fim_suffix>", "<fim_middle>", path_inside=True)
)
FORMATS: tuple[PlainFormat, ...] = (QWEN, STARCODER2, PLAIN)


def format_for(added_tokens: Collection[str]) -> PlainFormat:
    """The first format of `FORMATS` whose markers the tokenizer has; `PLAIN` needs none."""
    return next(known for known in FORMATS if set(known.markers) <= set(added_tokens))


def quote(path: str) -> str:
    """A path on one line that reads as nothing else: as it is, or quoted as git quotes it.

    Quoted are control characters, quotes, backslashes, bytes that are no UTF-8 (surrogate escapes), spaces at the ends,
    what separates a title from a path, and what a title of ours begins with. No two paths are written alike.
    """
    if path and not _TO_QUOTE.search(path):
        return path
    return '"' + "".join(_ESCAPES.get(letter) or _octal(letter) for letter in path) + '"'


def end_line(text: str) -> str:
    """The text, with a last line that says so where it does not end with a newline, as in a diff."""
    return text if not text or text.endswith("\n") else f"{text}\n{_NO_NEWLINE}"


def shown_text(content: bytes) -> str:
    """A file's bytes as a model is shown them: UTF-8, and bytes that are none as `\\xe9`."""
    return content.decode(errors="backslashreplace")


def omitted_line(path: str, outline: str) -> str:
    """A file that is not shown whole, on one line."""
    return f"{quote(path)}: {outline}\n" if outline else f"{quote(path)}\n"


def _omitted(lines: Sequence[tuple[str, str]], count: int) -> str:
    listed = "".join(omitted_line(path, outline) for path, outline in lines)
    return f"Further files ({count} in all), by name, some with what they define:\n{listed}"


def _octal(letter: str) -> str:
    if letter.isprintable():
        return letter
    # A byte of a name that is no UTF-8, or, in what a client sent, half of a surrogate pair.
    errors = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "surrogatepass"
    return "".join(f"\\{byte:03o}" for byte in letter.encode(errors=errors))

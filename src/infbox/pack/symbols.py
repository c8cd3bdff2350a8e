"""What a file defines at its top: the symbol map of files that a pack has no room to show whole.

`outlines` parses with tree-sitter and names classes, types and functions (`Selector, Listing, read()`), in the order in
which they stand. Languages are those of `_LANGUAGES`, each a wheel with a compiled grammar (1 to 4 MB), so nothing is
fetched at run time; a file in another one has no outline. There is none for shell: its grammar needs minutes for a
file of NULs.

Grammars are C, and a hostile file can make one take all memory. So they run in a child process, this module as a
program, with limits on memory and processor time; a file that it dies of has no outline. It stays, since a request may
wait for a rebase and starting it takes longer than parsing. Work is bounded by counts before that, not by a clock: the
same file has the same outline on any machine.
"""

import contextlib
import json
import logging
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath

from tree_sitter import Language, Node, Parser

_log = logging.getLogger(__name__)

MOST_BYTES = 128 * 1024
MOST_NAMES = 40
_MOST_NAME_LENGTH = 60
# tree-sitter reports every 100 operations; 128 KB of real code are about 2,000 reports.
_MOST_REPORTS = 8_000
_MOST_NODES = 20_000
_DEPTH = 4

# The child's. A file of real code takes some milliseconds and megabytes.
_MEMORY_BYTES = 1 << 30
_FILE_CPU_SECONDS = 5.0
# Files that children may die of in one call, and how long one may say nothing.
_MOST_DEATHS = 8
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class _Grammar:
    """Where a grammar is, and which nodes of it are what.

    Attributes:
        inside: nodes that are looked into for definitions, at most `_DEPTH` deep.
    """

    module: str
    types: frozenset[str]
    functions: frozenset[str]
    inside: frozenset[str] = frozenset()
    function: str = "language"


def _grammar(module: str, types: str, functions: str, inside: str = "", function: str = "language") -> _Grammar:
    return _Grammar(module, frozenset(types.split()), frozenset(functions.split()), frozenset(inside.split()), function)


_C_TYPES = "struct_specifier enum_specifier union_specifier type_definition"
_JS_TYPES, _JS_FUNCTIONS = "class_declaration", "function_declaration generator_function_declaration"
_TS_TYPES = f"{_JS_TYPES} abstract_class_declaration interface_declaration type_alias_declaration enum_declaration"
_TS_INSIDE = "export_statement internal_module statement_block expression_statement ambient_declaration"
_PYTHON = _grammar("tree_sitter_python", "class_definition", "function_definition", "decorated_definition")
_JAVASCRIPT = _grammar("tree_sitter_javascript", _JS_TYPES, _JS_FUNCTIONS, "export_statement")
_TYPESCRIPT = _grammar("tree_sitter_typescript", _TS_TYPES, _JS_FUNCTIONS, _TS_INSIDE, "language_typescript")
_TSX = _grammar("tree_sitter_typescript", _TS_TYPES, _JS_FUNCTIONS, _TS_INSIDE, "language_tsx")
_GO = _grammar("tree_sitter_go", "type_spec type_alias", "function_declaration method_declaration", "type_declaration")
_RUST = _grammar(
    "tree_sitter_rust",
    "struct_item enum_item union_item trait_item type_item macro_definition",
    "function_item",
    "mod_item declaration_list",
)
_JAVA = _grammar(
    "tree_sitter_java",
    "class_declaration interface_declaration enum_declaration record_declaration annotation_type_declaration",
    "",
)
_C = _grammar(
    "tree_sitter_c", _C_TYPES, "function_definition", "preproc_if preproc_ifdef preproc_else linkage_specification"
)
_CPP = _grammar(
    "tree_sitter_cpp",
    f"{_C_TYPES} class_specifier alias_declaration concept_definition",
    "function_definition",
    "preproc_if preproc_ifdef preproc_else linkage_specification namespace_definition declaration_list "
    "template_declaration",
)
_RUBY = _grammar("tree_sitter_ruby", "class module", "method singleton_method")
_PHP = _grammar(
    "tree_sitter_php",
    "class_declaration interface_declaration trait_declaration enum_declaration",
    "function_definition",
    "namespace_definition compound_statement",
    "language_php",
)

_LANGUAGES: Mapping[str, _Grammar] = {
    **dict.fromkeys((".py", ".pyi"), _PYTHON),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".cjs"), _JAVASCRIPT),
    **dict.fromkeys((".ts", ".mts", ".cts"), _TYPESCRIPT),
    ".tsx": _TSX,
    ".go": _GO,
    ".rs": _RUST,
    ".java": _JAVA,
    ".c": _C,
    **dict.fromkeys((".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh"), _CPP),
    ".rb": _RUBY,
    ".php": _PHP,
}


def outlines(texts: Mapping[str, str]) -> dict[str, str]:
    """The names that each file defines, at most `MOST_NAMES`, on one line; empty where none are known."""
    found = dict.fromkeys(texts, "")
    deaths = 0
    for path, text in texts.items():
        if not _grammar_of(path) or len(text) > MOST_BYTES:
            continue
        if deaths == _MOST_DEATHS:
            _log.warning("no outlines of %d files: too many parsers failed", len(texts) - list(texts).index(path))
            break
        said = _CHILD.ask(path, text)
        if said is None:
            deaths += 1
            _log.warning("no outline of %r: its parser failed or hit a limit", path)
        else:
            found[path] = said
    return found


class Child:
    """A process that parses, started with the first file, and again after one that it died of. Safe for threads."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, path: str, text: str) -> str | None:
        """The outline of a file; None: the child died, or said nothing for `_TIMEOUT_SECONDS`."""
        with self._lock:
            try:
                return self._ask(json.dumps([path, text]) + "\n")
            except (OSError, ValueError):
                self._end()
                return None

    def _ask(self, question: str) -> str:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101, PT018 - they are pipes
        # Ends a write that nobody reads, too.
        timer = threading.Timer(_TIMEOUT_SECONDS, self._process.kill)
        timer.start()
        try:
            stdin.write(question)
            stdin.flush()
            return str(json.loads(stdout.readline()))
        finally:
            timer.cancel()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError):  # what it was asked and did not read
                process.communicate()


_CHILD = Child([sys.executable, "-I", "-m", "infbox.pack.symbols"])


def main() -> None:
    """The child: a file a line in, its outline a line out."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path, text = json.loads(line)
        # Its signal ends the process, also within a grammar.
        signal.setitimer(signal.ITIMER_PROF, _FILE_CPU_SECONDS)
        print(json.dumps(outline(path, text)), flush=True)


def outline(path: str, text: str) -> str:
    """The outline of one file, in this process: for files that are not hostile, and for the child."""
    grammar = _grammar_of(path)
    source = text.encode(errors="replace")
    if grammar is None or len(source) > MOST_BYTES:
        return ""
    try:
        root = _parse(grammar, source)
    except (ImportError, ValueError, RuntimeError, SystemError):
        return ""
    names: dict[str, None] = {}
    for name in _definitions(grammar, root) if root is not None else ():
        names[name] = None
        if len(names) == MOST_NAMES:
            break
    return ", ".join(names)


def _grammar_of(path: str) -> _Grammar | None:
    return _LANGUAGES.get(PurePosixPath(path).suffix.lower())


def _parse(grammar: _Grammar, source: bytes) -> Node | None:
    """The tree of a text, None where it is too much work."""
    reports = 0

    def stop(_offset: int, _has_error: bool) -> bool:
        nonlocal reports
        reports += 1
        return reports > _MOST_REPORTS

    # A parser that was stopped would go on with the same text, so each text has its own.
    tree = Parser(_language(grammar)).parse(
        lambda offset, _point: source[offset : offset + 65_536], progress_callback=stop
    )
    return None if reports > _MOST_REPORTS else tree.root_node


@cache
def _language(grammar: _Grammar) -> Language:
    capsule: object = getattr(import_module(grammar.module), grammar.function)()
    return Language(capsule)


def _definitions(grammar: _Grammar, root: Node) -> Iterator[str]:
    waiting = [(root, 0)]
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        node, depth = waiting.pop()
        if node.type in grammar.types and (name := _name(node)):
            yield name
        elif node.type in grammar.functions and (name := _name(node)):
            yield f"{name}()"
        elif depth == 0 or (depth <= _DEPTH and node.type in grammar.inside):
            waiting += [(child, depth + 1) for child in reversed(node.named_children[:_MOST_NODES])]


def _name(node: Node) -> str:
    """What a definition is called; in C it is within its declarators."""
    found = node.child_by_field_name("name")
    for _ in range(8):
        if found is not None:
            break
        inner = node.child_by_field_name("declarator")
        if inner is None:
            break
        node = inner
        found = node.child_by_field_name("name")
        if found is None and node.child_by_field_name("declarator") is None:
            found = node
    said = (found.text or b"").decode(errors="replace") if found is not None else ""
    return "" if len(said) > _MOST_NAME_LENGTH or not said.isprintable() else said


if __name__ == "__main__":
    main()

"""One workspace: its files become a pack, and the pack follows them.

`flush` is what a request calls: it looks at everything that was seen before it began, and returns the pack that shows
it. `work` does in the background what is due by then, `due` says when; `rebase` may run beside both.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from infbox.errors import InfboxError, WorkspaceError
from infbox.pack.layout import Pack, Writer
from infbox.pack.overlay import Packer
from infbox.pack.rebase import Rules, rebase
from infbox.pack.select import Exclusion, Selector
from infbox.pack.store import StoreError
from infbox.pack.tokens import PackTokenizer
from infbox.watcher.changes import Batch, Changes, GitLock
from infbox.watcher.files import NOT_CHOSEN, Entry, digest_of, lasting, stamp_of
from infbox.watcher.first import BYTES_A_TOKEN, ages_of, first_pack
from infbox.watcher.settings import WorkspaceSettings
from infbox.watcher.state import read_state, write_state
from infbox.watcher.times import Times
from infbox.watcher.tree import POLL_SECONDS, Look, Tree
from infbox.watcher.watches import Watches

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
IDLE_REBASE_SECONDS = 300.0
KEEP_SECONDS = 30.0
# Of the budget, left free by a base and its overlay: while saves fill it, a rebase is made in the background. Without
# it, a save that passes the budget would have to wait for one.
_SLACK = 0.06

State = Literal["indexing", "ready", "failed"]


class UnavailableError(InfboxError):
    """A workspace has no pack to give now."""


class Workspace:
    """A workspace of the box. Safe for several threads; the first index and each flush hold its lock.

    Args:
        state_folder: where to keep what outlives a restart.
        on_change: called, from any thread, when another pack is exposed or the state is another one.
    """

    def __init__(
        self,
        settings: WorkspaceSettings,
        tokenizer: PackTokenizer,
        rules: Rules,
        watches: Watches,
        state_folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.name = f"{settings.tenant}/{settings.name}"
        self.files: dict[str, Entry] = {}
        self.state: State = "indexing"
        self.fault: InfboxError | None = None
        self.state_fault = ""
        self.progress = (0, 0)
        self.rebases = 0
        self.stopping = False
        self._tokenizer = tokenizer
        self._rules = rules
        tokens = rules.budget_tokens
        self._base_rules = rules if tokens is None else replace(rules, budget_tokens=int(tokens * (1 - _SLACK)) or 1)
        self._watches = watches
        self._folder = state_folder
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.RLock()
        self._keeping = threading.Lock()
        self._packer: Packer | None = None
        self._pack: Pack | None = None
        self._retry_at: float | None = 0.0
        self._poll_at: float | None = None
        self._keep_at: float | None = None
        self._idle_at: float | None = None
        self._distrust = False
        self._said_watches = ""
        self._rebased_to: Pack | None = None
        git_lock = GitLock(clock)
        self.changes = Changes(clock, lambda: git_lock.is_held(self.tree.git_folder))
        self.tree = Tree(settings.path, self._select, watches, self, self.files)
        self.times = Times(clock)

    @property
    def pack(self) -> Pack | None:
        """The pack that was exposed last."""
        return self._pack

    @property
    def is_unsaved(self) -> bool:
        """Whether there is something for `keep`."""
        return self._keep_at is not None

    def seen(self, folder: str, name: str, mask: int) -> None:
        """An event: only noted."""
        calls_for_listing = self.tree.is_rule_event(folder, name)
        if calls_for_listing:
            self.changes.note_all()
        elif calls_for_listing is None:
            self.changes.note(folder, name, mask)

    def lost(self) -> None:
        """Events were lost."""
        logger.warning("%s: the kernel's event queue overflowed; listing the workspace afresh", self.name)
        self._distrust = True
        self.changes.note_all()

    def flush(self) -> Pack:
        """The pack that shows every save that was noted before.

        Raises:
            UnavailableError: the first index is not done, or the workspace cannot be read; the reason is in it.
        """
        self._check()
        with self._lock:
            self._check()
            return self._flush()

    def due(self) -> float | None:
        """When `work` has something to do, by the clock."""
        if self.state == "failed" or self._packer is None:
            return self._retry_at
        polling = self._poll_at if self.tree.unwatched else None
        times = [self.changes.due(), polling, self._keep_at]
        return min((each for each in times if each is not None), default=None)

    def work(self) -> None:
        """Do what is due."""
        now = self._clock()
        with self._lock:
            if self.state == "failed" or self._packer is None:
                if self._retry_at is not None and now >= self._retry_at:
                    self._recover()
            else:
                changes = self.changes.due()
                polling = bool(self.tree.unwatched) and self._poll_at is not None and now >= self._poll_at
                if polling or (changes is not None and now >= changes):
                    try:
                        self._flush()
                    except UnavailableError:
                        return
        if self._keep_at is not None and now >= self._keep_at:
            self.keep()

    def rebase_due(self) -> float | None:
        """When `rebase` has something to do, by the clock."""
        packer = self._packer
        if packer is None or self.state != "ready" or packer.pack is self._rebased_to:
            return None
        return 0.0 if packer.needs_rebase else self._idle_at

    def rebase(self) -> None:
        """Make a new base beside the work, and swap it in."""
        with self._lock:
            if self._packer is None:
                return
            old, whole = self._packer.pack, not self._packer.needs_rebase
        new = rebase(Writer(self._tokenizer), old, self._base_rules, whole=whole)
        with self._lock:
            packer = self._packer
            if packer.pack.base_digest != old.base_digest:
                return
            packer.swap(new)
            self._rebased_to = packer.seal()
            self.rebases += 1
            self._expose(None)

    def keep(self) -> None:
        """Write what outlives a restart. A disk that is full is said once, and stops nothing."""
        with self._keeping:
            self._keep()

    def _keep(self) -> None:
        with self._lock:
            pack, files = self._pack, dict(self.files)
            self._keep_at = None
        if pack is None:
            return
        try:
            write_state(self._folder, str(self.settings.path), pack, files)
        except (OSError, StoreError) as fault:
            why = fault.message if isinstance(fault, StoreError) else fault.strerror or fault
            said = f"{self._folder} cannot be written, so a restart would lose this pack's KV: {why}"
            if said != self.state_fault:
                logger.error("%s: %s", self.name, said)
            self.state_fault = said
            self._keep_at = self._clock() + KEEP_SECONDS
        else:
            self.state_fault = ""

    def warmed(self, seconds: float | None, digest: str, tokens: int, cached_tokens: int) -> None:
        """The gateway has warmed a version."""
        self.times.warmed(digest, seconds, tokens, cached_tokens)

    def cooled(self) -> None:
        """The engine has lost what was warm."""
        self.times.cooled()

    def _check(self) -> None:
        if self.state == "failed" and self.fault is not None:
            raise UnavailableError(self.fault.message, self.fault.hint)
        if self._packer is None or self.state != "ready":
            done, total = self.progress
            raise UnavailableError(f"{self.name} is being indexed: {done:,} of {total:,} files", "ask again soon")

    def _flush(self) -> Pack:
        batch = self.changes.take()
        try:
            self._look(batch)
        except (InfboxError, OSError) as fault:
            self.changes.note_all()
            raise self._fail(fault) from None
        except BaseException:
            self.changes.note_all()
            raise
        return self._expose(batch.since)

    def _look(self, batch: Batch) -> None:
        if not self.tree.is_here() or any(Selector.is_rule_file(path) for path in batch.paths):
            batch.afresh = True
        if batch.afresh:
            distrust, self._distrust = self._distrust, False
            self._take_in(self.tree.list_afresh(batch.paths, distrust))
        elif batch or self.tree.unwatched:
            self._take_in(self.tree.look_at(batch.paths))
        self._say_watches()

    def _take_in(self, look: Look) -> None:
        """What was seen becomes part of the pack, or a pack of its own where the one before says too little of it."""
        packer = self._packer
        assert packer is not None  # noqa: S101 - its callers have one
        new = [status.st_size for path, status in look.files.items() if path not in self.files]
        tokens = self._rules.budget_tokens
        too_many = tokens is not None and sum(new) > tokens * BYTES_A_TOKEN
        if not too_many and (not new or any(segment.kind == "file" for segment in packer.pack.base)):
            self._absorb(look)
            return
        # A clone into an empty folder: it has a history to be ordered by, and may be more than is to be read.
        self.files.clear()
        try:
            pack = self._first_pack(self.tree.list_afresh())
        except BaseException:
            self._packer = None  # it knows of other files than those remembered now
            raise
        version = packer.pack.version + 1
        self._packer = Packer(self._tokenizer, replace(pack, version=version, born=version), self._rules)

    def _absorb(self, look: Look) -> None:
        """Read what may have changed, and note it for the pack."""
        packer = self._packer
        assert packer is not None  # noqa: S101 - its callers have one
        for path in look.gone:
            self.files.pop(path, None)
            packer.save(path, None)
        for path, status in look.files.items():
            old = self.files.get(path)
            stamp = lasting(stamp_of(status), time.time_ns())
            content = self.tree.selector.read(path)
            if isinstance(content, Exclusion):
                self.files[path] = Entry(stamp, b"", content.reason)
                packer.save(path, None)
                continue
            digest = digest_of(content)
            self.files[path] = Entry(stamp, digest)
            if old is None or old.digest != digest:
                packer.save(path, content)

    def _expose(self, since: float | None) -> Pack:
        packer = self._packer
        assert packer is not None  # noqa: S101 - its callers have one
        pack = packer.seal()
        now = self._clock()
        if self.tree.unwatched:
            self._poll_at = now + POLL_SECONDS
        if pack is not self._pack:
            self._pack = pack
            self._idle_at = now + IDLE_REBASE_SECONDS if pack.overlay else None
            self._keep_at = self._keep_at or now + KEEP_SECONDS
            self.times.exposed(pack.digest, since)
            self._on_change()
        return pack

    def _recover(self) -> None:
        """Make the first pack, or go on after a fault."""
        self.state, again = "indexing", self.state == "failed"
        self._retry_at = None
        try:
            if self._packer is None:
                self._index()
            else:
                self.changes.take()
                self._absorb(self.tree.list_afresh(distrust=True))
            self._expose(None)
            self._say_watches()
        except (InfboxError, OSError) as fault:
            self._fail(fault)
            return
        except Exception as fault:
            logger.exception("%s: a fault of the watcher", self.name)
            self._fail(fault)
            return
        if again:
            logger.info("%s: it can be read again", self.name)
        self.state, self.fault = "ready", None
        self._on_change()

    def _fail(self, fault: Exception) -> UnavailableError:
        said = fault if isinstance(fault, InfboxError) else WorkspaceError(f"{self.name}: {fault}")
        if self.fault is None or self.fault.message != said.message:
            logger.error("%s: %s", self.name, said.message)
        self.state, self.fault = "failed", said
        self._retry_at = self._clock() + RETRY_SECONDS
        if not self.settings.path.is_dir():
            self.tree.drop_watches()
        self._on_change()
        return UnavailableError(said.message, said.hint)

    def _index(self) -> None:
        """The first pack, or the one that was kept."""
        self.files.clear()
        kept = read_state(self._folder, str(self.settings.path), self._tokenizer, self.settings.name)
        if kept.said:
            logger.warning("%s: %s; it is made from scratch", self.name, kept.said)
        self.files.update(kept.files or {})
        self.changes.take()
        look = self.tree.list_afresh()
        self.progress = (0, len(look.files))
        if kept.pack is None:
            self._packer = Packer(self._tokenizer, self._first_pack(look), self._rules)
            self._keep_at = self._clock()
            return
        self._packer = Packer(self._tokenizer, kept.pack, self._rules)
        shown = kept.pack.workspace().keys()
        there = self.files.keys() | look.files.keys()
        look.gone |= {*shown, *kept.pack.omitted} - there
        if kept.files is None:
            for path in look.files.keys() & set(kept.pack.omitted):
                self.files[path] = Entry(stamp_of(look.files.pop(path)), b"", NOT_CHOSEN)
        self._absorb(look)
        self._pack = kept.pack

    def _first_pack(self, look: Look) -> Pack:
        sizes = {path: status.st_size for path, status in look.files.items()}

        def keep(path: str, content: bytes | Exclusion) -> None:
            stamp = lasting(stamp_of(look.files[path]), time.time_ns())
            if isinstance(content, Exclusion):
                self.files[path] = Entry(stamp, b"", content.reason)
            else:
                self.files[path] = Entry(stamp, digest_of(content))
            self.progress = (self.progress[0] + 1, self.progress[1])
            if self.stopping:
                raise UnavailableError(f"{self.name} is not indexed: the watcher ends")

        def pass_over(path: str) -> None:
            keep(path, Exclusion(NOT_CHOSEN))

        writer = Writer(self._tokenizer)
        ages = ages_of(self.settings.path, sizes)
        read = self.tree.selector.read
        return first_pack(writer, self.settings.name, sizes, ages, self._base_rules, read, keep, pass_over)

    def _say_watches(self) -> None:
        fault = self.tree.watch_fault(self.name)
        message = fault.message if fault else ""
        if message and message != self._said_watches:
            logger.error("%s\nhint: %s", message, fault.hint if fault else "")
        self._said_watches = message

    def _select(self) -> Selector:
        return Selector(self.settings.path, scratch=self._folder)

"""`Watcher`: all workspaces of the box. One thread waits for the kernel; a few do what is due.

While nothing happens it waits without a time limit: there are no wake-ups.
"""

import ctypes
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from infbox.pack.layout import Pack
from infbox.pack.rebase import Rules
from infbox.pack.tokens import PackTokenizer, TokenIds
from infbox.watcher.settings import Settings
from infbox.watcher.watches import Kernel, Watches, open_kernel
from infbox.watcher.workspace import Workspace

logger = logging.getLogger(__name__)

_WORKERS = 4
# Of a pack of this size a new base with each save costs next to nothing, and no more than a tenth of the budget.
_SMALL_TOKENS = 512
Job = Literal["work", "rebase"]


def _give_back_memory() -> None:
    """To the system: reading a tokenizer leaves more than 100 MB free in this process."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


class SharedTokenizer(PackTokenizer):
    """One tokenizer for all threads."""

    def __init__(self, tokenizer_json: str) -> None:
        self._lock = threading.Lock()
        super().__init__(tokenizer_json)

    def encode(self, text: str) -> TokenIds:
        """The ids of a text, one text at a time."""
        with self._lock:
            return super().encode(text)


class Watcher:
    """The workspaces of `settings`, kept up to date from `start` to `stop`.

    Raises:
        ModelError: the model's tokenizer cannot be read.
        OSError: there is no inotify instance to be had.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.monotonic,
        tokenizer: PackTokenizer | None = None,
    ) -> None:
        self._clock = clock
        self._changed: list[Callable[[Workspace], None]] = []
        self.model = settings.model
        tokenizer = tokenizer or SharedTokenizer.from_file(settings.model)
        _give_back_memory()
        self.watches = Watches(kernel or open_kernel())
        rules = Rules(
            budget_tokens=settings.pack_tokens, small_tokens=min(_SMALL_TOKENS, (settings.pack_tokens or 0) // 10)
        )
        self.workspaces: dict[tuple[str, str], Workspace] = {}
        for each in settings.workspaces:
            folder = settings.state_dir / each.tenant / each.name
            made = Workspace(each, tokenizer, rules, self.watches, folder, clock=clock, on_change=self._tell(each))
            self.workspaces[each.tenant, each.name] = made
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self._busy: set[tuple[Workspace, Job]] = set()
        self._busy_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="workspace")
        self._thread = threading.Thread(target=self._run, name="inotify", daemon=True)

    def now(self) -> float:
        """Monotonic seconds, by the clock that all times here are of."""
        return self._clock()

    def start(self) -> None:
        """Begin: the first indexes are made in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End, and write what outlives a restart."""
        if self._stopping:
            return
        self._stopping = True
        for each in self.workspaces.values():
            each.stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        for each in self.workspaces.values():
            if each.is_unsaved:
                each.keep()
        self.watches.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def on_change(self, told: Callable[[Workspace], None]) -> None:
        """Have `told` called, from any thread, when a workspace has another pack or state."""
        self._changed.append(told)

    def pack(self, tenant: str, name: str) -> Pack:
        """The pack of a workspace, with every save in it that ended before this was called.

        Raises:
            KeyError: there is no such workspace.
            UnavailableError: it has no pack now.
        """
        workspace = self.workspaces[tenant, name]
        seen = self.watches.read()
        try:
            return workspace.flush()
        finally:
            if seen:
                self._wake()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self.watches.fileno(), select.POLLIN)
        poller.register(self._wake_r, select.POLLIN)
        while not self._stopping:
            try:
                poller.poll(self._start_due())
                self._drain()
                self.watches.read()
            except Exception:
                logger.exception("a fault of the watcher")
                time.sleep(1)

    def _start_due(self) -> float | None:
        """Hand out what is due. Returns the milliseconds until more is, or None."""
        now = self._clock()
        times: list[float] = []
        for workspace in self.workspaces.values():
            jobs: tuple[tuple[Job, float | None], ...] = (("work", workspace.due()), ("rebase", workspace.rebase_due()))
            for job, due in jobs:
                key = (workspace, job)
                with self._busy_lock:
                    if due is None or key in self._busy:
                        continue
                    if due > now:
                        times.append(due)
                        continue
                    self._busy.add(key)
                self._pool.submit(self._do, workspace, job)
        return max(min(times) - now, 0.0) * 1000 + 1 if times else None

    def _do(self, workspace: Workspace, job: Job) -> None:
        try:
            if not self._stopping:
                (workspace.work if job == "work" else workspace.rebase)()
        except Exception:
            logger.exception("%s: a fault of the watcher", workspace.name)
            time.sleep(1)
        finally:
            with self._busy_lock:
                self._busy.discard((workspace, job))
            self._wake()

    def _tell(self, settings: object) -> Callable[[], None]:
        def tell() -> None:
            self._wake()  # another pack has other things due, whoever has asked for it
            for workspace in self.workspaces.values():
                if workspace.settings is settings:
                    for told in self._changed:
                        told(workspace)

        return tell

    def _wake(self) -> None:
        try:
            os.write(self._wake_w, b"!")
        except (BlockingIOError, OSError):
            return

    def _drain(self) -> None:
        try:
            while os.read(self._wake_r, 4096):
                pass
        except BlockingIOError:
            return

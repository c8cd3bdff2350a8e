"""Computes packs before anyone asks for them, by the way that requests take: header and pack, and one token more.

When: at the start, on every new version (a long poll of the watcher), and when the engine is another one than before.
In pieces: each is a longer beginning of the same prefix, as long as the engine computes in about a second, so one that
is given up loses at most that. The blocks that the engine has completed by then stay in its cache. Pieces end where a
block of that cache ends: what is behind the last whole block would be computed for nothing.

What is warm is asked for again after some minutes, for one token: of packs that nobody used for a while, neither the
engine's cache nor what is kept behind it (role lmcache) then gives up any before what was asked for once.

People come first. A piece starts only while nobody waits for a first token; it is given up at once when somebody comes,
and taken up again when that token is there. It also asks with a lower priority, which settles who is first inside an
engine that schedules by priority. A piece that is not part of the newest version any more is given up too.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from infbox.engine_probe import Answer
from infbox.gateway import allowlist
from infbox.gateway.bodies import engine_body
from infbox.gateway.code.answers import cached_tokens
from infbox.gateway.code.passing import EngineRefusal
from infbox.gateway.code.people import People
from infbox.gateway.code.splice import Place, serialised, with_field
from infbox.gateway.code.tally import Tally
from infbox.gateway.code.template import Template, Templates
from infbox.gateway.code.workspaces import Pack, Workspaces
from infbox.gateway.engine import Engine, broken
from infbox.gateway.refusal import Refusal

logger = logging.getLogger(__name__)
PRIORITY = 10  # people's requests have 0, and lower comes first
FIRST_PIECE, SMALLEST_PIECE, LARGEST_PIECE = 512, 128, 65_536
PIECE_TIMEOUT_SECONDS = 600.0
POLL_SECONDS = 30.0
LISTING_SECONDS = 5.0
ENGINE_SECONDS = 1.0
RETRY_SECONDS = 2.0
UNCHANGED_SECONDS = 0.1
TOUCH_SECONDS = 600.0

Key = tuple[str, str]


@dataclass
class Progress:
    """How far a workspace has been warmed: `done` tokens of `pack`, in the engine of this `generation`."""

    generation: tuple[int, ...]
    pack: Pack
    done: int = 0
    computed: int = 0
    seconds: float = 0.0
    reported: bool = False
    touched: float = 0.0


class Prewarmer:
    """Keeps every workspace warm while it runs."""

    def __init__(
        self,
        engine: Engine,
        workspaces: Workspaces,
        templates: Templates,
        people: People,
        tally: Tally,
        piece_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._workspaces = workspaces
        self._templates = templates
        self._people = people
        self._tally = tally
        self._piece_seconds = piece_seconds
        self._clock = clock
        self._piece_tokens = FIRST_PIECE
        self._priority = PRIORITY
        self._newest: dict[Key, Pack] = {}
        self._progress: dict[Key, Progress] = {}
        self._wake = asyncio.Event()
        self._following: dict[Key, asyncio.Task[None]] = {}
        self._piece: tuple[Key, Pack, int, asyncio.Task[int | None]] | None = None
        self._said = ""

    async def run(self) -> None:
        """Warm until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._discover(tasks))
                tasks.create_task(self._watch_engine())
                tasks.create_task(self._work())
        finally:
            self._following.clear()

    async def _discover(self, tasks: asyncio.TaskGroup) -> None:
        """Follow every workspace there is."""
        while True:
            with contextlib.suppress(Refusal):
                found = {(one.tenant, one.name) for one in await self._workspaces.listing()}
                for key in found - self._following.keys():
                    self._following[key] = tasks.create_task(self._follow(key))
                for key in self._following.keys() - found:
                    self._following.pop(key).cancel()
                    self._newest.pop(key, None)
                    self._progress.pop(key, None)
            await asyncio.sleep(LISTING_SECONDS)

    async def _follow(self, key: Key) -> None:
        """Take note of every new version of one workspace."""
        digest = ""
        while True:
            try:
                pack = await self._workspaces.next_pack(*key, digest, POLL_SECONDS)
            except Refusal:
                # A watcher that was started anew does not know what is warm.
                digest = ""
                if known := self._progress.get(key):
                    known.reported = False
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if pack.digest == digest:
                await asyncio.sleep(UNCHANGED_SECONDS)  # should a watcher not wait as it was asked to
                continue
            digest = pack.digest
            self._newest.pop(key, None)
            self._newest[key] = pack  # the last saved is the first warmed
            if self._piece is not None and self._piece[0] == key and not shares(self._piece[1], pack, self._piece[2]):
                self._piece[3].cancel()
            self._wake.set()

    async def _watch_engine(self) -> None:
        """Begin anew with another engine."""
        generation = self._templates.generation()
        while True:
            await asyncio.sleep(ENGINE_SECONDS)
            if self._templates.generation() != generation:
                generation = self._templates.generation()
                self._priority = PRIORITY
                if not generation:
                    for key in list(self._newest):
                        await self._cool(key)
                self._wake.set()

    async def _work(self) -> None:
        """One piece after the other, for as long as anything is cold and nobody waits."""
        while True:
            await self._people.none()
            key, work = self._coldest(), self._step
            if key is None:
                key, work = self._untouched(), self._touch
            if key is None:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), TOUCH_SECONDS)
                continue
            try:
                await work(key, await self._templates.current())
            except Refusal as refusal:
                self._say(refusal)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._said = ""

    def _coldest(self) -> Key | None:
        """The workspace that was saved last, of those that are not warm."""
        generation = self._templates.generation()
        if not generation:
            return None
        for key, pack in reversed(self._newest.items()):
            known = self._progress.get(key)
            warm = known is not None and known.generation == generation and known.reported
            if not warm or known is None or known.pack.digest != pack.digest:
                return key
        return None

    def _untouched(self) -> Key | None:
        """A warm workspace that was not asked for by us in the last minutes."""
        generation, before = self._templates.generation(), self._clock() - TOUCH_SECONDS
        for key, known in self._progress.items():
            if known.generation == generation and known.done and known.touched <= before:
                return key
        return None

    async def _touch(self, key: Key, template: Template) -> None:
        """Have it used; should some have been lost, it is computed again."""
        progress = self._progress[key]
        begun = progress.touched = self._clock()
        cached = await self._compute(key, template, progress.pack, progress.done)
        if cached is not None:
            warmed = era(progress.generation, progress.pack)
            self._tally.prewarmed(key, warmed, cached, len(template.header) + progress.done, self._clock() - begun)

    async def _step(self, key: Key, template: Template) -> None:
        """Warm the next piece of a workspace."""
        known = self._progress.get(key)
        if known is not None and known.generation != self._templates.generation():
            await self._cool(key)
        progress = self._resume(key)
        pack, total = progress.pack, len(progress.pack.ids)
        if template.context_tokens and len(template.header) + total >= template.context_tokens:
            logger.warning("a pack of %d tokens is too long for a context of %d", total, template.context_tokens)
            progress.reported = True
            return
        end = piece_end(len(template.header), progress.done, self._piece_tokens, total, template.block_tokens)
        if end <= progress.done:
            await self._finish(progress, template)
            return
        begun = self._clock()
        try:
            cached = await self._compute(key, template, pack, end)
        except EngineRefusal as refusal:
            progress.reported = refusal.status < 500  # this version and this engine do not go together
            raise
        if cached is None:
            self._tally.interrupted()
            return
        seconds = self._clock() - begun
        computed = max(len(template.header) + end - cached, 0)
        ahead = cached - len(template.header) - progress.done
        self._adapt(ahead, computed, seconds, template.block_tokens)
        self._tally.prewarmed(key, era(progress.generation, pack), cached, len(template.header) + end, seconds)
        progress.done = end
        progress.computed += computed
        progress.seconds += seconds

    async def _finish(self, progress: Progress, template: Template) -> None:
        """Nothing is left to compute: tell the watcher."""
        progress.reported, progress.touched = True, self._clock()
        before = max(len(template.header) + len(progress.pack.ids) - progress.computed, 0)
        with contextlib.suppress(Refusal):
            await self._workspaces.warmed(progress.pack, cached_tokens=before, seconds=progress.seconds)

    async def _cool(self, key: Key) -> None:
        """The engine that had this workspace is gone: tell the watcher."""
        with contextlib.suppress(Refusal):
            await self._workspaces.cooled(*key)

    def _resume(self, key: Key) -> Progress:
        """The progress in the newest pack, as far as it shares its beginning with the one before."""
        pack, generation = self._newest[key], self._templates.generation()
        known = self._progress.get(key)
        if known is None or known.generation != generation:
            self._progress[key] = Progress(generation, pack)
        elif known.pack.digest != pack.digest:
            done = known.done if shares(known.pack, pack, known.done) else 0
            self._progress[key] = Progress(generation, pack, done)
        return self._progress[key]

    async def _compute(self, key: Key, template: Template, pack: Pack, end: int) -> int | None:
        """Have the first `end` tokens computed; returns how many were cached already, None if it was given up."""
        computing = asyncio.create_task(self._ask(template, pack, end))
        somebody = asyncio.create_task(self._people.somebody())
        self._piece = (key, pack, end, computing)
        try:
            await asyncio.wait((computing, somebody), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._piece = None
            somebody.cancel()
            computing.cancel()
            await asyncio.gather(computing, somebody, return_exceptions=True)
        return None if computing.cancelled() else computing.result()

    async def _ask(self, template: Template, pack: Pack, end: int) -> int:
        whole = end == len(pack.ids)
        fragment = self._workspaces.fragment(pack, end) if whole else serialised(pack.ids[:end])
        ids = Place(template.header, ()).join(fragment)
        while True:
            body = engine_body({"model": template.model, "max_tokens": 1, "temperature": 0}, pack.workspace.tenant)
            body = with_field(body, b'"prompt":[%b],"priority":%d' % (ids, self._priority))
            answer = await self._post(body)
            if answer.status == 400 and self._priority and b"riority" in answer.body:
                logger.info("the engine does not schedule by priority: prewarming has none")
                self._priority = 0
                continue
            if answer.status != 200:
                raise EngineRefusal(answer.status, answer.body)
            return cached_tokens(answer.json()) or 0

    async def _post(self, body: bytes) -> Answer:
        headers = {"x-request-id": f"prewarm-{uuid.uuid4().hex}"}
        try:
            async with (
                asyncio.timeout(PIECE_TIMEOUT_SECONDS),
                self._engine.request("POST", allowlist.COMPLETIONS, body, headers) as response,
            ):
                return Answer(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError):
            raise broken("The engine did not finish a piece of prewarming.") from None

    def _adapt(self, ahead: int, computed: int, seconds: float, block: int) -> None:
        """Make pieces as long as the engine computes in the time they should take.

        `ahead` tokens behind our own progress were in the cache: a request was here before us, and nothing
        can be lost. The engine computes the last block of a cached prompt anew, so a piece has two of them at least.
        """
        if ahead > 0:
            wanted = self._piece_tokens * 4
        elif computed < self._piece_tokens // 4:
            wanted = self._piece_tokens
        else:
            wanted = min(int(computed / max(seconds, 0.001) * self._piece_seconds), self._piece_tokens * 4)
        self._piece_tokens = min(max(wanted, SMALLEST_PIECE, 2 * block), LARGEST_PIECE)

    def _say(self, refusal: Refusal) -> None:
        if refusal.code != self._said:
            self._said = refusal.code
            logger.warning("prewarming waits: %d %s", refusal.status, refusal.message)


def piece_end(header: int, done: int, tokens: int, total: int, block: int) -> int:
    """Where in the pack the next piece ends: at the last end of a block within `tokens`, else at the next."""
    wanted = (header + min(done + tokens, total)) // block * block
    if wanted <= header + done:
        wanted = (header + done) // block * block + block
    return wanted - header if wanted <= header + total else done


def shares(one: Pack, other: Pack, count: int) -> bool:
    """Whether two versions have their first `count` tokens in common."""
    if one.base != other.base or count > min(len(one.ids), len(other.ids)):
        return False
    return one.digest == other.digest or one.content(count) == other.content(count)


def era(generation: tuple[int, ...], pack: Pack) -> object:
    """What the positions of a prefix are good for: another engine or another base has other tokens there."""
    return (generation, pack.base)

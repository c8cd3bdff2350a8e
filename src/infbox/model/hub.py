"""`hf:ORG/NAME[@REVISION]`: a model from the Hugging Face hub or a mirror, resumed byte by byte.

The hub's own client asks what there is and moves the bytes, but not through its `snapshot_download`: that one
downloads to a name unique to the process (huggingface_hub 2.x), so a kill loses every file in flight (up to eight
shards of 5 GB), and it checks sizes only. Here a file grows as `.parts/PATH` in the staging folder, and takes its name
once its checksum is the hub's: SHA-256 for large files, the git object's SHA-1 for the others. A file larger than
plain HTTP serves (50 GB) goes through `hf_hub_download`, that is Xet, and resumes from its beginning.
"""

import fnmatch
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from infbox.errors import ModelError
from infbox.model import hub_client, hub_faults
from infbox.model.hub_client import HubClient, RemoteFile, StoppedError
from infbox.model.manifest import read_manifest
from infbox.model.settings import HubSource, ModelSettings, read_token

STATE = ".hub.json"  # in the staging folder: the commit that this download is of
PARTS = ".parts"
LARGE = ".large"
PARALLEL_FILES = 8
PROGRESS_SECONDS = 5.0
RESERVE_BYTES = 64 * 1024 * 1024  # left free on the disk

# What an engine opens. Python files lie inert unless the engine is told to trust remote code, and then it needs them.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py", "LICENSE*", "NOTICE*")
WANTED_BELOW = ("additional_chat_templates/*.jinja",)

T = TypeVar("T")


def fetch_hub(
    settings: ModelSettings,
    source: HubSource,
    staging: Path,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Download what an engine needs of the repository into `staging`. Returns the commit.

    Raises:
        ModelError: the hub is out of reach or refuses, the disk is too small, or a file is not what the hub says it is.
    """
    client = HubClient(source.repo, settings.hub_endpoint, read_token(settings))
    hub = _Download(settings, source, staging, client, say, sleep)
    commit = hub.retrying("asking for the revision", hub.resolve)
    listed = hub.retrying("listing the files", lambda: client.list_files(commit))
    files = choose(listed, source.repo)
    _drop_others(staging, {file.path for file in files})
    hub.take_over(files)
    missing = [file for file in files if not _has(staging / file.path, file.size)]
    hub.check_space(missing)
    total = sum(file.size for file in files)
    say(f"fetching {source.repo} at {commit[:12]}: {len(files)} files, {total / 1e9:.2f} GB")
    with _progress(staging, total, say):
        hub.download_all(commit, missing)
    shutil.rmtree(staging / PARTS, ignore_errors=True)
    shutil.rmtree(staging / LARGE, ignore_errors=True)
    return commit


def choose(files: list[RemoteFile], repo: str) -> list[RemoteFile]:
    """The files that an engine needs.

    Raises:
        ModelError: the repository holds no safetensors, or names that leave the folder.
    """
    for file in files:
        if not file.path or file.path.startswith("/") or ".." in file.path.split("/"):
            raise ModelError(f"{repo} lists the file {file.path!r}, which would leave its folder", "do not use it")
    top = {file.path for file in files if "/" not in file.path and not file.path.startswith(".")}
    weights = {path for path in top if path.endswith(".safetensors")}
    if not weights:
        hub_faults.refuse_without_safetensors(repo, top)
    if any(path.startswith("model") for path in weights):  # then these hold the same again, in their maker's layout
        top -= {path for path in weights if path.startswith("consolidated")}
    return [
        file
        for file in files
        if any(fnmatch.fnmatchcase(file.path, pattern) for pattern in (WANTED if file.path in top else WANTED_BELOW))
    ]


def _drop_others(staging: Path, wanted: set[str]) -> None:
    """Remove from the staging folder what the revision does not hold; what is half-fetched stays."""
    for path in list(staging.rglob("*")):
        relative = path.relative_to(staging)
        if path.is_file() and not relative.parts[0].startswith(".") and relative.as_posix() not in wanted:
            path.unlink()


class _Download:
    """One download: a repository's client, the staging folder, and how to speak and wait."""

    def __init__(
        self,
        settings: ModelSettings,
        source: HubSource,
        staging: Path,
        client: HubClient,
        say: Callable[[str], None],
        sleep: Callable[[float], None],
    ) -> None:
        self.settings, self.source, self.staging, self.client = settings, source, staging, client
        self.say, self.sleep = say, sleep
        self.stop = threading.Event()

    def resolve(self) -> str:
        """The commit to fetch: the one this download or the folder already began with, else what the hub says now."""
        state = self.staging / STATE
        commit = _state(state).get("commit")
        if isinstance(commit, str):
            return commit
        manifest = read_manifest(self.settings.folder)
        if manifest is not None and manifest.source == self.settings.source:
            commit = manifest.revision
        else:
            commit = self.client.resolve(self.source.revision)
        partial = state.with_name(f"{STATE}.partial")
        partial.write_text(json.dumps({"commit": commit}), encoding="utf-8")
        partial.rename(state)
        return commit

    def take_over(self, files: list[RemoteFile]) -> None:
        """Use again what the present folder holds unchanged (a mend, or a new revision of the same model)."""
        for file in files:
            have, target = self.settings.folder / file.path, self.staging / file.path
            if _has(target, file.size) or self.settings.folder.is_symlink() or not _has(have, file.size):
                continue
            if _checksum_fault(have, file) is None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                os.link(have, target)

    def check_space(self, missing: list[RemoteFile]) -> None:
        """Refuse before the first byte what cannot end well."""
        begun = sum(_size(self.staging / PARTS / file.path) for file in missing)
        needed = sum(file.size for file in missing) - begun + RESERVE_BYTES
        free = shutil.disk_usage(self.staging).free
        if missing and needed > free:
            raise ModelError(
                f"{self.source.repo} needs {needed / 1e9:.1f} GB more under MODEL_ROOT={self.settings.root}, "
                f"which has {free / 1e9:.1f} GB free",
                "give `model_root` a larger disk, remove models that are not used any more, or name a smaller "
                "(quantised) model",
            )

    def download_all(self, commit: str, files: list[RemoteFile]) -> None:
        """Download several at a time, the largest first; the first failure stops the others."""
        with ThreadPoolExecutor(max_workers=PARALLEL_FILES) as pool:
            ordered = sorted(files, key=lambda file: -file.size)
            running = [pool.submit(self._download, commit, file) for file in ordered]
            try:
                for done in running:
                    done.result()
            except BaseException:
                self.stop.set()
                for one in running:
                    one.cancel()
                wait(running)
                faults = [one.exception() for one in running if not one.cancelled()]
                first = next((fault for fault in faults if fault and not isinstance(fault, StoppedError)), None)
                if first is not None:
                    raise first from None
                raise

    def _download(self, commit: str, file: RemoteFile) -> None:
        """Bring one file whole and checked to its place in the staging folder."""
        part = self.staging / PARTS / file.path
        target = self.staging / file.path
        for path in (part, target):
            path.parent.mkdir(parents=True, exist_ok=True)
        for last in (False, True):
            self.retrying(f"fetching {file.path}", lambda: self._transfer(commit, file, part), lambda: _size(part))
            fault = _checksum_fault(part, file)
            if fault is None:
                part.rename(target)
                return
            part.unlink()
            if last:
                raise ModelError(
                    f"{file.path} of {self.source.repo} {fault}",
                    f"the copy that {self.client.where} serves is damaged or altered: try again later or another "
                    "`model_hub_endpoint`; if it goes on, check the machine's disk and memory",
                )
            self.say(f"{file.path} {fault}; fetching it again")

    def _transfer(self, commit: str, file: RemoteFile, part: Path) -> None:
        """Append what is missing of `part`."""
        if _size(part) > file.size:
            part.unlink()
        if file.size > hub_client.LARGEST_BY_HTTP:
            self.client.download_large(commit, file, self.staging / LARGE).rename(part)
        else:
            self.client.append(commit, file, part, self.stop)

    def retrying(self, what: str, attempt: Callable[[], T], measure: Callable[[], int] = lambda: 0) -> T:
        """Run `attempt` until it succeeds, or has failed `hub_attempts` times in a row without `measure` growing."""
        failed = 0
        while True:
            before = measure()
            try:
                return attempt()
            except (ModelError, StoppedError):
                raise
            except Exception as fault:
                reason = hub_faults.judge(
                    fault, self.settings, self.source.repo, self.client.where, self.client.with_token
                )
            failed = 1 if measure() > before else failed + 1
            if failed >= self.settings.hub_attempts:
                raise ModelError(f"{what} from {self.client.where}: {reason}, {failed} times", hub_faults.NO_NETWORK)
            pause = min(60, 2 ** (failed - 1))
            self.say(f"{what}: {reason}; trying again in {pause} s ({failed} of {self.settings.hub_attempts})")
            self.sleep(pause)


@contextmanager
def _progress(staging: Path, total: int, say: Callable[[str], None]) -> Generator[None]:
    """Say every few seconds how far the staging folder has grown; bytes of a kill's leftovers count too."""
    ended = threading.Event()

    def watch() -> None:
        before, then = _bytes_in(staging), time.monotonic()
        while not ended.wait(PROGRESS_SECONDS):
            done, now = _bytes_in(staging), time.monotonic()
            rate = max(0, done - before) / (now - then) / 1e6
            share = 100 * done / total if total else 100
            say(f"fetched {done / 1e9:.1f} of {total / 1e9:.1f} GB ({share:.0f} %), {rate:.0f} MB/s")
            before, then = done, now

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bytes_in(folder: Path) -> int:
    return sum(_size(Path(parent) / name) for parent, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    """Size in bytes; 0 for what is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _has(path: Path, size: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size


def _state(path: Path) -> dict[str, Any]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _checksum_fault(path: Path, file: RemoteFile) -> str | None:
    """Why `path` is not the file that the hub lists; None when it is."""
    if file.sha256:
        expected, digest = file.sha256, hashlib.sha256()
    else:  # a git object: its SHA-1 goes over a header and the content
        expected, digest = file.blob_id, hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    found = digest.hexdigest()
    return None if found == expected else f"has {digest.name} {found} instead of {expected}"

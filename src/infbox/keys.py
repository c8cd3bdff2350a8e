"""The store of API keys: a JSON file that `infbox key` changes and the gateway reads.

Only SHA-256 digests are stored. A key is 256 random bits, so there is nothing to guess and no reason for a slow or
salted hash: those protect passwords, which people choose. A plain digest also keeps the gateway's check of a few
microseconds out of the latency of every request.

The file's shape::

    {"keys": [{"name": "alice", "tenant": "alice", "sha256": "<64 hex>", "created": "2026-01-31T12:00:00+00:00"}]}

It is replaced whole (temporary file, fsync, rename), so a reader sees the old store or the new one, never half of one.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from infbox.errors import KeyStoreError

DEFAULT_KEYS_FILE = Path("/etc/infbox/gateway-keys.json")
NEW_STORE_MODE = 0o640  # root writes, the gateway's group reads
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
KEY_TEXT = re.compile(r"infbox-[A-Za-z0-9_-]{43}")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Key:
    """One entry of the store. Keys of one tenant share its part of the engine's prefix cache; tenants share nothing."""

    name: str
    tenant: str
    sha256: str
    created: str


def digest(key_text: str) -> str:
    """What is stored of a key: its SHA-256 in hex."""
    return hashlib.sha256(key_text.encode()).hexdigest()


def find(keys: Iterable[Key], presented: bytes) -> Key | None:
    """The key whose text was presented, compared in constant time with every stored one."""
    offered = hashlib.sha256(presented).hexdigest()
    found = None
    for key in keys:
        if hmac.compare_digest(offered, key.sha256):
            found = key
    return found


def read_keys(path: Path) -> tuple[Key, ...]:
    """All keys of the store at `path`.

    Raises:
        KeyStoreError: missing, unreadable, not JSON, or not of the store's shape.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise KeyStoreError(
            f"the key store {path} does not exist", f"make a first key: infbox key add NAME --file {path}"
        ) from None
    except PermissionError:
        raise KeyStoreError(f"the key store {path} may not be read", "run it as root: sudo infbox key …") from None
    except (OSError, UnicodeDecodeError) as fault:
        raise KeyStoreError(f"the key store {path} cannot be read: {fault}", "restore it from a backup") from fault
    hint = f"restore {path} from a backup, or move it away and make new keys"
    try:
        entries = cast("object", json.loads(text)["keys"])
    except ValueError as fault:
        raise KeyStoreError(f"the key store {path} is not JSON: {fault}", hint) from None
    except (KeyError, TypeError, RecursionError):
        raise KeyStoreError(f'the key store {path} is not an object with a list "keys"', hint) from None
    if not isinstance(entries, list):
        raise KeyStoreError(f'the key store {path} is not an object with a list "keys"', hint)
    keys = tuple(_entry(path, number, entry) for number, entry in enumerate(cast("list[object]", entries), start=1))
    names = [key.name for key in keys]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise KeyStoreError(f"the key store {path} holds the name {min(repeated)!r} twice", hint)
    return keys


def _entry(path: Path, number: int, entry: object) -> Key:
    shapes = {"name": NAME, "tenant": NAME, "sha256": SHA256_HEX, "created": re.compile(r".+")}
    fields = cast("dict[object, object]", entry) if isinstance(entry, dict) else {}
    values: dict[str, str] = {}
    for field, shape in shapes.items():
        value = fields.get(field)
        if not isinstance(value, str) or not shape.fullmatch(value):
            raise KeyStoreError(
                f"entry {number} of the key store {path} has no valid {field!r}",
                f"restore {path} from a backup, or take that entry out and make a new key",
            )
        values[field] = value
    return Key(**values)


class KeyStore:
    """Changes to the store at `path`, each under a lock that other `infbox key` processes wait for."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))  # a rename over a symbolic link would replace the link

    def add(self, name: str, tenant: str | None = None) -> str:
        """Make a key and return its text, which is stored nowhere."""
        with self._locked():
            keys = self._keys()
            if any(key.name == name for key in keys):
                raise KeyStoreError(
                    f"a key named {name!r} exists already",
                    f"choose another name, or take it out first: infbox key remove {name}",
                )
            text = new_key_text()
            self._write((*keys, _new_key(name, tenant, text)))
            return text

    def ensure(self, name: str, out: Path, tenant: str | None = None) -> bool:
        """See to it that `name` exists; a new key's text goes to the file `out` (0600). Returns whether it was made.

        The text is written before its digest is stored: a run killed in between leaves a file that the next run
        takes the key from, never a stored digest whose key nobody has.
        """
        with self._locked():
            keys = self._keys()
            if any(key.name == name for key in keys):
                return False
            text = _adopt(out, keys) if out.exists() else new_key_text()
            entry = _new_key(name, tenant, text)
            if not out.exists():
                _write_secret(out, text)
            self._write((*keys, entry))
            return True

    def remove(self, name: str) -> None:
        """Take a key out; the gateway refuses it within a second or two."""
        with self._locked():
            keys = self._keys()
            kept = tuple(key for key in keys if key.name != name)
            if len(kept) == len(keys):
                raise KeyStoreError(
                    f"no key is named {name!r}", f"see which there are: infbox key list --file {self.path}"
                )
            self._write(kept)

    def _keys(self) -> tuple[Key, ...]:
        return read_keys(self.path) if self.path.exists() else ()

    @contextlib.contextmanager
    def _locked(self) -> Generator[None, None, None]:
        # The folder is what is locked: the file itself is replaced at each change, and a lock file would be litter.
        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise KeyStoreError(
                f"the folder {self.path.parent} does not exist", f"make it first: mkdir -p {self.path.parent}"
            ) from None
        except PermissionError:
            raise KeyStoreError(
                f"the folder {self.path.parent} may not be read", "run it as root: sudo infbox key …"
            ) from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _write(self, keys: Iterable[Key]) -> None:
        text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2) + "\n"
        try:
            _replace(self.path, text)
        except PermissionError:
            raise KeyStoreError(
                f"the key store {self.path} may not be changed", "run it as root: sudo infbox key …"
            ) from None
        except OSError as fault:
            raise KeyStoreError(
                f"the key store {self.path} cannot be written: {fault.strerror}", f"look at: df -h {self.path.parent}"
            ) from fault


def new_key_text() -> str:
    """A new key: 256 random bits behind a prefix that tells people and secret scanners what it is."""
    return "infbox-" + secrets.token_urlsafe(32)


def _new_key(name: str, tenant: str | None, text: str) -> Key:
    tenant = name if tenant is None else tenant
    for what, value in (("name", name), ("tenant", tenant)):
        if not NAME.fullmatch(value):
            raise KeyStoreError(
                f"{value!r} cannot be a key's {what}",
                "use up to 64 of a-z 0-9 . _ - and begin with a letter or a digit",
            )
    return Key(name, tenant, digest(text), datetime.now(UTC).isoformat(timespec="seconds"))


def _adopt(out: Path, keys: Iterable[Key]) -> str:
    """The key text in `out`, which an earlier run wrote before it could store the digest."""
    try:
        text = out.read_text(encoding="utf-8").strip()
        out.chmod(out.stat().st_mode & 0o770)
    except (OSError, UnicodeDecodeError) as fault:
        raise KeyStoreError(
            f"the key file {out} cannot be read: {fault}", "run it as root, or move the file away"
        ) from None
    if not KEY_TEXT.fullmatch(text):
        raise KeyStoreError(f"{out} exists and does not hold a key of infbox", "move it away, or name another --out")
    if owner := next((key for key in keys if key.sha256 == digest(text)), None):
        raise KeyStoreError(
            f"{out} holds the key named {owner.name!r} already", "name another --out: every key has its own file"
        )
    return text


def _write_secret(out: Path, text: str) -> None:
    """Write `text` to a new file that is whole and 0600 from the first instant at which it has its name."""
    try:
        handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")  # mkstemp makes 0600
        try:
            _fill(handle, text + "\n")
            os.link(temporary, out)  # unlike a rename, fails if the name was taken meanwhile
        finally:
            os.unlink(temporary)
        _sync_folder(out.parent)
    except OSError as fault:
        raise KeyStoreError(
            f"the key cannot be written to {out}: {fault.strerror}", "name a writable --out in a folder that exists"
        ) from fault


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        if path.exists():
            before = path.stat()
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.fstat(handle).st_gid):
                os.fchown(handle, before.st_uid, before.st_gid)
            os.fchmod(handle, before.st_mode & 0o7777)
        else:
            os.fchmod(handle, NEW_STORE_MODE)
        _fill(handle, text)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _fill(handle: int, text: str) -> None:
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""What a stored chunk of KV is: sealed, so that it is read as exactly what was stored under its name, or not at all.

LMCache's own files are the bare tensors under a name: one that was damaged, exchanged or left by another model is used,
and the answer is wrong. A sealed chunk is

    version (1 byte) | nonce (12) | AES-256-GCM of the bytes, with its tag (16)

and its associated data are the context (which model, engine and number format) and the chunk's own name. The key is
the box's, and each tenant has one derived from it, so chunks on a disk that is stolen or sold, or in a store that
others run, say nothing of the code that they were computed from.
"""

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infbox.errors import InfboxError

KEY_BYTES = 32
_VERSION = 1
_NONCE_BYTES, _TAG_BYTES = 12, 16
OVERHEAD_BYTES = 1 + _NONCE_BYTES + _TAG_BYTES
Buffer = bytes | bytearray | memoryview


class SealError(InfboxError):
    """A chunk is not what was stored under this name, or the key cannot be had."""


class Sealer:
    """Seals chunks and opens them. Safe for several threads.

    Args:
        key: the box's, of `KEY_BYTES`.
        context: what chunks are good for; those of another one cannot be opened.
    """

    def __init__(self, key: bytes, context: str) -> None:
        if len(key) != KEY_BYTES:
            raise SealError(f"the key has {len(key)} bytes, and not {KEY_BYTES}")
        self._key = key
        self._context = context.encode()
        self._names = HKDF(SHA256(), KEY_BYTES, None, b"infbox kv names 1").derive(key)
        self._ciphers: dict[str, AESGCM] = {}

    def seal(self, plain: Buffer, tenant: str, name: bytes) -> bytes:
        """The sealed form of a chunk: its bytes and `OVERHEAD_BYTES` more."""
        nonce = os.urandom(_NONCE_BYTES)
        return bytes((_VERSION,)) + nonce + self._cipher(tenant).encrypt(nonce, bytes(plain), self._bound_to(name))

    def unseal(self, sealed: Buffer, plain_bytes: int, tenant: str, name: bytes) -> bytes:
        """The `plain_bytes` that were stored under this name.

        Args:
            sealed: what `seal` gave; bytes behind its end are ignored.

        Raises:
            SealError: it is cut, damaged, or another tenant's, context's or chunk's.
        """
        whole = memoryview(sealed).cast("B")[: plain_bytes + OVERHEAD_BYTES]
        if len(whole) < plain_bytes + OVERHEAD_BYTES or whole[0] != _VERSION:
            raise SealError("a stored chunk is cut, or of another version")
        nonce, body = bytes(whole[1 : 1 + _NONCE_BYTES]), bytes(whole[1 + _NONCE_BYTES :])
        try:
            return self._cipher(tenant).decrypt(nonce, body, self._bound_to(name))
        except InvalidTag:
            raise SealError("a stored chunk is damaged, or not the one of this name") from None

    def hidden(self, tenant: str, name: str) -> str:
        """A name to store under where others can read names: they are hashes of tokens, and code could be guessed."""
        return (
            f"infbox:kv:{self._digest('box', 8)}:{self._context.decode()}:{self._of(tenant)}:{self._digest(name, 32)}"
        )

    def hidden_pattern(self, tenant: str | None) -> str:
        """What matches all hidden names of a tenant, or of this box, of any context, as Redis writes patterns."""
        return f"infbox:kv:{self._digest('box', 8)}:" + ("*" if tenant is None else f"*:{self._of(tenant)}:*")

    def _of(self, tenant: str) -> str:
        return self._digest(f"tenant {tenant}", 16)

    def _digest(self, text: str, digits: int) -> str:
        return hmac.new(self._names, text.encode(), hashlib.sha256).hexdigest()[:digits]

    def _bound_to(self, name: bytes) -> bytes:
        return len(self._context).to_bytes(4, "big") + self._context + name

    def _cipher(self, tenant: str) -> AESGCM:
        cipher = self._ciphers.get(tenant)
        if cipher is None:
            derived = HKDF(SHA256(), KEY_BYTES, None, b"infbox kv 1\0" + tenant.encode()).derive(self._key)
            cipher = self._ciphers[tenant] = AESGCM(derived)
        return cipher


def box_key(path: Path) -> bytes:
    """The key in a file of mode 0600, made with the first call.

    Raises:
        SealError: the file cannot be read or made, or is not a key.
    """
    try:
        if not path.exists():
            new = path.with_name(f"{path.name}.new")
            new.unlink(missing_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(os.urandom(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        key = path.read_bytes()
    except OSError as fault:
        raise SealError(f"the key of stored KV, {path}, cannot be had: {fault.strerror}") from None
    if len(key) != KEY_BYTES:
        hint = "delete it and what is stored beside it; both are made anew"
        raise SealError(f"{path} has {len(key)} bytes, and is no key", hint)
    return key

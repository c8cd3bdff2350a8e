"""One repository on a hub: its commit, its files, and a file's bytes appended to what is there already.

A thin, typed cover of huggingface_hub, whose own types are open in the places used here. `hub.py` decides what to do
with it; the client's faults pass through, and `hub_faults.py` judges them.
"""

import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import huggingface_hub
from huggingface_hub import errors, file_download, utils
from huggingface_hub.hf_api import RepoFile

LARGEST_BY_HTTP = 50_000_000_000  # bytes; the hub serves larger files through Xet only


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository: path, size in bytes, SHA-256 (large files) or git object id (the others)."""

    path: str
    size: int
    sha256: str
    blob_id: str


class StoppedError(Exception):
    """Another file has failed for good: this download is not worth going on with."""


class _Lfs(Protocol):
    sha256: str


class HubClient:
    """The hub's client for one repository.

    Args:
        repo: ORG/NAME.
        endpoint: URL of a mirror; empty: the hub.
        token: a read token; empty: none, and none of whoever runs this is looked for.
    """

    def __init__(self, repo: str, endpoint: str, token: str) -> None:
        self.repo = repo
        self.where = endpoint or huggingface_hub.constants.ENDPOINT
        self.with_token = bool(token)
        self._endpoint = endpoint or None
        self._token: str | bool = token or False
        self._api = huggingface_hub.HfApi(endpoint=self._endpoint, token=self._token)
        utils.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings carry signed URLs

    def resolve(self, revision: str) -> str:
        """The commit that `revision` (empty: the default branch) is now."""
        commit = self._api.model_info(self.repo, revision=revision or None).sha
        if not commit:
            raise ValueError("the answer names no commit")
        return commit

    def list_files(self, commit: str) -> list[RemoteFile]:
        """All files of the repository at `commit`."""
        found: list[RemoteFile] = []
        for entry in self._api.list_repo_tree(self.repo, recursive=True, revision=commit):
            if isinstance(entry, RepoFile):
                lfs = cast(_Lfs | None, entry.lfs)
                found.append(RemoteFile(entry.path, entry.size, lfs.sha256 if lfs else "", entry.blob_id))
        return found

    def append(self, commit: str, file: RemoteFile, part: Path, stop: threading.Event) -> None:
        """Append to `part` what it lacks of `file`. When `stop` is set, ends with a StoppedError at the next chunk."""
        url = file_download.hf_hub_url(self.repo, file.path, revision=commit, endpoint=self._endpoint)
        headers = cast(Any, utils).build_hf_headers(token=self._token)
        with part.open("ab") as out:
            sink = _Sink(out, stop)
            try:
                cast(Any, file_download).http_get(
                    url, sink, resume_size=out.tell(), headers=headers, expected_size=file.size
                )
            except errors.HfHubHTTPError as fault:
                if fault.response.status_code == 416:  # the server does not go on from here: begin again
                    out.truncate(0)
                raise
            finally:
                out.flush()
                os.fsync(out.fileno())

    def download_large(self, commit: str, file: RemoteFile, folder: Path) -> Path:
        """Download a file that plain HTTP does not serve into `folder`, from its beginning. Returns its path."""
        return Path(
            cast(Any, huggingface_hub).hf_hub_download(
                self.repo, file.path, revision=commit, local_dir=folder, endpoint=self._endpoint, token=self._token
            )
        )


class _Sink:
    """What http_get needs of a file, and which refuses to grow once `stop` is set."""

    def __init__(self, file: BinaryIO, stop: threading.Event) -> None:
        self._file, self._stop = file, stop
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, chunk: bytes) -> int:
        if self._stop.is_set():
            raise StoppedError
        return self._file.write(chunk)

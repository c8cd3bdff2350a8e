"""On the box: which Python its environments are made with."""

import os
import subprocess
import sys

# What infbox and its lock files need. Ansible's modules themselves run on the machine's own Python, which may be older.
OLDEST = (3, 11)
# Module infbox_python puts it there, on a machine whose own is older.
BROUGHT = "/opt/infbox/python/bin/python3"


def machine_suffices() -> bool:
    """Whether the Python that Ansible's modules run on will do."""
    return sys.version_info >= OLDEST


def interpreter() -> str:
    """The program that environments are made with; its own path, since a link may point to another one later."""
    return sys.executable if machine_suffices() else os.path.realpath(BROUGHT)


def version_of(python: str) -> str:
    """The version of an interpreter; empty where there is none that runs."""
    if python == sys.executable:
        return sys.version.split()[0]
    command = [python, "-I", "-c", "import sys; print(sys.version.split()[0])"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()  # noqa: S603
    except OSError:
        return ""

"""`./bootstrap.sh`, and the roles from elsewhere, on a server whose own Python is too old: Ubuntu 22.04, with 3.10."""

import io
import os
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import standin_python
from bare_server import ROOT, Server, changed, hosts

NAME = "infbox-old-python"
BUILDS = "/root/builds"
PINNED = "requirements/python-version"
LIST = f"file://{BUILDS}/downloads.json"
# The environment that the modules run in, and what comes before it: the engine's is made like it, and takes minutes.
TAGS = ["--tags", "base,infbox"]


def reachable(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=20):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    why_none = standin_python.why_none()
    if not reachable(f"{hosts.UBUNTU_ARCHIVE}/dists/jammy/InRelease"):
        why_none = f"{hosts.UBUNTU_ARCHIVE} is out of reach"
    if why_none:
        pytest.skip(f"a machine with an old Python is NOT TESTED: {why_none}")
    made = Server(NAME, "jammy", tmp_path_factory.mktemp("old-python"))
    packed = standin_python.pack(tmp_path_factory.mktemp("builds"), BUILDS)
    with tarfile.open(fileobj=(archive := io.BytesIO()), mode="w") as tar:
        tar.add(packed, arcname=".")
    made.put(archive.getvalue(), BUILDS)
    yield made
    hosts.down(NAME)


def bootstrap(server: Server, *variables: str, umask: str = "022") -> subprocess.CompletedProcess[str]:
    """Run bootstrap.sh with variables of the environment."""
    line = f'umask {umask}; exec env "$@"'
    return server.run("sh", "-c", line, "sh", *variables, "./bootstrap.sh", "--", *server.options, *TAGS)


def play(server: Server, folder: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    """Run the roles on it from this machine."""
    inventory = hosts.write_inventory(folder / "inventory.yml", server.facts, "cpu")
    words = ["-i", "inventories/presets.yml", "-i", str(inventory), "site.yml", "--tags", "infbox"]
    extra = [word for variable in variables for word in ("--extra-vars", variable)]
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run([program, *words, *extra], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "ANSIBLE_NOCOLOR": "1"}, check=False)  # fmt: skip


def test_it_has_no_python_that_would_do(server: Server) -> None:
    found = server.run("sh", "-c", "ls /usr/bin /usr/local/bin /opt | grep -x 'python3[.0-9]*'").stdout
    assert found.split() == ["python3", "python3.10"]


def test_without_a_mirror_that_answers_it_says_which_variable_names_one(server: Server) -> None:
    done = bootstrap(server, "UV_PYTHON_INSTALL_MIRROR=file:///nowhere")
    assert done.returncode == 1
    pinned = (ROOT / PINNED).read_text().strip()
    assert "==> python3 is Python 3.10." in done.stdout
    assert f", too old for infbox: fetching Python {pinned} into /opt/infbox/python\n" in done.stdout
    assert f"error: Python {pinned} could not be fetched:\n" in done.stderr
    # It knew the build, and where a mirror has it.
    assert f"/cpython-{pinned}+" in done.stderr
    assert (
        "\n\nhint: name a mirror of python-build-standalone's releases, as in UV_PYTHON_INSTALL_MIRROR=" in done.stderr
    )
    assert server.run("test", "-e", "/etc/infbox").returncode == 1


def test_a_build_with_another_checksum_is_not_taken(server: Server) -> None:
    server.run("sh", "-c", f"echo {standin_python.VERSION} >{PINNED}")
    server.run("sh", "-c", f"sed -E 's/(sha256\": \")..../\\10000/' {BUILDS}/downloads.json >{BUILDS}/wrong.json")
    done = bootstrap(server, f"UV_PYTHON_DOWNLOADS_JSON_URL=file://{BUILDS}/wrong.json")
    assert done.returncode == 1
    assert "Hash mismatch" in done.stderr


def test_it_gets_a_python_of_its_own(server: Server) -> None:
    done = bootstrap(server, f"UV_PYTHON_DOWNLOADS_JSON_URL={LIST}", umask="077")
    assert changed(done)
    for environment in ("/root/infbox/.venv", "/opt/infbox/venv"):
        told = server.run(
            f"{environment}/bin/python", "-c", "import sys; print(sys.version.split()[0], sys.base_prefix)"
        )
        version, prefix = told.stdout.split()
        assert version == standin_python.VERSION
        assert prefix.startswith("/opt/infbox/python/")


def test_services_can_run_it(server: Server) -> None:
    sandbox = ["-p", "User=infbox-gateway", "-p", "ProtectHome=yes", "-p", "ProtectSystem=strict"]
    done = server.run("systemd-run", "--wait", "--pipe", "--quiet", *sandbox, "/opt/infbox/venv/bin/infbox", "--help")
    assert done.returncode == 0, done.stderr


def test_a_second_run_finds_it_and_changes_nothing(server: Server) -> None:
    done = bootstrap(server)
    assert not changed(done), "\n".join(changed(done))
    assert "too old for infbox" not in done.stdout


def test_roles_that_run_from_elsewhere_bring_it_themselves(server: Server, tmp_path: Path) -> None:
    server.run("rm", "-rf", "/opt/infbox/python", "/opt/infbox/venv")
    version = f"infbox_python_version={standin_python.VERSION}"
    done = play(server, tmp_path, version, "infbox_python_install_mirror=file:///nowhere")
    assert done.returncode == 2
    assert f"Python {standin_python.VERSION} could not be fetched:" in done.stdout
    assert (
        "hint: name a mirror of python-build-standalone's releases with `infbox_python_install_mirror`" in done.stdout
    )
    assert changed(play(server, tmp_path, version, f"infbox_python_downloads_json_url={LIST}"))
    assert server.run("/opt/infbox/venv/bin/infbox", "--help").returncode == 0

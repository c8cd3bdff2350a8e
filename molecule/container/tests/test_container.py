"""Engine and LMCache's daemon in containers: confined as their units confine them elsewhere, and as easy to run."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

UNIT = "infbox-vllm"
UNITS = [UNIT, "infbox-lmcache"]
PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _journal(host: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Show what the engine said during a test that leaves it down."""
    yield
    if not host.service(UNIT).is_running:
        print(host.run(f"journalctl --no-pager --lines=60 --unit {UNIT} --output=cat").stdout)


def prop(host: Any, name: str, unit: str = UNIT) -> str:
    return host.check_output(f"systemctl show {unit} --property={name} --value")


def processes(host: Any, unit: str = UNIT) -> list[int]:
    """The unit's processes with its user's rights, the first one first."""
    of_unit = f"grep --quiet /{unit}.service/ /proc/$it/cgroup"
    said = host.check_output(f"for it in $(pgrep --uid infbox-vllm); do if {of_unit}; then echo $it; fi; done")
    return [int(pid) for pid in said.split()]


def answers(host: Any) -> bool:
    ready = "infbox ready engine --socket /run/infbox-vllm/vllm.sock --timeout 120"
    return host.run(ready).rc == 0


def test_the_engine_is_nowhere_but_in_the_image(host: Any) -> None:
    assert not host.file("/opt/infbox/vllm").exists
    for pid in [*processes(host), *processes(host, "infbox-lmcache")]:
        assert host.check_output(f"readlink /proc/{pid}/exe").startswith("/usr/bin/python3")
        assert host.run(f"test -d /proc/{pid}/root/opt/engine/lib").rc == 0
    assert sorted(host.check_output("podman ps --format '{{.Names}}'").split()) == sorted(UNITS)


@pytest.mark.parametrize(("unit", "least"), zip(UNITS, (3, 1), strict=True))  # server, engine and worker; the daemon
def test_no_process_of_it_has_a_right_of_root(host: Any, unit: str, least: int) -> None:
    pids = processes(host, unit)
    assert len(pids) >= least
    for pid in pids:
        lines = host.check_output(f"cat /proc/{pid}/status").splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert [status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == ["0" * 16] * 5
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert set(status["Uid"].split()) == {host.check_output("id -u infbox-vllm")}


def test_both_have_one_network_which_is_none(host: Any) -> None:
    pids = [*processes(host), *processes(host, "infbox-lmcache")]
    (network,) = {host.check_output(f"readlink /proc/{pid}/ns/net") for pid in pids}
    assert network != host.check_output("readlink /proc/1/ns/net")
    links = host.check_output(f"nsenter --target {pids[0]} --net ip -brief link").splitlines()
    assert [link.split()[0] for link in links] == ["lo"]


def test_they_share_memory_that_nobody_else_has(host: Any) -> None:
    names = [host.check_output(f"ls /proc/{processes(host, unit)[0]}/root/dev/shm").split() for unit in UNITS]
    assert names[0] == names[1]
    assert any(name.startswith("lmcache_kv_") for name in names[0])
    assert not [name for name in host.check_output("ls /dev/shm").split() if name.startswith("lmcache")]


def test_kept_kv_is_found_by_an_engine_that_has_forgotten_its_own(host: Any) -> None:
    said = host.check_output("infbox kv check --timeout 120")
    assert "were loaded, and the answer is the one that was computed" in said


def within(host: Any, command: str) -> Any:
    """Run a command in the container, as the engine's user and without its capabilities."""
    return host.run(f"podman exec {UNIT} sh -c '{command}'")


def test_it_writes_its_own_folders_alone(host: Any) -> None:
    for folder in ("/", "/opt/engine", "/etc", "/var/lib/infbox/models/SmolLM2-135M-Instruct", "/opt/infbox/package"):
        said = within(host, f"touch {folder}/x")
        assert said.rc != 0, folder
        assert "Read-only" in said.stderr or "denied" in said.stderr
    assert within(host, "touch /var/cache/infbox-vllm/x /tmp/x && rm /var/cache/infbox-vllm/x").rc == 0
    assert within(host, "ls -d /var/cache/infbox-vllm/python/opt/engine").rc == 0


def test_it_sees_of_the_box_what_it_needs_and_of_others_nothing(host: Any) -> None:
    for path in ("/etc/infbox/keys", "/etc/infbox/gateway-keys.json", "/run/infbox-gateway", "/run/dbus", "/srv"):
        assert within(host, f"ls {path}/*").rc != 0, path
    assert within(host, "cat /etc/infbox/vllm.yml").rc == 0
    assert within(host, "ls -d /proc/1 /proc/$PPID").rc != 0
    users = within(host, "stat -c %u /proc/[0-9]* 2>/dev/null | sort -u").stdout.split()
    assert users == [host.check_output("id -u infbox-vllm")]


@pytest.mark.parametrize(("unit", "words"), zip(UNITS, ("Application startup complete", "LMCache"), strict=True))
def test_its_memory_is_the_units_and_its_words_are_in_the_units_journal(host: Any, unit: str, words: str) -> None:
    assert int(prop(host, "MemoryCurrent", unit)) > 100e6
    group = prop(host, "ControlGroup", unit)
    for pid in processes(host, unit):
        assert f":{group}/libpod-" in host.check_output(f"cat /proc/{pid}/cgroup")
    assert words in host.check_output(f"journalctl --unit {unit} --output=cat --no-pager")


def test_a_reload_of_systemd_disturbs_nothing(host: Any) -> None:
    before = processes(host)
    host.check_output("systemctl daemon-reload")
    assert processes(host) == before
    assert answers(host)


def test_an_engine_that_was_killed_is_started_again(host: Any) -> None:
    restarts = int(prop(host, "NRestarts"))
    host.check_output(f"kill -KILL {prop(host, 'MainPID')}")
    command = f"until [ $(systemctl show {UNIT} --property=NRestarts --value) -gt {restarts} ]; do sleep 0.2; done"
    host.check_output(f"timeout 60 sh -c '{command}'")
    assert answers(host)
    host.check_output(f"timeout 60 sh -c 'until systemctl is-active --quiet {UNIT}; do sleep 0.2; done'")


@pytest.fixture
def play(pytestconfig: pytest.Config) -> Callable[..., subprocess.CompletedProcess[str]]:
    """site.yml on this host, the part that has to do with engine and daemon, with these variables."""
    program = Path(sys.executable).with_name("ansible-playbook")
    inventory = pytestconfig.getoption("ansible_inventory")
    words = [
        str(program),
        "--inventory",
        inventory,
        "site.yml",
        "--tags",
        "container_toolkit,lmcache,vllm",
        "--extra-vars",
    ]

    def run(**variables: object) -> subprocess.CompletedProcess[str]:
        given = json.dumps(variables)
        return subprocess.run([*words, given], cwd=PROJECT, capture_output=True, text=True, timeout=400)

    return run


def test_another_run_changes_nothing(play: Callable[..., Any]) -> None:
    done = play()
    assert done.returncode == 0
    assert "changed=0 " in done.stdout


def test_an_image_of_another_digest_is_refused_and_the_engine_goes_on(host: Any, play: Callable[..., Any]) -> None:
    before = processes(host)
    done = play(vllm_image=f"localhost/infbox-engine@sha256:{'0' * 64}")
    assert done.returncode != 0
    assert "and `vllm_image` is sha256:0000" in done.stdout
    assert processes(host) == before
    assert answers(host)


def test_an_image_that_does_not_work_is_taken_back_for_the_last_that_did(host: Any, play: Callable[..., Any]) -> None:
    good = host.check_output("cat /var/lib/infbox/image/good")
    # The same without its engine.
    empty = "printf 'FROM scratch\\nLABEL no=engine\\n' | podman build --quiet --file - /tmp"
    digest = host.check_output(f"{empty} >/tmp/id && cat /tmp/id").split()[-1].removeprefix("sha256:")
    done = play(vllm_image=f"localhost/empty@sha256:{digest}", vllm_image_archive="")
    assert done.returncode != 0
    assert f"services run in {good} again, which worked before" in done.stdout
    assert host.check_output("cat /var/lib/infbox/image/current") == good
    assert answers(host)
    host.check_output(f"podman image rm {digest}")


@pytest.fixture
def registry(host: Any) -> Iterator[str]:
    """What an image is pulled from, not started yet; the image that it has."""
    host.check_output("printf 'FROM scratch\\nLABEL is=small\\n' | podman build --quiet --file - /tmp >/tmp/id")
    host.check_output("podman save --format oci-dir --output /tmp/oci $(cat /tmp/id)")
    host.check_output("podman image rm $(cat /tmp/id)")
    program = (PROJECT / "molecule/container/files/registry.py").read_text()
    host.check_output(f"cat >/tmp/registry.py <<'END'\n{program}\nEND")
    conf = "/etc/containers/registries.conf.d/test.conf"
    host.check_output(f"printf '[[registry]]\\nlocation = \"localhost:5000\"\\ninsecure = true\\n' >{conf}")
    (manifest,) = json.loads(host.check_output("cat /tmp/oci/index.json"))["manifests"]
    yield f"localhost:5000/small@{manifest['digest']}"
    host.run(f"systemctl stop test-registry; rm -rf /tmp/oci {conf}")
    host.check_output("systemctl restart infbox-image")


def fetch(host: Any, image: str) -> Any:
    return host.run(f"IMAGE_REFERENCE={image} infbox image fetch")


def test_an_image_is_pulled_by_its_digest_and_asked_for_again_while_its_registry_is_away(
    host: Any, registry: str
) -> None:
    good = host.check_output("cat /var/lib/infbox/image/current")
    serve = "systemd-run --quiet --unit test-registry --on-active={} /usr/bin/python3 /tmp/registry.py /tmp/oci"
    host.check_output(serve.format("4s"))
    done = fetch(host, registry)
    assert done.rc == 0, done.stderr
    assert "connection refused; again in 5 s" in done.stdout
    assert f"services run in {registry} from their next start" in done.stdout
    wrong = fetch(host, f"localhost:5000/small@sha256:{'0' * 64}")
    assert wrong.rc == 1
    assert "manifest unknown" in wrong.stderr
    assert "again in" not in wrong.stdout
    host.check_output("systemctl restart infbox-image")
    assert host.check_output("cat /var/lib/infbox/image/current") == good
    host.check_output(f"podman image rm {registry}")


def test_a_stop_is_clean_and_leaves_nothing(host: Any) -> None:
    host.check_output(f"systemctl stop {' '.join(UNITS)}")
    assert [prop(host, "Result", unit) for unit in UNITS] == ["success", "success"]
    assert host.run("pgrep --uid infbox-vllm").stdout == ""
    assert host.check_output("podman ps --all --quiet") == ""
    assert host.run("grep -c 'containers/storage/overlay/' /proc/mounts").stdout.strip() == "0"

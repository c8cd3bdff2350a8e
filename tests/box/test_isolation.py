"""What another user of the box, and the box's own network, can reach of it: nothing."""

import json
from collections.abc import Iterator

import pytest
from live_box import LiveBox

SOCKETS = [
    "/run/infbox-vllm/vllm.sock",
    "/run/infbox-gateway/gateway.sock",
    "/run/infbox-watcher/watcher.sock",
    "/run/infbox-caddy/admin.sock",
]
SERVICES = {f"infbox-{name}": f"infbox-{name}" for name in ("vllm", "gateway", "watcher", "caddy")}
UNITS = ["infbox-caddy", "infbox-firewall", "infbox-gateway", "infbox-model", "infbox-vllm", "infbox-watcher"]
SECRET_FILES = [
    "/etc/infbox/keys", "/etc/infbox/keys/default.key", "/etc/infbox/keys/smoke.key", "/etc/infbox/credentials",
    "/etc/infbox/gateway-keys.json", "/etc/infbox/vllm.yml", "/etc/infbox/Caddyfile", "/var/lib/infbox-caddy/caddy",
    "/etc/infbox/watcher.json", "/var/lib/infbox-watcher", "/srv/workspace",
    *(f"/etc/infbox/{name}.env" for name in ("caddy", "firewall", "gateway", "model", "vllm", "watcher")),
]  # fmt: skip
# Run as another user: which of the sockets can be reached, which of the files read, and what of the processes seen.
TRESPASS = """
import json, os, socket, sys
wanted = json.load(sys.stdin)
got = []
for path in wanted["sockets"]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        got.append(path)
    except PermissionError:
        pass
def attempt(path, read):
    try:
        got.append(f"{path}: {read(path)!r}"[:100])
    except PermissionError:
        pass
    except OSError as fault:  # it may be read, then
        got.append(f"{path}: {fault}")
for path in wanted["files"]:
    attempt(path, os.listdir if os.path.isdir(path) else lambda path: open(path, "rb").read())
for pid in wanted["pids"]:
    for name in ("environ", "maps", "mem"):
        attempt(f"/proc/{pid}/{name}", lambda path: open(path, "rb").read(1))
    attempt(f"/proc/{pid}/root", os.listdir)
    attempt(f"/proc/{pid}/fd", os.listdir)
for name in os.listdir("/dev/shm"):
    attempt(f"/dev/shm/{name}", lambda path: open(path, "rb").read(1))
print(json.dumps(got))
"""


@pytest.fixture(scope="module")
def mallory(box: LiveBox) -> Iterator[str]:
    """Another user with a shell."""
    box.run("id mallory >/dev/null 2>&1 || useradd --create-home --shell /bin/bash mallory")
    yield "mallory"
    box.run("userdel --remove mallory 2>/dev/null; ! id mallory >/dev/null 2>&1")


def engine_pids(box: LiveBox) -> list[int]:
    return [int(pid) for pid in box.run("pgrep --uid infbox-vllm").split()]


def trespass(box: LiveBox, user: str) -> list[str]:
    wanted = {"sockets": SOCKETS, "files": SECRET_FILES}
    wanted["pids"] = [*engine_pids(box), *(box.main_pid(unit) for unit in SERVICES)]
    for path in [*SOCKETS, *SECRET_FILES]:
        box.run(f"test -e {path}")  # else there is nothing to be kept from
    box.run(f"cat >/tmp/trespass.py <<'END'\n{TRESPASS}\nEND\nchmod 644 /tmp/trespass.py")
    return json.loads(
        box.run(f"runuser -u {user} -- python3 /tmp/trespass.py; rm /tmp/trespass.py", json.dumps(wanted))
    )


def test_another_user_reaches_no_socket_key_setting_memory_or_process(box: LiveBox, mallory: str):
    assert trespass(box, mallory) == []


def test_another_user_reads_no_journal_and_commands_no_unit(box: LiveBox, mallory: str):
    assert box.run(f"runuser -u {mallory} -- journalctl -u infbox-gateway --no-pager -n 5 -q", check=False) == ""
    refused = "runuser -u {} -- systemctl --no-ask-password restart infbox-gateway"
    assert box.run(f"{refused.format(mallory)} && echo done; true", check=False) == ""
    assert box.run(f"runuser -u {mallory} -- infbox key list 2>&1; true").startswith("error: ")


@pytest.mark.parametrize("user", ["infbox-caddy", "infbox-gateway", "infbox-model"])
def test_a_services_user_reaches_nothing_of_another_service(box: LiveBox, user: str):
    got = [line for line in trespass(box, user) if "/proc/" not in line]
    own = {
        "infbox-caddy": (
            "/run/infbox-caddy/",
            "/run/infbox-gateway/",
            "/etc/infbox/Caddyfile",
            "/var/lib/infbox-caddy",
        ),
        "infbox-gateway": ("/run/infbox-gateway/", "/run/infbox-vllm/", "/etc/infbox/gateway-keys.json"),
        "infbox-model": (),
    }[user]
    # The sockets that a service talks to are open to its unit (SupplementaryGroups=), not to its user.
    assert [line for line in got if not line.startswith(own)] == []


def test_every_service_runs_as_its_own_user_and_none_as_root(box: LiveBox):
    for unit, user in SERVICES.items():
        assert box.run(f"ps -o user:32= -p {box.main_pid(unit)}") == user
    owners = box.run(f"ps -o user:32= -p {','.join(map(str, engine_pids(box)))}").split()
    assert set(owners) == {"infbox-vllm"}
    assert len(owners) >= 3  # the API server, the engine and its worker


def test_nothing_but_caddy_and_sshd_listens_beyond_loopback(box: LiveBox):
    found = {}
    for line in box.run("ss --no-header --listening --tcp --udp --numeric --processes").splitlines():
        fields = line.split()
        address, _, port = fields[4].rpartition(":")
        if not address.strip("[]").split("%")[0].startswith(("127.", "::1")):
            found.setdefault(fields[-1].split('"')[1], set()).add((fields[0], port))
    assert found == {"caddy": {("tcp", "80"), ("tcp", "443")}, "sshd": {("tcp", "22")}}


def test_engine_watcher_and_gateway_have_no_network_but_a_loopback_of_their_own(box: LiveBox):
    for unit in ("infbox-vllm", "infbox-gateway", "infbox-watcher"):
        pid = box.main_pid(unit)
        assert box.run(f"readlink /proc/{pid}/ns/net") != box.run("readlink /proc/1/ns/net")
        links = box.run(f"nsenter --target {pid} --net ip -brief link").splitlines()
        assert [link.split()[0] for link in links] == ["lo"]


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_scores_3_or_better(box: LiveBox, unit: str):
    verdict = box.run(f"systemd-analyze security {unit} --no-pager | tail -1")
    score = float(verdict.split(": ")[1].split()[0])
    assert score <= 3.0, verdict

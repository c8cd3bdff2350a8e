"""A box from the inside: what every preset has, whatever runs on it. Runs on all hosts of a scenario."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("client")

SERVICES = ["firewall", "model", "watcher", "gateway", "caddy"]
USERS = ["infbox-model", "infbox-vllm", "infbox-gateway", "infbox-caddy", "infbox-watcher"]
PATHS = {
    "/etc/infbox": ("root", "root", 0o755),
    "/etc/infbox/Caddyfile": ("root", "infbox-caddy", 0o640),
    "/etc/infbox/ca.crt": ("root", "root", 0o644),
    "/etc/infbox/caddy.env": ("root", "root", 0o600),
    "/etc/infbox/credentials": ("root", "root", 0o700),
    "/etc/infbox/credentials/hub-token": ("root", "root", 0o600),
    "/etc/infbox/firewall.nft": ("root", "root", 0o644),
    "/etc/infbox/gateway-keys.json": ("root", "infbox-gateway", 0o640),
    "/etc/infbox/gateway.env": ("root", "root", 0o600),
    "/etc/infbox/keys": ("root", "root", 0o700),
    "/etc/infbox/keys/default.key": ("root", "root", 0o600),
    "/etc/infbox/watcher.env": ("root", "root", 0o600),
    "/etc/infbox/watcher.json": ("root", "infbox-watcher", 0o640),
    "/opt/infbox": ("root", "root", 0o755),
    "/run/infbox-gateway": ("infbox-gateway", "infbox-gateway", 0o750),
    "/run/infbox-watcher": ("infbox-watcher", "infbox-watcher", 0o750),
    "/srv/workspace": ("root", "infbox-watcher", 0o2750),
    "/var/lib/infbox": ("root", "root", 0o755),
    "/var/lib/infbox/models": ("infbox-model", "infbox-model", 0o755),
    "/var/lib/infbox-caddy": ("infbox-caddy", "infbox-caddy", 0o700),
    "/var/lib/infbox-watcher": ("infbox-watcher", "infbox-watcher", 0o700),
}
SYSCTLS = {
    "fs.inotify.max_user_watches": 1048576,
    "fs.inotify.max_user_instances": 1024,
    "fs.file-max": 2097152,
}


def answer(host: Any, path: str, key: str = "") -> tuple[int, str]:
    """What Caddy answers over TLS, checked against the published authority: status and body."""
    options = [f"--header 'Authorization: Bearer {key}'"] if key else []
    command = f"curl --silent --cacert /etc/infbox/ca.crt --write-out '\\n%{{http_code}}' {' '.join(options)}"
    said = host.check_output(f"{command} https://localhost{path}")
    body, _, status = said.rpartition("\n")
    return int(status), body


@pytest.fixture
def journal(host: Any, service: str) -> Iterator[None]:
    """Show the journal of a service whose test fails."""
    yield
    unit = host.service(f"infbox-{service}")
    if not unit.is_running:
        print(host.run(f"journalctl --no-pager --lines=40 --unit infbox-{service}").stdout)


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_enabled_and_runs(host: Any, service: str) -> None:
    unit = host.service(f"infbox-{service}")
    assert unit.is_enabled
    assert unit.is_running


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_as_its_own_user_in_the_shared_sandbox(host: Any, service: str) -> None:
    properties = host.service(f"infbox-{service}").systemd_properties
    assert properties.get("User", "") == ("" if service == "firewall" else f"infbox-{service}")
    assert properties["NoNewPrivileges"] == "yes"
    assert properties["ProtectSystem"] == "strict"
    assert "/etc/systemd/system/infbox-.service.d/10-defaults.conf" in properties["DropInPaths"]


def test_no_unit_of_the_machine_failed(host: Any) -> None:
    assert host.check_output("systemctl list-units --failed --plain --no-legend 'infbox-*' caddy.service") == ""


@pytest.mark.parametrize("name", USERS)
def test_a_services_user_can_do_nothing_else(host: Any, name: str) -> None:
    user = host.user(name)
    assert user.exists
    assert user.group == name
    assert user.shell == "/usr/sbin/nologin"
    assert user.uid < 1000


@pytest.mark.parametrize("path", PATHS)
def test_a_file_has_its_owner_and_mode(host: Any, path: str) -> None:
    file = host.file(path)
    assert (file.user, file.group, file.mode) == PATHS[path]


def test_nothing_of_the_box_is_writable_by_others(host: Any) -> None:
    folders = "/etc/infbox /opt/infbox /var/lib/infbox /etc/systemd/system"
    # uv's lock of an environment is empty, and whoever may read it may hold it.
    assert host.check_output(f"find {folders} -perm /022 ! -type l ! -name .lock") == ""


@pytest.mark.parametrize("name", SYSCTLS)
def test_a_kernel_limit_is_set(host: Any, name: str) -> None:
    assert host.sysctl(name) == SYSCTLS[name]


def test_the_journal_is_bounded(host: Any) -> None:
    settings = host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert re.findall(r"^(?:SystemMaxUse|MaxRetentionSec)=(.+)$", settings, re.MULTILINE) == ["1G", "1month"]


def test_the_firewall_drops_all_but_ssh_and_caddy(host: Any) -> None:
    rules = host.check_output("nft list table inet infbox")
    assert "policy drop" in rules
    assert re.findall(r"tcp dport (.+) accept", rules) == ["22", "{ 80, 443 }"]


def test_only_caddy_and_sshd_listen_beyond_loopback(host: Any) -> None:
    said = host.check_output("ss --listening --numeric --processes --no-header --tcp --udp")
    lines = [line.split() for line in said.splitlines()]
    outside = [(line[4], line[-1]) for line in lines if not line[4].startswith(("127.", "[::1]"))]
    programs = {name for _, users in outside for name in re.findall(r'\(\("([^"]+)"', users)}
    assert programs == {"caddy", "sshd"}, outside


def test_the_gateway_listens_for_its_group_alone(host: Any) -> None:
    assert host.file("/run/infbox-gateway/gateway.sock").is_socket
    assert host.run("runuser -u nobody -- ls /run/infbox-gateway").rc != 0


def test_the_distributions_own_caddy_stays_off(host: Any) -> None:
    assert host.service("caddy").is_masked


def test_the_published_authority_is_caddys_own(host: Any) -> None:
    own = host.file("/var/lib/infbox-caddy/caddy/pki/authorities/local/root.crt").content_string
    assert host.file("/etc/infbox/ca.crt").content_string == own


def test_the_model_is_whole(host: Any) -> None:
    environment = "$(grep -h = /etc/infbox/model.env | tr -d '\"')"
    said = host.check_output(f"env {environment} infbox model verify --full")
    assert "sizes and checksums are right" in said


@pytest.mark.parametrize("key", ["", "infbox-wrong"])
def test_without_a_right_key_there_is_no_answer(host: Any, key: str) -> None:
    status, body = answer(host, "/v1/models", key)
    assert status == 401, body


def test_a_path_outside_the_list_is_not_there(host: Any) -> None:
    key = host.file("/etc/infbox/keys/default.key").content_string.strip()
    assert answer(host, "/metrics", key)[0] == 404
    assert answer(host, "/v1/load_lora_adapter", key)[0] == 404


def test_no_secret_is_in_a_command_line_or_the_journal(host: Any) -> None:
    key = host.file("/etc/infbox/keys/default.key").content_string.strip()
    search = "grep --quiet --recursive --fixed-strings --file=/etc/infbox/keys/default.key"
    assert host.run(f"{search} --exclude-dir=keys /etc/infbox /etc/systemd/system/infbox-*").rc == 1
    assert key not in host.check_output("journalctl --no-pager --output=cat --unit 'infbox-*'")

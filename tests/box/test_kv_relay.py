"""A Redis elsewhere, with TLS, a user and a password, through the relay: the daemon itself has no network.

It runs on the box, on an address that services see as any other, and the playbook is told of it as an operator would.
"""

from collections.abc import Iterator

import pytest
from kept import CHUNKS, another_daemon, ask, converge, forget, now, prompt, said, state, tier, wait_until_stored
from live_box import LiveBox, until

from certificates import make_authority, make_certificate

pytestmark = [pytest.mark.kv, pytest.mark.kv_long]

PORT, PASSWORD = 6390, "geheim-und-lang"
FOLDER = "/run/far-redis"
FAR = f"redis-cli --tls --cacert {FOLDER}/ca.pem -h localhost -p {PORT} --user kv --pass {PASSWORD} --no-auth-warning"


@pytest.fixture(scope="module")
def far(box: LiveBox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Redis with TLS for `localhost`, and the box told of it."""
    made = tmp_path_factory.mktemp("far")
    make_certificate(made, make_authority(made), "localhost")
    foreign = tmp_path_factory.mktemp("foreign")
    make_certificate(foreign, make_authority(foreign), "localhost")
    for folder, there in ((made, FOLDER), (foreign, f"{FOLDER}/foreign")):
        box.run(f"install -d -m 755 {there}")
        for name in ("ca.pem", "server.pem", "server.key"):
            box.run(f"cat >{there}/{name}", (folder / name).read_text())
    users = f"user default off\nuser kv on >{PASSWORD} ~infbox:kv:* +@all\n"
    settings = f"port 0\ntls-port {PORT}\ntls-auth-clients no\ntls-cert-file {FOLDER}/server.pem\n"
    settings += f'tls-key-file {FOLDER}/server.key\ntls-ca-cert-file {FOLDER}/ca.pem\nmaxmemory 300mb\nsave ""\n'
    box.run(f"cat >{FOLDER}/redis.conf", settings + f"maxmemory-policy allkeys-lru\naclfile {FOLDER}/users.acl\n")
    box.run(f"cat >{FOLDER}/users.acl", users)
    box.run(f"systemd-run --unit far-redis redis-server {FOLDER}/redis.conf")
    until(lambda: box.run(f"{FAR} ping", check=False) == "PONG", 20, "the far Redis answers")
    url = f"rediss://localhost:{PORT}/0"
    named = {"redis_url": url, "redis_username": "kv", "redis_password": PASSWORD, "redis_ca_file": f"{FOLDER}/ca.pem"}
    assert PASSWORD not in converge(box, redis_maxmemory_gib=0, **named)
    yield
    box.run("systemctl stop far-redis", check=False)
    converge(box)
    assert tier(box, "redis")["failures"] == {}


@pytest.mark.usefixtures("far")
def test_kv_goes_to_a_redis_elsewhere_and_comes_back(box: LiveBox) -> None:
    until(lambda: state(box)["engines"] == 1, 30, "the engine is registered")
    cold = ask(box, prompt(501))
    assert not cold.loaded
    wait_until_stored(box)
    assert int(box.run(f"{FAR} dbsize")) >= 2
    assert PASSWORD not in box.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' ' '")
    another_daemon(box, f"rm {CHUNKS}/*/*")
    again = ask(box, prompt(501))
    assert again.text == cold.text
    assert again.loaded
    assert tier(box, "redis")["loaded_chunks"] >= 2


FAULTS = {
    "password": ("acl setuser kv resetpass '>another'", "redis: .*(WRONGPASS|invalid username-password)"),
    "authority": (f"config set tls-cert-file {FOLDER}/foreign/server.pem tls-key-file {FOLDER}/foreign/server.key",
                  "redis: .*certificate verify failed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("far")
def test_one_that_cannot_be_trusted_or_entered_is_not_used(box: LiveBox, fault: str) -> None:
    """After the daemon has connected: it connects anew, and finds another authority or that its password is no good."""
    begun = now(box)
    change, text = FAULTS[fault]
    box.run(f"{FAR} {change}")
    another_daemon(box)
    first = ask(box, prompt(510 + len(text), 150))
    until(lambda: said(box, "infbox-lmcache", text, begun), 30, "the journal says why")
    forget(box)
    again = ask(box, prompt(510 + len(text), 150))
    assert again.text == first.text
    assert again.loaded
    if fault == "password":
        box.run(f"{FAR.replace(PASSWORD, 'another')} acl setuser kv resetpass '>{PASSWORD}'")

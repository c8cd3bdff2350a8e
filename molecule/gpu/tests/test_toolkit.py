"""GPUs described to containers: NVIDIA's toolkit from its repository, and what it describes. After test_driver.py.

The toolkit is a stand-in (molecule/gpu/files/driver.py); apt, its signatures, systemd's units and podman are real.
"""

from typing import Any

from test_driver import STAND_IN, changed, loaded, message, play

SPECIFICATION = "/var/run/cdi/nvidia.yaml"
DROP_IN = "/etc/systemd/system/nvidia-cdi-refresh.service.d/infbox.conf"


def toolkit(host: Any, **variables: object) -> Any:
    """Run the role as for a box whose engine runs in a container with GPUs."""
    given = {
        "container_toolkit_wanted": True,
        "container_toolkit_gpus": True,
        "container_toolkit_repository_url": "http://127.0.0.1:8998/toolkit",
        "container_toolkit_repository_key": host.check_output(f"{STAND_IN}/driver.py fingerprint"),
    }
    return play(tags="container_toolkit", **(given | variables))


def test_where_no_engine_runs_in_a_container_nothing_is_installed(host: Any) -> None:
    assert not host.package("podman").is_installed


def test_a_key_that_is_not_nvidias_or_not_alone_is_refused_before_anything_comes_of_it(host: Any) -> None:
    host.check_output(f"{STAND_IN}/driver.py toolkit 1.17.8")
    nvidias = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
    said = message(toolkit(host, container_toolkit_repository_key=nvidias))
    assert f"/toolkit/gpgkey is not the key {nvidias} alone" in said
    assert "name that with `container_toolkit_repository_key`" in said
    host.check_output("gpg --batch --passphrase '' --quick-gen-key other rsa3072 sign never")
    host.check_output("gpg --armor --export stand-in other >/srv/stand-in/toolkit/gpgkey")
    assert "is not the key" in message(toolkit(host))
    assert not host.file("/etc/apt/keyrings/infbox-nvidia-container-toolkit.asc").exists
    assert not host.package("nvidia-container-toolkit-base").is_installed


def test_a_repository_out_of_reach_is_told_with_what_to_do(host: Any) -> None:
    said = message(toolkit(host, container_toolkit_repository_url="http://127.0.0.1:9"))
    assert "http://127.0.0.1:9/gpgkey is out of reach: " in said
    assert "Connection refused" in said
    assert "name a mirror with `container_toolkit_repository_url`" in said


def test_a_toolkit_that_is_too_old_is_refused_and_a_newer_one_describes_the_gpus(host: Any) -> None:
    host.check_output(f"{STAND_IN}/driver.py toolkit 1.17.8")
    assert "toolkit is 1.17.8, the newest that apt knows, and 1.19.1 is needed" in message(toolkit(host))
    host.check_output(f"{STAND_IN}/driver.py toolkit 1.19.1")
    assert changed(toolkit(host)) > 0
    assert "1.19.1" in host.check_output("nvidia-ctk --version")
    assert f"nvidia.com/gpu # of driver {loaded(host)}" in host.file(SPECIFICATION).content_string
    assert host.check_output("systemctl is-enabled nvidia-cdi-refresh.service nvidia-cdi-refresh.path").split() == [
        "enabled",
        "enabled",
    ]
    shown = host.check_output("systemctl show nvidia-cdi-refresh --property=Environment,DropInPaths")
    assert DROP_IN in shown
    assert "no-additional-gids-for-device-nodes" in shown
    assert changed(toolkit(host)) == 0


def test_a_change_of_the_driver_describes_them_anew_and_a_reload_of_systemd_leaves_them(host: Any) -> None:
    host.check_output(f"rm {SPECIFICATION} && systemctl daemon-reload && depmod -a")
    host.check_output(f"timeout 20 sh -c 'until test -e {SPECIFICATION}; do sleep 0.2; done'")
    host.check_output("systemctl daemon-reload")
    assert host.file(SPECIFICATION).exists

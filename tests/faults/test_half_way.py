"""Faults half way through a run: the run stops with one message, and the next one after the mend converges."""

import re
import shlex

import pytest
from faulty_box import FaultyBox, changed, message


def test_a_full_disk_under_the_environment(box: FaultyBox) -> None:
    box.run("mkdir -p /opt/infbox && mount -t tmpfs -o size=64M full /opt/infbox")
    said = message(box.play(tags="base,infbox", skip="always"))
    assert "No space left on device" in said
    assert "hint: " in said
    assert "if the disk is full, make room" in said
    box.run("umount /opt/infbox")


def test_an_installation_that_was_killed(box: FaultyBox) -> None:
    watch = "until pkill -KILL -f 'uv pip instal[l] --python /opt/infbox/venv'; do sleep 0.01; done"
    box.run(f"systemd-run --quiet sh -c {shlex.quote(watch)}")
    assert box.play(tags="base,infbox").returncode != 0
    assert box.run("test -e /opt/infbox/venv/infbox-installed.json", check=False).returncode == 1
    assert changed(box.play(tags="infbox")) > 0
    assert box.says("/opt/infbox/venv/bin/infbox --help")


def test_a_folder_that_is_empty(box: FaultyBox) -> None:
    box.run("mkdir -p /srv/model")
    said = message(box.play(tags="model", model_source="folder:/srv/model"))
    assert "/srv/model is empty" in said
    assert "hint: name a Hugging Face folder: config.json, *.safetensors and a tokenizer" in said


def test_weights_that_were_copied_by_half(box: FaultyBox) -> None:
    box.run("""printf '{"model_type": "llama"}' >/srv/model/config.json""")
    header = '{"w":{"dtype":"F32","shape":[1024],"data_offsets":[0,4096]}}'
    box.run(f"""printf '\\074\\0\\0\\0\\0\\0\\0\\0%s' '{header}' >/srv/model/model.safetensors""")
    said = message(box.play(tags="model", model_source="folder:/srv/model"))
    assert "/srv/model/model.safetensors" in said
    assert "hint: " in said


def test_a_full_disk_under_the_model(box: FaultyBox) -> None:
    box.run("mkdir -p /srv/small && mount -t tmpfs -o size=24M full /srv/small")
    said = message(box.play(tags="model", model_root="/srv/small"))
    assert re.search(r"No space left on device|is full|needs .* free", said), said
    assert "hint: " in said
    box.run("umount /srv/small")


def test_after_the_mends_the_box_converges(converged: FaultyBox) -> None:
    assert changed(converged.play("--check")) == 0


@pytest.mark.parametrize("domain", ["two words", "box{example"])
def test_a_value_that_the_caddyfile_does_not_take(converged: FaultyBox, domain: str) -> None:
    before = converged.says("sha256sum /etc/infbox/Caddyfile"), converged.pid("caddy")
    said = message(converged.play(tags="caddy", caddy_domain=domain))
    assert "failed to validate" in said
    assert domain.split()[-1] in said
    assert (converged.says("sha256sum /etc/infbox/Caddyfile"), converged.pid("caddy")) == before
    assert changed(converged.play(tags="caddy")) == 0


def test_a_run_that_was_killed_between_a_unit_and_its_restart(converged: FaultyBox) -> None:
    variables = {"gateway_shutdown_timeout_seconds": 21}
    before = converged.pid("gateway")
    converged.play_until(
        r"TASK \[systemd_service : Install the unit of gateway\].*\nchanged", tags="gateway", **variables
    )
    assert "TimeoutStopSec=31" in converged.says("cat /etc/systemd/system/infbox-gateway.service")
    assert converged.pid("gateway") == before
    assert changed(converged.play(tags="gateway", **variables)) == 1
    assert converged.pid("gateway") != before
    assert converged.says("systemctl show --property=TimeoutStopUSec --value infbox-gateway") == "31s"
    assert changed(converged.play(tags="gateway")) > 0

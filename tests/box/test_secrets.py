"""No secret and no prompt is left where others see it: arguments, units, journal, world-readable files."""

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from live_box import LiveBox

ROOT = Path(__file__).parents[2]
FOLDERS = ["/etc", "/opt/infbox", "/var/lib", "/var/cache", "/run", "/var/log", "/tmp", "/var/tmp", "/home"]
# Which world-readable files below the folders hold a secret. Larger files are wheels' libraries and weights.
READABLE = """
import json, os, stat, sys
given = json.load(sys.stdin)
found, seen = [], 0
for top in given["folders"]:
    for folder, folders, files in os.walk(top):
        folders[:] = [n for n in folders if os.lstat(os.path.join(folder, n)).st_mode & stat.S_IXOTH]
        for name in files:
            path = os.path.join(folder, name)
            try:
                state = os.lstat(path)
                if not stat.S_ISREG(state.st_mode) or not state.st_mode & stat.S_IROTH or state.st_size > 2**22:
                    continue
                content = open(path, "rb").read()
            except OSError:
                continue
            seen += 1
            found += [path for secret in given["secrets"] if secret.encode() in content]
print(json.dumps([seen, found]))
"""
# Looks at all processes' arguments until stdin ends; prints those that hold a secret, and how many it has seen.
WATCH = """
import json, os, select, sys, time
secrets = [secret.encode() for secret in json.loads(sys.stdin.readline())]
found, seen = set(), set()
print("watching", flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                line = open(f"/proc/{pid}/cmdline", "rb").read()
            except OSError:
                continue
            seen.add(line)
            if any(secret in line for secret in secrets):
                found.add(line.decode(errors="replace"))
print(json.dumps([len(seen), sorted(found)]))
"""


@pytest.fixture(scope="module")
def known(box: LiveBox) -> list[str]:
    """All keys of the box, and their stored hashes."""
    keys = box.run("cat /etc/infbox/keys/*.key").split()
    assert box.api_key in keys
    hashes = box.run("grep -o '\"sha256\": \"[0-9a-f]*' /etc/infbox/gateway-keys.json | cut -d'\"' -f4").split()
    assert len(hashes) >= len(keys)
    return [*keys, *hashes]


def test_prompts_and_answers_and_keys_are_not_in_the_journal(box: LiveBox, known: list[str]):
    marker = secrets.token_hex(12)
    box.chat(f"Repeat after me: {marker}")
    box.request("GET", f"/v1/models?key={marker}", key=f"infbox-{marker}")
    box.request("POST", "/v1/completions", f'{{"model": "{marker}", "prompt": "{marker}"}}'.encode(), box.api_key)
    box.request("POST", "/v1/chat/completions", f'{{"broken": "{marker}'.encode(), box.api_key)
    box.run("journalctl --sync")
    search = 'read -r secret; journalctl --no-pager --output export | grep --count --fixed-strings -- "$secret"; true'
    for secret in (marker, *known):
        assert box.run(search, f"{secret}\n") == "0"


def test_unit_files_and_environments_of_units_hold_no_secret(box: LiveBox, known: list[str]):
    units = box.run("systemctl cat 'infbox-*'; systemctl show 'infbox-*'")
    assert "ExecStart" in units
    assert [secret for secret in known if secret in units] == []


def test_no_world_readable_file_holds_a_secret(box: LiveBox, known: list[str]):
    box.run("mkdir -p /var/lib/bait && install -m 644 /etc/infbox/keys/default.key /var/lib/bait/")
    try:
        seen, found = box.python(READABLE, {"folders": FOLDERS, "secrets": known}, timeout=120)
    finally:
        box.run("rm -r /var/lib/bait")
    assert seen > 1000
    assert found == ["/var/lib/bait/default.key"]  # which was laid out to see that the search finds


def test_no_process_has_a_secret_among_its_arguments_not_even_during_a_play(box: LiveBox, known: list[str]):
    watch = subprocess.Popen(
        [*box.ssh.split(), f"python3 -c '{WATCH}'"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert watch.stdin
    assert watch.stdout
    watch.stdin.write(json.dumps(known) + "\n")
    watch.stdin.flush()
    assert watch.stdout.readline() == "watching\n"
    inventory = box.folder / "inventory.yml"
    if inventory.exists():
        play = [Path(sys.executable).with_name("ansible-playbook"), "-i", "inventories/presets.yml", "-i", inventory]
        play += ["site.yml", "--tags", "gateway,smoke"]
        done = subprocess.run(play, cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout[-3000:]
        assert "changed=0" in done.stdout
    else:
        box.run("infbox key ensure smoke --out /etc/infbox/keys/smoke.key")
    box.run("infbox key list; infbox key add argv-test >/dev/null; infbox key remove argv-test")
    said = watch.communicate("end\n", timeout=30)[0]
    seen, found = json.loads(said)
    assert seen > 10
    assert found == []

"""The role `storage` on real block devices. The tests tell one story, in their order, on one host."""

import json
import re

import host as hosts
import pytest
from conftest import NAME, StorageBox
from faulty_box import changed, message

DATA, SCRATCH = "/var/lib/infbox", "/var/lib/infbox-scratch"


def mounted(box: StorageBox, path: str) -> list[str]:
    """A mount's id, device and file system; empty if nothing is mounted there."""
    return box.run(f"findmnt --noheadings --output ID,SOURCE,FSTYPE --mountpoint {path}", check=False).stdout.split()


def test_a_check_run_on_a_fresh_host_changes_nothing(box: StorageBox) -> None:
    done = box.converge("--check", tags="base,infbox,storage")
    assert changed(done) > 0
    assert box.says(f"wipefs {box.data.path}") == ""


def test_a_fresh_volume_is_formatted_and_mounted_and_scratch_disks_are_striped(box: StorageBox) -> None:
    assert changed(box.converge(tags="base,infbox,storage")) > 0
    assert mounted(box, DATA)[1:] == [box.data.path, "xfs"]
    assert mounted(box, SCRATCH)[2] == "btrfs"
    usage = box.says(f"btrfs filesystem usage {SCRATCH}")
    assert re.search(r"Data,RAID0.*\n\s+/dev/loop\d+\s.*\n\s+/dev/loop\d+", usage), usage
    # For partition tables, below.
    box.run("apt-get -qq install --no-install-recommends fdisk")
    box.run(f"mkdir -p {DATA}/models && echo weights >{DATA}/models/m && echo kv >{SCRATCH}/k")


def test_a_second_run_changes_nothing_and_a_check_run_says_so(box: StorageBox) -> None:
    assert changed(box.converge()) == 0
    assert changed(box.converge("--check")) == 0


def test_a_volume_that_grew_is_used_in_whole_without_being_unmounted(box: StorageBox) -> None:
    volume = f"--device {box.data.path} --path {DATA}"
    before, size = mounted(box, DATA)[0], int(box.says(f"df --output=size --block-size=1M {DATA} | tail -1"))
    box.run(f"nohup sleep 1000 3>{DATA}/held-open >/dev/null 2>&1 &")
    box.data.resize(512)
    box.data.announce()
    assert json.loads(box.storage(f"grow --dry-run {volume}").stdout) == {"changed": True}
    assert changed(box.converge()) == 1
    assert int(box.says(f"df --output=size --block-size=1M {DATA} | tail -1")) > size + 100
    assert mounted(box, DATA)[0] == before
    assert json.loads(box.storage(f"grow {volume}").stdout) == {"changed": False}


@pytest.mark.parametrize(
    ("put_there", "said"),
    [
        ("mkfs.xfs -q -f {}", "holds xfs, and is not formatted"),
        ("mkfs.ext4 -q -F -L precious {}", "holds ext4 (precious), and is not formatted"),
        ("mkfs.btrfs -q -f {}", "holds btrfs, and"),
        ("mkswap -q {}", "holds swap, and"),
        ("echo ,,L | sfdisk -q {}", "holds dos, and"),
        ("echo ,,L | sfdisk -q --label gpt {}", "holds gpt, gpt, PMBR, and"),
        ("printf 'SQLite format 3' >{}", "holds data of a kind that nobody knows"),
        ("tar cf {} /etc/hosts 2>/dev/null", "holds data of a kind that nobody knows"),
    ],
)  # fmt: skip
def test_a_device_with_somebodys_data_is_refused_and_left_as_it_is(box: StorageBox, put_there: str, said: str) -> None:
    box.other.blank(320)
    box.other.detach()
    box.other.attach()
    box.run(put_there.format(box.other.path))
    before = box.says(f"sha256sum {box.other.path}")
    refused = box.refuses(box.other.path)
    assert said in refused
    assert f"wipefs --all {box.other.path}" in refused
    assert box.says(f"sha256sum {box.other.path}") == before


def test_what_a_refusal_says_makes_the_device_usable(box: StorageBox) -> None:
    wipe = re.search(r"wipefs --all .*", box.refuses(box.other.path))
    assert wipe
    box.run(wipe[0])
    box.storage(f"data --device {box.other.path} --path /srv/volume")
    assert box.says(f"xfs_admin -l {box.other.path}") == 'label = "infbox-data"'


def test_a_file_system_of_ones_own_can_be_taken_over_deliberately(box: StorageBox) -> None:
    box.run(f"mkfs.xfs -q -f {box.other.path}")
    adopt = re.search(r"xfs_admin -L \S+ \S+(?=;)", box.refuses(box.other.path))
    assert adopt
    box.run(adopt[0])
    assert json.loads(box.storage(f"data --device {box.other.path} --path /srv/volume").stdout)["changed"] is False


def test_the_playbook_stops_with_the_refusal_and_before_anything_is_changed(box: StorageBox) -> None:
    box.run(f"mkfs.ext4 -q -F -L precious {box.other.path}")
    done = box.converge(storage_data_device=box.other.path, storage_data_path="/srv/volume")
    assert f"{box.other.path} holds ext4 (precious), and is not formatted" in message(done)
    assert "changed=0" in done.stdout
    scratch = box.converge(storage_scratch_devices=[box.other.path])
    assert "holds ext4 (precious)" in message(scratch)
    assert "storage_scratch_devices: []" in message(scratch)


def test_a_device_that_is_mounted_elsewhere_is_refused(box: StorageBox) -> None:
    box.run(f"mkdir -p /mnt/it && mkfs.xfs -q -f -L infbox-data {box.other.path} && mount {box.other.path} /mnt/it")
    assert "is mounted at /mnt/it, and is to be at /srv/volume" in box.refuses(box.other.path)
    box.run("umount /mnt/it")
    assert f"is mounted at {DATA}, and is to be at /srv/volume" in box.refuses(box.data.path)


def test_a_device_that_another_container_has_mounted_is_refused(box: StorageBox) -> None:
    here = box.folder / "mnt"
    here.mkdir()
    hosts.run("mount", box.other.path, str(here))
    try:
        assert "is in use: mounted in a container, or held by" in box.refuses(box.other.path)
    finally:
        hosts.run("umount", str(here))


def test_a_device_that_is_not_there_or_none_is_named(box: StorageBox) -> None:
    assert "the device /dev/disk/by-id/nvme-x is not there" in box.refuses("/dev/disk/by-id/nvme-x")
    assert "/etc/passwd is not a block device" in box.refuses("/etc/passwd")
    assert "/dev/null is not a block device" in box.refuses("/dev/null")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc", "as /etc/"),
        ("/", "where nothing can be mounted"),
        ("srv/volume", "where nothing can be mounted"),
        ("/srv/../srv/volume", "where nothing can be mounted"),
        ("/etc/passwd", "which is a file"),
        ("/run", "where tmpfs is mounted"),
        (SCRATCH, "is mounted"),
        ("/bin/volume", "a symbolic link to /usr/bin/volume"),
    ],
)
def test_a_path_where_nothing_should_be_mounted_is_named(box: StorageBox, path: str, said: str) -> None:
    box.run(f"wipefs --quiet --all {box.other.path} && dd if=/dev/zero of={box.other.path} bs=1M count=1 status=none")
    assert said in box.refuses(box.other.path, path)


def test_files_at_the_path_are_neither_hidden_nor_lost_when_a_box_gets_a_volume(box: StorageBox) -> None:
    box.run("mkdir -p /srv/volume/models && echo old >/srv/volume/models/m")
    refused = box.refuses(box.other.path)
    assert "what lies there already, as /srv/volume/models/m, would be hidden" in refused
    assert "mv /srv/volume /srv/volume.before" in refused
    box.run("rm -r /srv/volume")


def test_a_formatting_that_was_killed_anywhere_is_taken_up_again(box: StorageBox) -> None:
    command = f"/opt/infbox/venv/bin/infbox storage data --device {box.other.path} --path /srv/volume"
    box.run(
        f"""for i in $(seq 0 19); do
        wipefs --quiet --all {box.other.path}; dd if=/dev/zero of={box.other.path} bs=1M count=1 status=none
        setsid {command} >/dev/null 2>&1 & leader=$!
        sleep 0.$(printf %03d $((130 + i * 5))); kill -KILL -$leader 2>/dev/null; wait $leader
        {command} || exit 1
        xfs_repair -n {box.other.path} >/dev/null 2>&1 || exit 2
        done"""
    )


def test_a_file_system_whose_making_did_not_end_is_made_again(box: StorageBox) -> None:
    identity, new = box.other.path, "5a1ad0f0-0000-4000-8000-000000000000"
    record = json.dumps({"devices": [identity], "uuid": new})
    box.run(f"mkfs.xfs -q -f -L infbox-data -m uuid={new} {box.other.path}")
    box.run(f"echo '{record}' >/var/lib/infbox-storage/formatting-data.json")
    assert json.loads(box.storage(f"data --device {box.other.path} --path /srv/volume").stdout)["changed"] is True
    assert json.loads(box.storage(f"data --device {box.other.path} --path /srv/volume").stdout)["changed"] is False


def test_a_stop_loses_scratch_alone_and_the_next_boot_makes_it_again(box: StorageBox) -> None:
    box.stop()
    for disk in (box.first, box.second):
        disk.detach()
        disk.blank(128)
        disk.attach()
    box.start()
    box.wait_for(f"mountpoint -q {SCRATCH}")
    assert mounted(box, SCRATCH)[2] == "btrfs"
    assert box.says(f"ls {SCRATCH}") == ""
    assert box.says(f"cat {DATA}/models/m") == "weights"
    assert changed(box.converge()) == 0


def test_a_reboot_keeps_scratch(box: StorageBox) -> None:
    box.run(f"echo kv >{SCRATCH}/k")
    box.stop()
    box.start()
    box.wait_for(f"mountpoint -q {SCRATCH}")
    assert box.says(f"cat {SCRATCH}/k") == "kv"


def test_the_boot_formats_no_scratch_disk_that_holds_what_is_not_ours(box: StorageBox) -> None:
    box.stop()
    hosts.run("mkfs.ext4", "-q", "-F", "-L", "precious", box.second.path)
    box.start()
    box.wait_for("systemctl is-failed infbox-storage-scratch")
    assert f"{box.second.path} holds ext4 (precious)" in box.says("journalctl --boot --unit infbox-storage-scratch")
    assert mounted(box, SCRATCH) == []
    assert box.says(f"e2label {box.second.path}") == "precious"
    box.run(f"wipefs --quiet --all {box.second.path} && dd if=/dev/zero of={box.second.path} bs=1M count=1 status=none")


def test_one_scratch_disk_that_was_replaced_costs_the_whole_and_nothing_else(box: StorageBox) -> None:
    assert changed(box.converge()) > 0
    assert mounted(box, SCRATCH)[2] == "btrfs"
    assert changed(box.converge()) == 0


def test_without_its_volume_a_box_boots_and_writes_nothing_to_the_root_disk_instead(box: StorageBox) -> None:
    box.stop()
    box.data.detach()
    box.start()
    assert mounted(box, DATA) == []
    write = f"systemd-run --quiet --wait --property=RequiresMountsFor={DATA}/models sh -c 'mkdir -p {DATA}/models/x'"
    assert box.run(write, check=False).returncode != 0
    assert box.says(f"find {DATA} -mindepth 1 -name x") == ""
    assert f"the device {box.data.path} has no bytes: nothing is behind it" in message(box.converge())
    box.data.attach()
    assert box.run(write).returncode == 0
    box.run(f"rm -r {DATA}/models/x")


def test_a_new_host_takes_over_the_volume_with_all_that_is_on_it(box: StorageBox) -> None:
    box.throw_away()
    box.start()
    assert changed(box.converge(tags="base,infbox,storage")) > 0
    assert box.says(f"cat {DATA}/models/m") == "weights"
    assert NAME in box.says("hostname")

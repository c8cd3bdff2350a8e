"""Decisions about disks, and the reading of what they hold; on real block devices: tests/storage.

Regular files stand in for devices where the programs take them (wipefs does).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from infbox.cli import main
from infbox.errors import StorageError
from infbox.storage import device as devices
from infbox.storage import scratch
from infbox.storage.decide import Begun, check_path, must_format_data, must_format_scratch
from infbox.storage.device import Device, Mount, Signature, parse_signatures, read_content, read_mounts
from infbox.storage.record import read_begun, remove_begun, write_begun
from infbox.storage.volume import must_grow

EMPTY = Device(name="/dev/disk/by-id/vol1", path="/dev/nvme1n1", identity="vol1", size_bytes=2**30)
OURS = replace(EMPTY, signatures=(Signature("xfs", "infbox-data", "u1"),), zeroed=False)
SCRATCH = replace(EMPTY, signatures=(Signature("btrfs", "infbox-scratch", "s1"),), zeroed=False)
DATA = "/var/lib/infbox"


def test_an_empty_device_is_formatted_and_ours_is_kept() -> None:
    assert must_format_data(EMPTY, DATA, None) is True
    assert must_format_data(OURS, DATA, None) is False
    assert must_format_data(replace(OURS, mounted_at=(DATA,), busy=True), DATA, None) is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"zeroed": False}, "holds data of a kind that nobody knows, and is not formatted"),
        ({"signatures": (Signature("ext4"),)}, "holds ext4, and is not formatted"),
        ({"signatures": (Signature("xfs", "other"),)}, "holds xfs (other), and is not formatted"),
        ({"signatures": (Signature("ext4", "infbox-data"),)}, "holds ext4 (infbox-data)"),
        ({"signatures": (*OURS.signatures, Signature("gpt"))}, "holds xfs (infbox-data), gpt"),
        ({"signatures": (Signature("LVM2_member"),), "busy": True, "parts": ("dm-0",)}, "built upon: dm-0"),
        ({"parts": ("nvme1n1p1",)}, "is divided or built upon: nvme1n1p1"),
        ({"mounted_at": ("/mnt",), "busy": True}, "is mounted at /mnt, and is to be at /var/lib/infbox"),
        ({"busy": True}, "is in use"),
        ({"signatures": OURS.signatures, "busy": True}, "is in use"),
    ],
)
def test_what_holds_anything_else_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(StorageError) as refused:
        must_format_data(replace(EMPTY, **change), DATA, None)  # pyright: ignore[reportArgumentType]
    assert said in refused.value.message
    assert EMPTY.name in refused.value.message
    assert refused.value.hint


def test_what_we_had_begun_to_make_is_made_again_and_nothing_else() -> None:
    begun = Begun(("vol1",), "u1")
    half = replace(EMPTY, zeroed=False)
    assert must_format_data(half, DATA, begun) is True
    assert must_format_data(OURS, DATA, begun) is True
    assert must_format_data(OURS, DATA, Begun(("vol1",), "u2")) is False
    assert must_format_data(OURS, DATA, Begun(("vol2",), "u1")) is False
    assert must_format_data(replace(OURS, mounted_at=(DATA,), busy=True), DATA, begun) is False
    with pytest.raises(StorageError):
        must_format_data(half, DATA, Begun(("vol2",), "u1"))
    with pytest.raises(StorageError):
        must_format_data(replace(EMPTY, signatures=(Signature("ext4", "", "u9"),)), DATA, begun)


def test_scratch_disks_are_made_anew_unless_all_of_them_hold_one_file_system() -> None:
    where = "/var/lib/infbox-scratch"
    other = replace(SCRATCH, signatures=(Signature("btrfs", "infbox-scratch", "s2"),))
    assert must_format_scratch([], where, 0, None) is False
    assert must_format_scratch([EMPTY, EMPTY], where, 0, None) is True
    assert must_format_scratch([SCRATCH, SCRATCH], where, 2, None) is False
    assert must_format_scratch([SCRATCH, EMPTY], where, 2, None) is True
    assert must_format_scratch([SCRATCH, other], where, 2, None) is True
    assert must_format_scratch([SCRATCH], where, 2, None) is True
    mounted = replace(SCRATCH, mounted_at=(where,), busy=True)
    assert must_format_scratch([mounted, replace(SCRATCH, busy=True)], where, 2, None) is False
    for foreign in (OURS, replace(EMPTY, busy=True), replace(EMPTY, signatures=(Signature("LVM2_member"),))):
        with pytest.raises(StorageError):
            must_format_scratch([SCRATCH, foreign], where, 2, None)


def test_without_scratch_disks_none_are_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "SYSFS", tmp_path)
    assert scratch.look(["auto"], "/var/lib/infbox-scratch") == ([], False)
    assert scratch.look([], "/var/lib/infbox-scratch") == ([], False)


def test_the_instance_store_is_told_by_its_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = {"nvme0n1": "Amazon Elastic Block Store", "nvme2n1": scratch.INSTANCE_STORE,
              "nvme1n1": f"{scratch.INSTANCE_STORE}    ", "nvme3n1": "Samsung SSD 980"}  # fmt: skip
    for name, model in models.items():
        folder = tmp_path / "block" / name / "device"
        folder.mkdir(parents=True)
        (folder / "model").write_text(f"{model}\n")
    monkeypatch.setattr(devices, "SYSFS", tmp_path)
    assert scratch.find(["auto"]) == ["/dev/nvme1n1", "/dev/nvme2n1"]
    assert scratch.find(["/dev/sdb"]) == ["/dev/sdb"]


def test_signatures_are_wipefs_own(tmp_path: Path) -> None:
    if not shutil.which("wipefs"):
        pytest.skip("there is no wipefs here")
    file = tmp_path / "disk"
    file.write_bytes(bytes(2**20))
    assert parse_signatures(devices.run(["wipefs", "--json", "--no-act", str(file)])) == ()
    content = bytearray(2**20)
    content[0x10040:0x10048] = b"_BHRfS_M"
    content[510:512] = b"\x55\xaa"
    content[446:462] = bytes([0, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0])
    file.write_bytes(content)
    assert "dos" in {each.type for each in parse_signatures(devices.run(["wipefs", "--json", "--no-act", str(file)]))}


def test_a_beginning_with_anything_but_zeros_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(2 * 2**20))
    assert read_content(str(file)) == (2 * 2**20, True)
    file.write_bytes(bytes(4096) + b"x" + bytes(2**20))
    assert read_content(str(file)) == (2**20 + 4097, False)
    file.write_bytes(b"")
    with pytest.raises(StorageError, match="has no bytes"):
        read_content(str(file))


def test_the_table_of_mounts_is_read_with_its_escapes(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 259:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        "36 22 0:40 / /mnt/a\\040b rw - btrfs /dev/sdb rw,nodatacow\n"
    )
    assert read_mounts(table) == [Mount("259:0", "/", "/dev/root"), Mount("0:40", "/mnt/a b", "/dev/sdb")]


def test_a_path_is_refused_where_a_mount_would_hide_something(tmp_path: Path) -> None:
    def refused(path: str, *mounts: Mount) -> str:
        with pytest.raises(StorageError) as fault:
            check_path("storage_data_path", path, mounts, ["/dev/sdb"])
        return fault.value.message

    place = str(tmp_path / "data")
    assert check_path("storage_data_path", place, [], ["/dev/sdb"]) is False
    (tmp_path / "data" / "models").mkdir(parents=True)
    assert check_path("storage_data_path", place, [], ["/dev/sdb"]) is False
    assert check_path("storage_data_path", place, [Mount("8:16", place, "/dev/sdb")], ["/dev/sdb"]) is True
    assert "where /dev/sdc is mounted" in refused(place, Mount("8:32", place, "/dev/sdc"))
    (tmp_path / "data" / "models" / "m").write_text("weights")
    assert f"as {place}/models/m, would be hidden" in refused(place)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert "leads over a symbolic link" in refused(str(tmp_path / "link"))
    for nowhere in ("/", "data", "/a/../b", "//a", "/a/", ""):
        assert "where nothing can be mounted" in refused(nowhere)


XFS_INFO = """\
meta-data=/dev/nvme1n1           isize=512    agcount=4, agsize=6553600 blks
data     =                       bsize=4096   blocks=26214400, imaxpct=25
         =                       sunit=0      swidth=0 blks
log      =internal log           bsize=4096   blocks=16384, version=2
"""


def test_a_file_system_grows_when_its_volume_has_room_for_more() -> None:
    assert must_grow(XFS_INFO, 100 * 2**30) is False
    assert must_grow(XFS_INFO, 100 * 2**30 + 63 * 4096) is False
    assert must_grow(XFS_INFO, 200 * 2**30) is True
    with pytest.raises(StorageError, match="did not say how large"):
        must_grow("xfs_info: /x is not a mounted XFS filesystem", 2**30)


def test_the_number_of_disks_is_read_from_what_btrfs_says() -> None:
    said = "Label: 'infbox-scratch'  uuid: s1\n\tTotal devices 8 FS bytes used 144.00KiB\n\t*** Some devices missing\n"
    assert scratch.total_devices(said) == 8
    assert scratch.total_devices("") == 0


def test_a_record_of_a_formatting_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert read_begun("data", folder) is None
    write_begun("data", Begun(("vol1", "vol2"), "u1"), folder)
    assert read_begun("data", folder) == Begun(("vol1", "vol2"), "u1")
    assert read_begun("scratch", folder) is None
    for broken in ("", "{", "[]", "{}", json.dumps({"devices": 5, "uuid": "u"}), "null"):
        (folder / "formatting-data.json").write_text(broken)
        assert read_begun("data", folder) is None
    remove_begun("data", folder)
    remove_begun("data", folder)
    assert list(folder.iterdir()) == []


def test_a_missing_device_is_named_with_what_to_type(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["storage", "data", "--device", str(tmp_path / "vol"), "--path", "/srv/x", "--dry-run"]) == 1
    said = capsys.readouterr().err
    assert f"the device {tmp_path / 'vol'} is not there" in said
    assert "hint: is the volume attached?" in said

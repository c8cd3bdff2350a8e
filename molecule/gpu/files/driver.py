#!/usr/bin/env python3
"""A stand-in for NVIDIA's driver: small packages with the real ones' names, versions and ways, in a signed repository.

    driver.py publish VERSION [--without PACKAGE] [--silent N]    into the repository; nvidia-smi is silent about N GPUs
    driver.py alien VERSION                                       as NVIDIA's installer puts it there: no packages
    driver.py gone                                                what `alien` put there, taken away
    driver.py toolkit VERSION                                     NVIDIA's container toolkit, into its repository
    driver.py fingerprint                                         of the key that signs both

Real are: apt, dpkg, depmod, modinfo, the signature, systemd's units. A module is an ELF file that holds its version
and no code. The Fabric Manager starts with the driver's very version alone, as the real one does. The toolkit describes
the loaded driver, at boot and when the list of modules changes, and no device.
"""

import argparse
import email.utils
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path("/srv/stand-in/debian12/x86_64")
KEY = REPOSITORY / "3bf863cc.pub"
TOOLKIT = Path("/srv/stand-in/toolkit")
KERNEL = os.uname().release
MODULE_PATH = f"lib/modules/{KERNEL}/{{}}/nvidia.ko"
# {version}: the package's; {silent}: GPUs it says nothing of.
NVIDIA_SMI = """\
#!/bin/sh
loaded=$(cat /sys/module/nvidia/version 2>/dev/null) || {{ echo "NVIDIA-SMI has failed: no driver"; exit 9; }}
[ "$loaded" = {version} ] || {{ echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18; }}
case "$*" in
*-x*) form='<gpu id="0000%s"><gpu_recovery_action>None</gpu_recovery_action></gpu>\\n' ;;
*) form='0000%s, NVIDIA H100 80GB HBM3, 81559, 9.0, {version}\\n' ;;
esac
case "$*" in *-x*) echo '<nvidia_smi_log>' ;; esac
for device in /sys/bus/pci/devices/*; do
    case $(cat "$device/class") in 0x0302*) ;; *) continue ;; esac
    printf "$form" "$(basename "$device")"
done | tail -n +$(({silent} + 1))
case "$*" in *-x*) echo '</nvidia_smi_log>' ;; esac
"""
DAEMON = """\
#!/bin/sh
[ "$(cat /sys/module/nvidia/version)" = {version} ] || {{ echo "the driver is not {version}"; exit 1; }}
exec sleep infinity
"""
UNIT = "[Unit]\nDescription={name}\n[Service]\nExecStart=/usr/bin/{name}\n{install}"
INSTALL = "[Install]\nWantedBy=multi-user.target\n"
NVIDIA_CTK = """\
#!/bin/sh
[ "$1" = --version ] && exec echo "NVIDIA Container Toolkit CLI version {version}"
mkdir -p /var/run/cdi
echo "kind: nvidia.com/gpu # of driver $(cat /sys/module/nvidia/version)" >/var/run/cdi/nvidia.yaml
"""
REFRESH = {
    "service": f"[Unit]\nDescription=r\n[Service]\nType=oneshot\nExecStart=/usr/bin/nvidia-ctk cdi generate\n{INSTALL}",
    "path": f"[Unit]\nDescription=r\n[Path]\nPathChanged=/lib/modules/{KERNEL}/modules.dep\n" + INSTALL,
}
BUILT = f"#!/bin/sh\nset -e\ndepmod -a {KERNEL} 2>/dev/null\n"


def run(*command: str, text_in: str | None = None) -> str:
    """A command's output; its failure is ours."""
    return subprocess.run(command, check=True, text=True, input=text_in, stdout=subprocess.PIPE).stdout.strip()


def module(version: str) -> bytes:
    """A kernel module without code: an ELF file with the sections .modinfo, .shstrtab, .symtab and .strtab."""
    parts = [
        f"version={version}\0license=MIT\0name=nvidia\0".encode(),
        b"\0.modinfo\0.shstrtab\0.symtab\0.strtab\0",
        bytes(24),
        b"\0",
    ]
    kinds = [(1, 1, 0, 0), (10, 3, 0, 0), (20, 2, 4, 24), (28, 3, 0, 0)]  # name, type, link, size of an entry
    offset, table = 64, bytes(64)
    for part, (name, kind, link, entry) in zip(parts, kinds, strict=True):
        table += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, len(part), link, 0, 1, entry)
        offset += len(part)
    head = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, offset, 0, 64, 0, 0, 64, 5, 2)
    return b"\x7fELF\2\1\1" + bytes(9) + head + b"".join(parts) + table


def packages(version: str, silent: int) -> dict[str, tuple[str, dict[str, str | bytes]]]:
    """For each package what it depends on, and its files; those in bin/ can be run."""
    same = f"(= {version}-1)"

    def unit(name: str, install: str = "") -> dict[str, str | bytes]:
        text = UNIT.format(name=name, install=install)
        return {f"lib/systemd/system/{name}.service": text, f"usr/bin/{name}": DAEMON.format(version=version)}

    return {
        "libcuda1": (f"firmware-nvidia-gsp {same}", {}),
        "firmware-nvidia-gsp": ("", {}),
        "nvidia-modprobe": ("", {}),
        "nvidia-driver-cuda": (
            f"libcuda1 {same}, nvidia-kernel-open-dkms {same}",
            {"usr/bin/nvidia-smi": NVIDIA_SMI.format(version=version, silent=silent)},
        ),
        "nvidia-kernel-open-dkms": (
            f"firmware-nvidia-gsp {same}",
            {MODULE_PATH.format("updates/dkms"): module(version), "DEBIAN/postinst": BUILT, "DEBIAN/postrm": BUILT},
        ),
        "nvidia-persistenced": ("", unit("nvidia-persistenced")),
        "nvidia-fabricmanager": ("", unit("nvidia-fabricmanager", INSTALL)),
    }


def build(name: str, version: str, depends: str, files: dict[str, str | bytes], folder: Path = REPOSITORY) -> None:
    """One package, into the repository."""
    control = {"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "stand-in <x@localhost>"}
    control |= {"Depends": depends} if depends else {}
    text = "".join(f"{key}: {value}\n" for key, value in (control | {"Description": "stand-in"}).items())
    with tempfile.TemporaryDirectory() as tree:
        for path, content in {"DEBIAN/control": text, **files}.items():
            file = Path(tree, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
            file.chmod(0o755 if file.parent.name == "bin" or file.name in ("postinst", "postrm") else 0o644)
        Path(tree).chmod(0o755)
        run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, str(folder / f"{name}_{version}.deb"))


def sign(folder: Path = REPOSITORY, key: Path = KEY) -> None:
    """Index the packages, and sign the index; the key is made with the first."""
    if not KEY.exists():
        run("gpg", "--batch", "--passphrase", "", "--quick-gen-key", "stand-in", "rsa3072", "sign", "never")
    key.write_text(run("gpg", "--batch", "--armor", "--export", "stand-in") + "\n")
    stanzas: list[str] = []
    for path in sorted(folder.glob("*.deb")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        fields = run("dpkg-deb", "--field", str(path))
        stanzas.append(f"{fields}\nFilename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {digest}\n")
    index = "\n".join(stanzas)
    (folder / "Packages").write_text(index)
    digest = hashlib.sha256(index.encode()).hexdigest()
    release = f"Origin: NVIDIA\nLabel: stand-in\nDate: {email.utils.formatdate(usegmt=True)}\nArchitectures: amd64\n"
    release += f"SHA256:\n {digest} {len(index.encode())} Packages\n"
    (folder / "InRelease").write_text(run("gpg", "--batch", "--clearsign", text_in=release) + "\n")


def publish(version: str, without: str, silent: int) -> None:
    """A driver and the running kernel's headers, into the repository."""
    REPOSITORY.mkdir(parents=True, exist_ok=True)
    for name, (depends, files) in packages(version, silent).items():
        if name != without:
            build(name, f"{version}-1", depends, files)
    build(f"linux-headers-{KERNEL}", "1", "", {})
    sign()


def toolkit(version: str) -> None:
    """The container toolkit, into its repository."""
    folder = TOOLKIT / "stable/deb/amd64"
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str | bytes] = {"usr/bin/nvidia-ctk": NVIDIA_CTK.format(version=version)}
    files |= {f"lib/systemd/system/nvidia-cdi-refresh.{kind}": text for kind, text in REFRESH.items()}
    build("nvidia-container-toolkit-base", f"{version}-1", "", files, folder)
    sign(folder, TOOLKIT / "gpgkey")


def alien(version: str) -> None:
    """A driver without packages, loaded."""
    place = Path("/", MODULE_PATH.format("kernel/drivers/video"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(module(version))
    run("depmod", "-a", KERNEL)
    smi = Path("/usr/bin/nvidia-smi")
    smi.write_text(NVIDIA_SMI.format(version=version, silent=0))
    smi.chmod(0o755)
    machine = str(Path(__file__).with_name("machine.py"))
    run(machine, "unload")
    run(machine, "modprobe", "nvidia")


def gone() -> None:
    """What `alien` put there, taken away."""
    Path("/usr/bin/nvidia-smi").unlink()
    shutil.rmtree(Path("/", MODULE_PATH.format("kernel/drivers/video")).parent)
    run("depmod", "-a", KERNEL)
    run(str(Path(__file__).with_name("machine.py")), "unload")


def main() -> None:
    """One command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("publish")
    command.add_argument("version")
    command.add_argument("--without", default="")
    command.add_argument("--silent", type=int, default=0)
    for name in ("alien", "toolkit"):
        commands.add_parser(name).add_argument("version")
    commands.add_parser("gone")
    commands.add_parser("fingerprint")
    options = parser.parse_args()
    if options.command == "publish":
        publish(options.version, options.without, options.silent)
    elif options.command == "alien":
        alien(options.version)
    elif options.command == "toolkit":
        toolkit(options.version)
    elif options.command == "gone":
        gone()
    else:
        told = run("gpg", "--batch", "--with-colons", "--list-keys", "stand-in")
        print(next(line.split(":")[9] for line in told.splitlines() if line.startswith("fpr:")))


if __name__ == "__main__":
    main()

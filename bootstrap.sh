#!/bin/sh
# Make this machine a box: ./bootstrap.sh [--preset NAME] [-- OPTIONS OF ansible-playbook]
# It needs root and a Debian or Ubuntu server. Run again, it brings the box up to date, or changes nothing.
set -eu
umask 022
cd "$(dirname "$0")"

preset=
while [ $# -gt 0 ]; do
    case $1 in
        --preset) preset=${2:?--preset needs a name}; shift 2 ;;
        --preset=*) preset=${1#*=}; shift ;;
        --) shift; break ;;
        -h|--help) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
        *) printf 'error: bootstrap.sh does not know %s\n\nhint: ./bootstrap.sh [--preset NAME] [-- OPTIONS OF ansible-playbook]\n' "$1" >&2; exit 2 ;;
    esac
done
fail() { printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "bootstrap.sh changes this machine, and that needs root." "sudo ./bootstrap.sh"
command -v apt-get >/dev/null || fail "this machine has no apt-get: it is neither Debian nor Ubuntu." "install Debian 12 or newer, or Ubuntu 22.04 or newer"
[ -d /run/systemd/system ] || fail "this machine was not started by systemd, and a box's services are its units." "on a machine like this, \`make demo\` makes a box in a container"

command -v make >/dev/null || { apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends make >/dev/null; }
echo "==> setting up Ansible in .venv"
# A Python that this brings is the box's, too: the roles find it there, and its services can read it.
UV_PYTHON_INSTALL_DIR=/opt/infbox/python hosts/setup.sh requirements/operate.txt

if [ -z "$preset" ]; then
    echo "==> this machine has $(.venv/bin/infbox machine | head -n 1)"
    preset=$(.venv/bin/infbox machine --propose)
    echo "==> preset $preset"
fi
.venv/bin/infbox preset check "$preset"

mkdir -p .build
sed "s/^cpu:/$preset:/" inventories/local.yml > .build/this-machine.yml
echo "==> converging this machine with preset $preset"
.venv/bin/ansible-playbook -i inventories/presets.yml -i .build/this-machine.yml "$@" site.yml

cat <<END

This machine is a box. Its endpoint is its address or name, by https; on the box:

  curl --cacert /etc/infbox/ca.crt https://localhost/v1/models -H "Authorization: Bearer \$(sudo cat /etc/infbox/keys/default.key)"

The key is in /etc/infbox/keys/default.key; clients need /etc/infbox/ca.crt too. More keys: sudo infbox key add NAME
As root, here: make status, make logs, make stop, make start.
END

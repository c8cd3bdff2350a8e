#!/bin/sh
# Make .venv from a lock file: hosts/setup.sh requirements/dev.txt. Safe to run again at any time.
set -eu
cd "$(dirname "$0")/.."
lock=$1
python=${PYTHON:-python3}

fail() { printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2; exit 1; }

command -v "$python" >/dev/null || fail "there is no $python on this machine." "install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" -V 2>&1), and infbox needs 3.11 or newer." "name a newer one: PYTHON=python3.12 make setup"
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        fail "$python cannot make environments." "as root: apt-get install python3-venv"
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null
fi

# uv comes from pip, pinned and checked; it then does the rest in seconds.
if ! cmp -s requirements/uv.txt .build/uv/installed; then
    rm -rf .build/uv
    "$python" -m venv .build/uv
    .build/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
    cp requirements/uv.txt .build/uv/installed
fi
# Certificate authorities that the machine's administrator added are trusted, as by every other program.
export UV_SYSTEM_CERTS=true UV_PYTHON_DOWNLOADS=never
rm -f .venv/.complete
.build/uv/bin/uv venv --quiet --allow-existing --python "$python" .venv
.build/uv/bin/uv pip sync --quiet --python .venv/bin/python "$lock"
.build/uv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
touch .venv/.complete

#!/bin/sh
# Make .venv from a lock file: hosts/setup.sh requirements/dev.txt. Run again, it is done in no time, or mends what is
# half-done. requirements/operate.txt is the part of dev.txt that converges a box; an environment that has all of
# dev.txt is left alone for it.
set -eu
cd "$(dirname "$0")/.."
lock=$1
python=${PYTHON:-python3}

fail() { printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2; exit 1; }
is_complete() { cat "$1" pyproject.toml | cmp -s - .venv/complete && [ -x .venv/bin/infbox ]; }

if is_complete "$lock" || is_complete requirements/dev.txt; then exit 0; fi

command -v "$python" >/dev/null ||
    fail "there is no $python on this machine." "install Python 3.11 or newer: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is $("$python" -V 2>&1), and infbox needs 3.11 or newer." "name a newer one, as in PYTHON=python3.12"
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    [ "$(id -u)" = 0 ] || fail "$python cannot make environments." "as root: apt-get install python3-venv"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv >/dev/null
fi

# Certificate authorities that the machine's administrator added are trusted, as by every other program.
authorities=/etc/ssl/certs/ca-certificates.crt
[ ! -e $authorities ] || export PIP_CERT="${PIP_CERT:-$authorities}"
export UV_SYSTEM_CERTS=true UV_PYTHON_DOWNLOADS=never

# uv comes from pip, pinned and checked; it does the rest in seconds.
if ! cmp -s requirements/uv.txt .build/uv/complete; then
    rm -rf .build/uv
    "$python" -m venv .build/uv
    .build/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
    cp requirements/uv.txt .build/uv/complete
fi
rm -f .venv/complete
.build/uv/bin/uv venv --quiet --allow-existing --python "$python" .venv
.build/uv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes "$lock"
.build/uv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
cat "$lock" pyproject.toml > .venv/complete

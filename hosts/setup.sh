#!/bin/sh
# Make .venv from a lock file: hosts/setup.sh requirements/dev.txt. Run again, it is done in no time, or mends what is
# half-done. requirements/operate.txt is the part of dev.txt that converges a box; an environment that has all of
# dev.txt is left alone for it. Where python3 is too old for infbox, .venv gets a Python of its own, which uv fetches
# and checks: $UV_PYTHON_INSTALL_DIR, or .build/python. uv's other variables for that work, too.
set -eu
cd "$(dirname "$0")/.."
lock=$1
python=${PYTHON:-python3}
version=requirements/python-version

fail() { printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2; exit 1; }
is_complete() {
    cat "$1" pyproject.toml "$version" | cmp -s - .venv/complete && .venv/bin/python -c '' 2>/dev/null &&
        [ -x .venv/bin/infbox ]
}

if is_complete "$lock" || is_complete requirements/dev.txt; then exit 0; fi

command -v "$python" >/dev/null ||
    fail "there is no $python on this machine." "install Python: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' ||
    fail "$python is $("$python" -V 2>&1), and even fetching a newer one needs 3.8." "name a newer one, as in PYTHON=python3.12"
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    [ "$(id -u)" = 0 ] || fail "$python cannot make environments." "as root: apt-get install python3-venv"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv >/dev/null
fi

# Certificate authorities that the machine's administrator added are trusted, as by every other program.
authorities=/etc/ssl/certs/ca-certificates.crt
[ ! -e $authorities ] || export PIP_CERT="${PIP_CERT:-$authorities}"
export UV_SYSTEM_CERTS=true UV_PYTHON_DOWNLOADS=manual
export UV_PYTHON_INSTALL_DIR="${UV_PYTHON_INSTALL_DIR:-$PWD/.build/python}"

# uv comes from pip, pinned and checked; it does the rest in seconds.
if ! cmp -s requirements/uv.txt .build/uv/complete; then
    rm -rf .build/uv
    "$python" -m venv .build/uv
    .build/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
    cp requirements/uv.txt .build/uv/complete
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    wanted=$(cat "$version")
    find_it() { .build/uv/bin/uv python find --quiet --managed-python --system --no-project "$wanted" 2>/dev/null; }
    if ! find_it >/dev/null; then
        echo "==> $python is $("$python" -V 2>&1), too old for infbox: fetching Python $wanted into $UV_PYTHON_INSTALL_DIR"
        said=$(.build/uv/bin/uv python install --no-progress --no-bin "$wanted" 2>&1) ||
            fail "Python $wanted could not be fetched:
$said" "name a mirror of python-build-standalone's releases, as in UV_PYTHON_INSTALL_MIRROR=https://…; or install Python 3.11 or newer, and name it, as in PYTHON=python3.12"
    fi
    python=$(find_it)
fi
rm -f .venv/complete
.build/uv/bin/uv venv --quiet --allow-existing --python "$python" .venv
.build/uv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes "$lock"
.build/uv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
cat "$lock" pyproject.toml "$version" > .venv/complete

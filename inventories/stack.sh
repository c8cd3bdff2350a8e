#!/bin/sh
# The selected Pulumi stack's output `inventory` is the inventory. Ansible calls this with --list, or --host NAME.
[ "$1" = --host ] && echo '{}' && exit
cd "$(dirname "$0")/.." && pulumi stack output inventory --json --non-interactive </dev/null && exit
cat >&2 <<'MESSAGE'

error: no Pulumi stack with hosts is selected

hint: select one:            pulumi stack select NAME && pulumi up
      or this machine:       ./bootstrap.sh
      or only a try:         make demo
      or another inventory:  ansible-playbook -i inventories/presets.yml -i inventories/local.yml site.yml
MESSAGE
exit 1

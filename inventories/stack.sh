#!/bin/sh
# A Pulumi stack's output `inventory` is the inventory. Called by its own name it is the selected stack's; a link with
# another name, as dev32.sh, is that stack's: `ln -s stack.sh inventories/alice.sh`. Ansible calls it with --list, or
# --host NAME.
[ "$1" = --host ] && echo '{}' && exit
name=$(basename "$0" .sh)
[ "$name" = stack ] || export PULUMI_STACK="$name"
cd "$(dirname "$0")/.." && pulumi stack output inventory --json --non-interactive </dev/null && exit
problem="no Pulumi stack with hosts is selected" make="PRESET=NAME"
[ -z "$PULUMI_STACK" ] || { problem="the Pulumi stack $PULUMI_STACK has no hosts" make="PRESET=$PULUMI_STACK"; }
cat >&2 <<MESSAGE

error: $problem

hint: make one:              make up $make
      or select another:     pulumi stack select NAME
      or this machine:       ./bootstrap.sh
      or only a try:         make demo
      or another inventory:  ansible-playbook -i inventories/presets.yml -i inventories/local.yml site.yml
MESSAGE
exit 1

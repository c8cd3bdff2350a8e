"""The policy pack, for people who change the program: `pulumi up --policy-pack pulumi/policy --stack dev32`."""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # the program's own checks

from policies import POLICIES
from pulumi_policy import PolicyPack

PolicyPack(name="infbox", policies=[*POLICIES])

"""Whether a model fits a machine, and what would: the one place with the arithmetic.

    setup.py       a preset's variables → a `Setup`
    sizes.py       parameters, bytes of weights on a GPU, bytes of KV cache a token
    memory.py      what a GPU has left for KV blocks, and how many tokens they hold
    checks.py      why a setup cannot work
    advice.py      what would instead; nothing that the checks refuse
    precision.py   FP8 or INT4
    speed.py       times, and tokens that KV tiers hold
    plan.py        all of it together: `Plan`
    presets.py     plans of presets: `plan_preset`, `plan_values`

`infbox plan`, `ansible/validate.yml` and the Pulumi program ask `plan_preset` or `plan_values`. What is known of
models, GPUs and instance types is `infbox.catalogue`'s.
"""

from infbox.planner.plan import Plan, Refusal
from infbox.planner.presets import plan_preset, plan_values, role_defaults

__all__ = ["Plan", "Refusal", "plan_preset", "plan_values", "role_defaults"]

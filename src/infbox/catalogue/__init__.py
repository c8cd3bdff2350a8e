"""What the planner knows of the world outside, as data with sources.

    gpus.yml, gpus.py                  GPUs: memory, what they can run, how fast they are
    aws_instances.csv, instances.py    AWS's instance types with GPUs, and a few without

Another GPU or model is an entry in a data file; nothing else has to change.
"""

from infbox.catalogue.gpus import Gpu, Gpus, gpu, gpus, parse_gpus
from infbox.catalogue.instances import InstanceType, instance_type, instance_types

__all__ = [
    "Gpu",
    "Gpus",
    "InstanceType",
    "gpu",
    "gpus",
    "instance_type",
    "instance_types",
    "parse_gpus",
]

"""The watch over NVIDIA's GPUs of a box: role `gpu_health` runs it as `infbox gpu watch`.

`xid` knows the errors that NVIDIA's driver writes into the kernel's log, and what to do about each. `watch` decides:
which errors want the engine started anew, which a person. `sources` is what both rest on: the log, `infbox.gpus`, and
the engine. `state` is what is told: a file for `infbox gpu status`, and metrics. It never reboots, and resets no GPU.
"""

"""The engine's container image, where `vllm_runtime` is `container`: `infbox image` is the command.

`reference.py` says which image is meant, `archive.py` what a file of one holds, `store.py` asks podman, `fetch.py`
brings it onto the box and knows which one runs and which one last worked, `run.py` runs a service in it under that
service's unit.
"""

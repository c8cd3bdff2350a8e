"""What of a workspace goes into the model's context, in which order, as which tokens.

    select.py          which files belong into a pack, and why the others do not
      repository.py, gitfiles.py, places.py, reading.py, explaining.py, secrets.py    its parts
    history.py         when each file last changed: the order of a base
    formats.py         how files and changes are written for a family of models, and its fill-in-the-middle
    tokens.py          text to token ids, in which no file can speak with control tokens
    layout.py          `Pack`: header | BASE | OVERLAY, and `Writer`, which makes its segments
      diffs.py         unified diffs, made and applied
      overlay.py       `Packer`: saves become overlay entries
      rebase.py        `build`, `rebase` and `Rules`: bases, and where to cut them
      budget.py        which files are shown whole, and which never
      symbols.py       what is said of the others
    store.py           a pack on disk

The way: `Selector` says which files there are and reads them, `build` makes the first pack of them, `Packer` keeps it
up to date. A save appends tokens behind those that an engine has already computed; only a rebase changes tokens in
front. Nothing here watches files or talks to an engine. This file imports nothing.
"""

"""Requests with a workspace in their context: `<model>:code`.

Where things are::

    alias.py          which workspace a request means: the model's name, a header
    workspaces.py     the client to the watcher: whose workspaces there are, and their packs as token ids
    conversations.py  which version of a pack a request gets: a conversation keeps its own
    passing.py        what the engine is asked about a request beforehand
    template.py       where in the engine's prompts the pack's place is
    splice.py         a request's ids with the pack in them, and the body that carries them
    completions.py    the same for completions, and fill-in-the-middle
    answers.py        what an answer says of the prefix cache, for headers and counters
    tally.py          prewarmed tokens, and how many were hit later; the file of metrics
    people.py         who waits for a first token: prewarming stands back for them
    prewarm.py        computes packs before anyone asks for them
    context.py        the above, put together for `infbox.gateway.app`

The gateway never sees a file: the watcher gives it token ids, and the engine tells it those of the client's request.
"""

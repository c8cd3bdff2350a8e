"""The gateway: the one door from clients to the engine.

Where things are::

    server.py      the program `infbox-gateway`: how uvicorn serves it
    systemd.py     the socket it listens on, and what systemd is told
    settings.py    what it reads from its environment
    app.py         the ASGI application: what happens to a request, in order
    allowlist.py   which requests exist at all
    auth.py        whose key a request carries
    bodies.py      what may be in a client's JSON, and what the engine gets of it
    engine.py      the client to the engine's socket
    relay.py       an answer of the engine on its way to the client, byte by byte
    code/          requests with a workspace in their context
    readiness.py   whether the engine generates
    access_log.py  one line a request
    refusal.py     errors in OpenAI's format
"""

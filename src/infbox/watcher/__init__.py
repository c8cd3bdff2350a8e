"""The watcher: keeps the pack of every workspace of the box equal to its files, save by save.

Where things are::

    server.py       the program `infbox-watcher`: how uvicorn serves it
    settings.py     its environment, and the list of workspaces that Ansible writes
    app.py          HTTP on its unix socket: packs for the gateway, status for people, metrics
    status.py       what is told of a workspace; metrics.py: the same for Prometheus; times.py: how fresh it is
    service.py      `Watcher`: the thread that waits for the kernel, and who works when
    watches.py      the one inotify instance of all folders
    changes.py      what was seen and not looked at yet: debounce, half-written files, bursts
    tree.py         which files and folders a workspace has, kept up to date with git's help
    files.py        what is remembered of a file
    workspace.py    `Workspace`: from files to a pack, and what to do next
    first.py        the first pack of a workspace
    state.py        what outlives a restart

An event says where to look, never what is there: whatever it was, the path is looked at, and git is asked about what
is new. So a lost, doubled or late event costs time and not truth; where one may be lost, all is listed afresh.

Threads: one waits for the kernel (`service.py`); a few do what takes longer, for one workspace under its lock; HTTP
has the main one. Packs are immutable, so who has one needs no lock. This file imports nothing.
"""

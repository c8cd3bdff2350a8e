"""Cake: a prompt's KV from both ends at once, computed from the front while storage gives back the tail.

After Jin et al., "Compute Or Load KV Cache? Why Not Both?", arXiv 2410.03065, on LMCache's store and stock vLLM.

    rates.py      what was measured, and what is best for a prompt
    wire.py       what engine and daemon say to each other
    lift.py       in LMCache's daemon: lifts a prompt's chunks from disk or Redis to RAM, its end first
    connector.py  in the engine: LMCache's connector, which asks first whether to load, to compute or to split
    scheduler.py  in the engine: ends a split prompt's computing where the lifted tail begins
    versions.py   the engine and the daemon that it was tested with

Nothing here writes KV. The front is computed by ordinary steps. When both ends have met, the request is put back into
the waiting queue, as one that was preempted: it comes back with the front as an ordinary hit in vLLM's prefix cache
and the tail as an ordinary load of LMCache from RAM. So abort, preemption, failure of the load and tensor
parallelism are vLLM's and LMCache's own; what is gone by then (evicted, damaged) is computed, as ever.
"""

"""Peers: other servers that do the nearest same work, in the same run.

They are installed on demand into the user's cache folder, and are no dependencies of Lowtide. A
peer merges nothing and keeps no exactly-once promise, so its rows are the nearest same work, not the same.
"""

from __future__ import annotations

from benchmarks.peers.peer import Peer, Unavailable
from benchmarks.peers.pocketbase import PocketBase
from benchmarks.peers.pouchdb import PouchDb
from benchmarks.peers.rxdb import RxDb
from benchmarks.rows import Row
from benchmarks.run import Run


def prepare(run: Run) -> list[Peer]:
    """The peers, installed; for one that cannot be had, a row says why. A quick run installs nothing."""
    ready: list[Peer] = []
    for peer in (PouchDb(), PocketBase(), RxDb()):
        try:
            if not peer.installed():
                if run.quick:
                    raise Unavailable("not installed yet: run once without --quick")
                run.say(f"installing {peer.name}, once: it can take minutes")
                peer.install()
            ready.append(peer)
        except Unavailable as why:
            run.add(Row(area="peers", name="installed", subject=peer.name, measure="", note=str(why)))
    return ready

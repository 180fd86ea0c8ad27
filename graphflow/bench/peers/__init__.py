"""The peers: graphflow and what a user would pick instead."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from graphflow.bench.peers.base import CannotDo, Peer

__all__ = ["PEERS", "CannotDo", "Peer", "PeerEntry", "make_peer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerEntry:
    """The facts about a peer before it is loaded.

    `us_per_item` is roughly what a no-op item costs on a warm system: what a size is refused by where no
    smaller one was measured before.
    """

    name: str
    module: str
    class_name: str
    package: str
    us_per_item: float
    is_default: bool = True


PEERS: dict[str, PeerEntry] = {
    entry.name: entry
    for entry in (
        PeerEntry(name="graphflow", module="own", class_name="Graphflow", package="graphflow", us_per_item=5),
        PeerEntry(
            name="graphflow-default",
            module="own",
            class_name="GraphflowDefault",
            package="graphflow",
            us_per_item=5,
        ),
        PeerEntry(
            name="graphflow-inline",
            module="own",
            class_name="GraphflowInline",
            package="graphflow",
            us_per_item=5,
            is_default=False,
        ),
        PeerEntry(name="pool", module="local", class_name="Pool", package="", us_per_item=1),
        PeerEntry(name="joblib", module="local", class_name="Joblib", package="joblib", us_per_item=15),
        PeerEntry(name="dask.bag", module="on_dask", class_name="DaskBag", package="dask", us_per_item=5),
        PeerEntry(
            name="dask.delayed", module="on_dask", class_name="DaskDelayed", package="dask", us_per_item=1000
        ),
        PeerEntry(
            name="client.map",
            module="on_dask",
            class_name="ClientMap",
            package="distributed",
            us_per_item=2000,
        ),
        PeerEntry(
            name="prefect", module="with_prefect", class_name="Prefect", package="prefect", us_per_item=50_000
        ),
        PeerEntry(name="ray", module="with_ray", class_name="Ray", package="ray", us_per_item=1000),
        PeerEntry(name="asyncio", module="local", class_name="Asyncio", package="", us_per_item=100),
        PeerEntry(name="loop", module="local", class_name="Loop", package="", us_per_item=0.1),
    )
}


def make_peer(name: str) -> Peer:
    """Return a peer, not opened; raise ImportError if a package that its module needs is missing."""
    entry = PEERS[name]
    module = importlib.import_module(f"graphflow.bench.peers.{entry.module}")
    peer: Peer = getattr(module, entry.class_name)()
    return peer

"""The sender: notifications and webhooks of automations, at least once each, with one key. Any number of processes may have one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from graphflow.common import settings
from graphflow.common.failpoints import failpoint
from graphflow.common.service import Service
from graphflow.errors import GraphflowError
from graphflow.orchestration.notices import Problem, grouped
from graphflow.orchestration.notifying import NotSent, call_webhook, notify
from graphflow.orchestration.stores.opening import Stores
from graphflow.orchestration.stores.outbox import ToSend
from graphflow.runs.history import history

__all__ = ["Sender", "failures_of", "send"]

logger = logging.getLogger("graphflow.orchestration.sender")
ERROR_SECONDS = 1.0
LONGEST_SECONDS = 0.5
AT_ONCE = 4
MOST_RUNS = 5
"""Of so many runs of one notification are failures looked up."""


class Sender:
    """Sends what is due in a thread of its own, a few at once, so that one slow address holds up few others."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.service = Service(self.turn, name="graphflow-sender", interval=ERROR_SECONDS)

    def turn(self) -> float:
        """Send what is due; return the seconds until the next turn."""
        stores = self._stores
        due, now = stores.outbox.next_due(), stores.clock.wall()
        if due is None or due > now:
            return LONGEST_SECONDS if due is None else min(LONGEST_SECONDS, due - now)
        failpoint("sender.claim.before")
        claimed = stores.outbox.claim(most=AT_ONCE)
        if claimed:
            failpoint("sender.claim.after")
            with ThreadPoolExecutor(len(claimed), thread_name_prefix="graphflow-send") as pool:
                list(pool.map(self._deliver, claimed))
        return 0.0

    def _deliver(self, each: ToSend) -> None:
        try:
            send(self._stores, each)
        except Exception as error:
            told = str(error) if isinstance(error, GraphflowError) else type(error).__name__
            is_final = isinstance(error, NotSent) and error.is_final
            is_over = self._stores.outbox.failed(each, told, is_final=is_final)
            what = "it is given up" if is_over else "it is tried again"
            logger.warning("%s of %s: %s; %s", each.kind, each.body.get("automation"), told, what)
        else:
            self._stores.outbox.sent(each)


def send(stores: Stores, each: ToSend) -> None:
    """Send one thing.

    Raises
    ------
    NotSent
        If it was not taken.
    """
    body = each.body
    if each.kind == "webhook":
        call_webhook(
            body["address"], body["data"], key=each.id, at=stores.clock.wall(), secret=body["secret"]
        )
        return
    runs = [str(run) for run in body["runs"]]
    parts = [body["text"], *failures_of(stores, runs), *_links(runs), f"key: {each.id}"]
    notify(body["name"], title=body["title"], text="\n".join(parts))


def failures_of(stores: Stores, runs: Sequence[str]) -> list[str]:
    """Return what runs failed with, equal failures together, one line each; nothing of those that cannot be read."""
    problems: list[Problem] = []
    with history(stores.history.folder) as histories:
        for run_id in runs[:MOST_RUNS]:
            try:
                run = histories.run(run_id)
                for node in run.nodes:
                    problems += [
                        Problem(run_id, node.name, f"{each.type_name}: {each.message}", each.count)
                        for each in node.errors
                    ]
            except GraphflowError as error:
                logger.info("the failures of run %s are not told: %s", run_id, error)
    return grouped(problems)


def _links(runs: Sequence[str]) -> list[str]:
    base = settings.server_url()
    if base is None:
        return [f"graphflow runs failures {run}" for run in runs[:MOST_RUNS]]
    return [f"{base.rstrip('/')}/runs/{run}" for run in runs[:MOST_RUNS]]

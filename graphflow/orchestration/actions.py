"""What automations do: inside graphflow at once, in the transaction of the firing; what goes outside is made ready to be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphflow.errors import GraphflowError, HistoryError, NotFound, ParameterError, RequestRefused
from graphflow.model.automated import OUTSIDE, Action
from graphflow.model.texts import filled
from graphflow.orchestration.notices import notice_of
from graphflow.orchestration.parameters import check_parameters
from graphflow.orchestration.stores.opening import Stores
from graphflow.orchestration.stores.rules import StoredRule

__all__ = ["Outcome", "act"]

_REQUESTS = {"cancel_run": "cancel", "pause_run": "pause", "resume_run": "resume"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an action."""

    state: str
    """`done`, `waiting` (to be sent) or `failed`."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """What was done to what, or what is to be sent."""
    error: str = ""


def act(
    stores: Stores, rule: StoredRule, action: Action, document: Mapping[str, Any], *, key: str, depth: int
) -> Outcome:
    """Do an action, in the transaction that is open; one that fails changes nothing.

    Parameters
    ----------
    document
        What its texts are made of: `event`, `run` and `automation`.
    key
        Its id: whatever it makes has an id that follows from it.
    depth
        How many rules led here, this one included.

    Raises
    ------
    HistoryError
        If the catalog cannot be written: then nothing of the transaction may stay.
    """
    told = {"automation": rule.automation.name, "target": action.target, "depth": depth}
    try:
        with stores.catalog.part(), stores.catalog.caused_by(f"rule:{rule.id}", depth):
            done = _Doing(stores, rule, document, key, depth)
            return Outcome(
                state="waiting" if action.kind in OUTSIDE else "done",
                body={**told, **getattr(done, action.kind)(str(filled(action.target, document)), action)},
            )
    except HistoryError:
        raise
    except GraphflowError as error:
        return Outcome(state="failed", body=told, error=str(error))
    except Exception as error:
        # One action that cannot be done must not stop all others for ever.
        return Outcome(state="failed", body=told, error=f"{type(error).__name__}: {error}")


class _Doing:
    """One method for each kind of action; each returns what it did."""

    def __init__(
        self, stores: Stores, rule: StoredRule, document: Mapping[str, Any], key: str, depth: int
    ) -> None:
        self._stores = stores
        self._rule = rule
        self._document = document
        self._key = key
        self._depth = depth

    def _option(self, action: Action, name: str, default: Any) -> Any:
        return filled(action.options.get(name, default), self._document)

    # -- runs ------------------------------------------------------------------------------------------------

    def run(self, target: str, action: Action) -> dict[str, Any]:
        stored = self._stores.plans.find(target)
        parameters = self._option(action, "parameters", {})
        check_parameters(stored.deployment, parameters)
        made = self._stores.fires.run(
            stored,
            parameters,
            origin=f"rule:{self._rule.id}",
            request_key=f"rule:{self._key}",
            tags=self._option(action, "tags", ()),
            depth=self._depth,
        )
        return {"deployment": stored.deployment.full_name, "run": made.run_id, "why": made.why}

    def _ask(self, target: str, action: Action) -> dict[str, Any]:
        kind = _REQUESTS[action.kind]
        self._stores.catalog.deepen(target, self._depth)
        body = {"force": bool(self._option(action, "force", False))} if kind == "cancel" else {}
        _, error = self._stores.history.request_in(self._stores.catalog, target, kind, body)
        if error:
            raise RequestRefused(error)
        return {"run": target}

    cancel_run = pause_run = resume_run = _ask

    def retry_run(self, target: str, action: Action) -> dict[str, Any]:
        self._stores.catalog.deepen(target, self._depth)
        self._stores.fires.retry(target, why=f"the automation {self._rule.automation.name} retries it")
        return {"run": target}

    # -- deployments, pools, limits --------------------------------------------------------------------------

    def _pause(self, target: str, action: Action) -> dict[str, Any]:
        name = self._stores.plans.find(target).deployment.full_name
        self._stores.plans.pause(name, action.kind == "pause_deployment")
        return {"deployment": name}

    pause_deployment = resume_deployment = _pause

    def pause_pool(self, target: str, action: Action) -> dict[str, Any]:
        self._stores.pools.change(target, is_paused=True)
        return {"pool": target}

    def set_limit(self, target: str, action: Action) -> dict[str, Any]:
        size = action.options["size"]
        if target not in {each.name for each in self._stores.limits.all()}:
            raise NotFound(f"there is no limit {target!r}")
        self._stores.limits.set(target, size)
        return {"limit": target, "size": size}

    # -- events ----------------------------------------------------------------------------------------------

    def emit(self, target: str, action: Action) -> dict[str, Any]:
        subject = str(self._option(action, "subject", ""))
        data = self._option(action, "data", {})
        if not isinstance(data, Mapping):
            raise ParameterError(f"the data of an event is a table, not {data!r}")
        self._stores.events.emit(target, subject=subject, data=data, id=self._key)
        return {"type": target, "subject": subject}

    # -- outside ---------------------------------------------------------------------------------------------

    def notify(self, target: str, action: Action) -> dict[str, Any]:
        notice = notice_of(self._document)
        return {
            "name": target,
            "title": str(self._option(action, "title", "")) or notice.title,
            "text": str(self._option(action, "text", "")) or notice.text,
            "runs": list(notice.runs) if "text" not in action.options else [],
        }

    def webhook(self, target: str, action: Action) -> dict[str, Any]:
        sent = self._option(action, "data", None)
        if sent is None:
            sent = {"event": self._document["event"], "automation": self._document["automation"]}
        return {"address": target, "secret": action.options.get("secret", ""), "data": sent}

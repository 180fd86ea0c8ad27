"""What a run has promised so far, kept from its commands alone, and what each command must hold to.

The ledger is the simulator's history: what it holds is durable. It knows nothing of the core's books.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from graphflow.core import events as ev
from graphflow.graph.graph import Dep, DepKind, Node
from graphflow.model.map_options import MapOptions
from graphflow.model.reports import Report
from graphflow.model.states import FAILED_CODES, FINAL_CODES, Code
from graphflow.ports import Capacity

__all__ = ["Ledger", "Violation", "places_at"]


def places_at(order: ev.SubmitBatch, at: int) -> list[tuple[int, int]]:
    """The (node, item) pairs at a position of a batch."""
    if order.is_bundle:
        return [(order.nodes[at], 0)]
    return [(node, order.indices[at]) for node in order.nodes]


class Violation(AssertionError):
    """The core broke a promise; the text says which, where and when."""


class Ledger:
    """Durable states, and the batches under way, as the commands tell them."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.states: dict[int, dict[int, int]] = {}
        self.attempts: dict[int, dict[int, int]] = {}
        self.outcomes: dict[int, int] = {}
        """Nodes that ended, by id."""
        self.widths: dict[int, int] = {}
        self.flying: dict[int, ev.SubmitBatch] = {}
        self.out: dict[int, set[int]] = {}
        """The positions of each batch under way that were not reported yet."""
        self.busy: set[tuple[int, int]] = set()
        self.map_options: dict[int, MapOptions] = {}
        self.is_resized = False
        """Whether the user changed a batch size, which holds for all tasks of a stage."""
        self.starts: dict[int, list[float]] = {}
        """When the items of a map with a rate may begin at the earliest, since its rate was last set."""
        self.due: dict[tuple[int, int], float] = {}
        """When an item may be tried again; infinity for one that is paused."""
        self.deaths: dict[tuple[int, int], int] = {}
        """In how many lost batches an item may have been executed."""
        self.aliases: dict[tuple[int, int], int] = {}
        self.failed_whole: set[int] = set()
        self.is_stopping = False
        self.recalled: set[int] = set()
        """Batches that were asked to hand back what they have not begun."""
        self.finish: ev.FinishRun | None = None
        self.granted: dict[str, int] = {}
        """What the run may use now of limits that it shares, by name."""
        self.rates: dict[str, float] = {}
        self.dealt: dict[str, list[float]] = {}
        """Starting slots of shared rates that no item has."""

    def record(self, nodes: Iterable[Node]) -> None:
        """Nodes were told to the core."""
        for node in nodes:
            self.nodes[node.id] = node
            self.states[node.id] = {}
            self.attempts[node.id] = {}
            self.map_options[node.id] = node.map_options

    def turn(self, event: ev.MapOptionsChanged) -> None:
        """The user changed the options of a map."""
        self.map_options[event.node] = event.map_options
        self.is_resized |= event.batch_size is not None
        self.starts.pop(event.node, None)

    def share(self, event: ev.LimitsChanged) -> None:
        """What is granted, and which rates there are, has changed."""
        self.granted = dict(event.grants)
        self.rates = dict(event.rates)

    def deal(self, name: str, slots: Iterable[float], now: float) -> None:
        """Starting slots were given to the run; those that are past are open from now on."""
        self.dealt.setdefault(name, []).extend(max(now, slot) for slot in slots)

    def land(self, batch: int, held: Iterable[int] = ()) -> None:
        """A batch came back or was given up, but for the positions held: the core may send the others again."""
        order, out = self.flying[batch], self.out[batch]
        gone = out.difference(held)
        self.busy.difference_update(place for at in gone for place in places_at(order, at))
        out -= gone
        if not out:
            del self.flying[batch], self.out[batch]

    def is_due(self, report: Report) -> bool:
        """Whether a report tells of positions that are out."""
        told = range(report.reached) if report.positions is None else report.positions
        return self.out.get(report.batch, set()).issuperset([*told, *report.held])

    def is_ended(self, node: int, index: int) -> bool:
        """Whether an item's end is durable."""
        return self.states[node].get(index, 0) in FINAL_CODES

    # -- commands ---------------------------------------------------------------------------------------

    def check_open(self, command: ev.Command) -> None:
        """Nothing follows the run's end."""
        if self.finish is not None:
            raise Violation(f"{command} after the run had finished")

    def submit(self, order: ev.SubmitBatch, now: float, capacity: Capacity) -> None:
        """Check a batch against what is durable, and note that it is under way."""
        if self.is_stopping:
            raise Violation(f"batch {order.batch} was sent although the run is stopping")
        if len(self.flying) >= capacity.slots * (1 + capacity.queue):
            raise Violation(
                f"batch {order.batch} exceeds {capacity}: {len(self.flying)} batches are under way"
            )
        if order.batch in self.flying or not len(order.indices) or not order.nodes:
            raise Violation(f"batch {order.batch} is empty or was sent twice: {order}")
        if order.is_bundle:
            self._submit_bundle(order, now)
            return
        if len(set(order.indices)) != len(order.indices):
            raise Violation(f"batch {order.batch} holds an item twice: {order}")
        size = self.nodes[order.nodes[0]].batch_size
        if size is not None and len(order.indices) > size and not self.is_resized:
            raise Violation(f"batch {order.batch} holds {len(order.indices)} items; batch_size is {size}")
        for node in order.nodes:
            self._check_map_options(node, order, now)
        self._check_shared(order, now)
        for step, node in enumerate(order.nodes):
            self._check_inputs(order, step)
            tries = order.tries[step]
            states, attempts = self.states[node], self.attempts[node]
            width = self.widths.get(node)
            for position, index in enumerate(order.indices):
                place = (node, index)
                if index < 0 or (width is not None and index >= width):
                    raise Violation(f"item {index} of node {node} was sent, whose width is {width}")
                if states.get(index, 0) in FINAL_CODES:
                    raise Violation(f"item {index} of node {node} was sent again after it had ended")
                if place in self.busy:
                    raise Violation(f"item {index} of node {node} is under way twice")
                if self.due.get(place, 0.0) > now + 1e-9:
                    raise Violation(
                        f"item {index} of node {node} was sent before its time, {self.due[place]}"
                    )
                told = 0 if tries is None else tries[position]
                known = attempts.get(index, 0)
                if not known <= told <= known + self.deaths.get(place, 0):
                    raise Violation(
                        f"item {index} of node {node} had {known} attempts; its batch says {told}"
                    )
                self.busy.add(place)
        self.flying[order.batch] = order
        self.out[order.batch] = set(range(len(order.indices)))

    def _submit_bundle(self, order: ev.SubmitBatch, now: float) -> None:
        """Check a batch whose positions are nodes, of which each may need those before it."""
        if [*order.indices] != [*range(len(order.nodes))] or len(set(order.nodes)) != len(order.nodes):
            raise Violation(f"batch {order.batch} holds a node twice: {order}")
        if len({self.nodes[node].bundle_key for node in order.nodes} | {None}) != 2:
            raise Violation(f"batch {order.batch} holds nodes that have nothing in common: {order}")
        for position, node in enumerate(order.nodes):
            place = (node, 0)
            if any(name in self.granted or name in self.rates for name, _ in self.nodes[node].limits):
                raise Violation(f"node {node} was sent in a bundle, and has a limit")
            if self.nodes[node].is_mapped or self.states[node].get(0, 0) in FINAL_CODES:
                raise Violation(f"node {node} was sent in a bundle, though it is mapped or has ended")
            if place in self.busy:
                raise Violation(f"node {node} is under way twice")
            if self.due.get(place, 0.0) > now + 1e-9 or self.attempts[node].get(0, 0):
                raise Violation(f"node {node} was sent in a bundle, though it was tried before")
            for dep in self.nodes[node].deps:
                if dep.upstream not in order.nodes[:position] and dep.upstream not in self.outcomes:
                    raise Violation(
                        f"node {node} was sent before its input, node {dep.upstream}, was committed"
                    )
            self.busy.add(place)
        self.flying[order.batch] = order
        self.out[order.batch] = set(range(len(order.nodes)))

    def _check_map_options(self, node: int, order: ev.SubmitBatch, now: float) -> None:
        """A batch holds to what the user said of the map."""
        options = self.map_options[node]
        own = sum(code in FAILED_CODES - {Code.UPSTREAM_FAILED} for code in self.states[node].values())
        if options.can_halt and options.exceeded(own, self.widths.get(node)):
            raise Violation(f"node {node} was sent after {own} failures, more than {options}")
        if options.max_concurrency is not None:
            running = (order.concurrency or 1) + sum(
                min(each.concurrency or 1, len(self.out[number]))
                for number, each in self.flying.items()
                if node in each.nodes
            )
            if running > options.max_concurrency and running > (order.concurrency or 1):
                raise Violation(f"{running} items of node {node} may run at once, more than {options}")
        if options.rate is None:
            return
        if order.pace is None:
            raise Violation(f"node {node} has a rate, but its batch has no pace")
        if any(name in self.rates for name, _ in self.nodes[node].limits):
            # It may begin later than its own slot, for that of a shared rate.
            return
        starts = self.starts.setdefault(node, [])
        first = now + order.pace.delay
        # A batch that has fewer starting slots than items hands the others back.
        count = len(order.indices) if order.pace.count is None else min(order.pace.count, len(order.indices))
        places = [first + k * order.pace.interval for k in range(count)]
        gaps = [after - before for before, after in pairwise(sorted(starts + places))]
        if any(gap < (1 - 1e-6) / options.rate for gap in gaps):
            raise Violation(f"items of node {node} may begin {min(gaps):.4f} s apart, at {options}")
        starts += places

    def _weights(self, order: ev.SubmitBatch) -> dict[str, int]:
        weights: dict[str, int] = {}
        for node in order.nodes:
            for name, weight in self.nodes[node].limits:
                weights[name] = max(weight, weights.get(name, 0))
        return weights

    def _check_shared(self, order: ev.SubmitBatch, now: float) -> None:
        """A batch takes no more of a limit than is granted, and begins its items at slots that were dealt."""
        for name, weight in self._weights(order).items():
            if name in self.granted:
                used = (order.concurrency or 1) * weight + sum(
                    min(each.concurrency or 1, len(self.out[number])) * self._weights(each).get(name, 0)
                    for number, each in self.flying.items()
                )
                if used > self.granted[name]:
                    raise Violation(
                        f"batch {order.batch} makes {used} slots of {name}; {self.granted[name]} are granted"
                    )
            if name in self.rates:
                self._take_slots(name, order, now)

    def _take_slots(self, name: str, order: ev.SubmitBatch, now: float) -> None:
        if order.pace is None or order.pace.count is None:
            raise Violation(f"batch {order.batch} goes by the rate {name}, and has no pace")
        left = sorted(self.dealt.get(name, []))
        for k in range(order.pace.count):
            place = now + order.pace.delay + k * order.pace.interval
            fit = [slot for slot in left if slot <= place + 1e-6]
            if not fit:
                raise Violation(f"batch {order.batch} has a slot of {name} at {place:.4f} that was not dealt")
            left.remove(fit[-1])
        self.dealt[name] = left

    def _check_inputs(self, order: ev.SubmitBatch, step: int) -> None:
        """Downstream sees only committed inputs."""
        node = self.nodes[order.nodes[step]]
        for dep in node.deps:
            if dep.kind is DepKind.ITEMS:
                if dep.upstream in order.nodes[:step]:
                    continue
                missing = [index for index in order.indices if not self.is_ended(dep.upstream, index)]
            elif (
                dep.kind is DepKind.PICK and dep.index is not None and self.is_ended(dep.upstream, dep.index)
            ):
                continue
            else:
                missing = [] if dep.upstream in self.outcomes else [-1]
            if missing:
                raise Violation(
                    f"node {node.id} was sent before its input, node {dep.upstream}, was committed"
                )

    def commit(self, command: ev.CommitReport, now: float) -> None:
        """Make a report durable; each item ends once."""
        report = command.report
        order = self.flying.get(report.batch)
        told = range(report.reached) if report.positions is None else report.positions
        if order is not None and order.is_bundle:
            is_known = {step.node for step in report.steps} <= {order.nodes[at] for at in told}
        else:
            is_known = order is not None and [*command.indices] == [order.indices[at] for at in told]
        if not is_known:
            raise Violation(
                f"a report of batch {report.batch} was committed that is not under way, or for other items"
            )
        for step in report.steps:
            for position, index in enumerate(command.indices):
                self._set(step.node, index, step.states[position])
                self.attempts[step.node][index] = step.attempts[position]
                if step.states[position] == Code.PAUSED:
                    self.due[step.node, index] = float("inf")
            for anomaly in step.anomalies:
                if anomaly.code == Code.AWAITING_RETRY:
                    self.due[step.node, command.indices[anomaly.position]] = now + anomaly.delay

    def _set(self, node: int, index: int, code: int) -> None:
        before = self.states[node].get(index, 0)
        if before in FINAL_CODES:
            raise Violation(
                f"item {index} of node {node} ended twice: {Code(before).name}, then {Code(code).name}"
            )
        if node in self.outcomes:
            raise Violation(f"item {index} of node {node} became {Code(code).name} after its node had ended")
        self.states[node][index] = code

    def end_items(self, command: ev.ItemsEnded) -> None:
        """Make ends durable that no report told."""
        code = Code(command.code)
        if code not in FINAL_CODES:
            raise Violation(f"{command} ends nothing")
        for index in command.indices:
            place = (command.node, index)
            if place in self.busy:
                raise Violation(
                    f"item {index} of node {command.node} ended as {code.name} while it was under way"
                )
            if code in (Code.UPSTREAM_FAILED, Code.SKIPPED) and not self._has_cause(
                command.node, index, code
            ):
                raise Violation(
                    f"item {index} of node {command.node} ended as {code.name} with nothing to show for it"
                )
            self._set(command.node, index, code)

    def _has_cause(self, node: int, index: int, code: Code) -> bool:
        root = self.aliases.get((node, index))
        if root is not None:
            return root in self.outcomes
        causes = FAILED_CODES | {Code.CANCELLED} if code is Code.UPSTREAM_FAILED else FINAL_CODES
        deps = self.nodes[node].deps
        # A trigger may refuse to run a task that depends on nothing.
        return not deps or any(self._found(dep, index) & causes for dep in deps)

    def _found(self, dep: Dep, index: int) -> set[int]:
        """Durable codes of what a dependency takes."""
        states = self.states[dep.upstream]
        found = {self.outcomes.get(dep.upstream, 0)}
        if dep.kind is DepKind.ITEMS:
            found.add(states.get(index, 0))
        elif dep.kind is DepKind.PICK and dep.index is not None:
            found.add(states.get(dep.index, 0))
        elif dep.upstream in self.outcomes:
            found.update(states.values())
        return found

    def change_node(self, command: ev.NodeChanged) -> None:
        """A node's change is announced: all of it must be durable by then."""
        node, code = command.node, Code(command.code)
        if node in self.outcomes:
            raise Violation(f"node {node} became {code.name} after it had ended")
        if command.width is not None and self.widths.setdefault(node, command.width) != command.width:
            raise Violation(f"the width of node {node} changed from {self.widths[node]} to {command.width}")
        if code not in FINAL_CODES:
            return
        states = self.states[node]
        ended = sum(state in FINAL_CODES for state in states.values())
        if command.width is not None and ended != command.width:
            raise Violation(f"node {node} became {code.name} with {ended} of {command.width} items committed")
        if command.width is None and states:
            raise Violation(f"node {node} became {code.name} without a width, with items {states}")
        if code is Code.FAILED and not FAILED_CODES & set(states.values()) and node not in self.failed_whole:
            raise Violation(f"node {node} became Failed, but nothing of it failed")
        self.outcomes[node] = code

    def resume(self) -> None:
        """What is paused may run again."""
        for place, due in self.due.items():
            if due == float("inf"):
                self.due[place] = 0.0

    def end_run(self, command: ev.FinishRun) -> None:
        """The run ends once, when all has ended."""
        if self.flying:
            raise Violation(f"the run finished while batches {sorted(self.flying)} were under way")
        missing = sorted(set(self.nodes) - set(self.outcomes))
        if missing:
            raise Violation(f"the run finished while nodes {missing} had not ended")
        self.finish = command

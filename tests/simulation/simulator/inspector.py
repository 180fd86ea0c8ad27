"""The last word on a simulated run: what it came to, against the rules and against the core's own books."""

from __future__ import annotations

from collections.abc import Sequence

from graphflow.core.core import Core
from graphflow.model.states import FAILED_CODES, Code
from simulator.ledger import Ledger, Violation
from simulator.oracle import Oracle
from simulator.scenarios import Scenario
from simulator.simulated_workers import SimulatedWorkers

__all__ = ["Inspector"]


class Inspector:
    """Compares three accounts of a run: the core's books, its commands, and the oracle's.

    Parameters
    ----------
    scenario
        What was run.
    core
        The core under test.
    ledger
        What its commands made durable.
    workers
        What was really executed.
    """

    def __init__(self, *, scenario: Scenario, core: Core, ledger: Ledger, workers: SimulatedWorkers) -> None:
        self._scenario = scenario
        self._core = core
        self._ledger = ledger
        self._workers = workers

    def check_books(self) -> None:
        """All books agree with what the core told."""
        for id_ in self._core.books:
            self.check_book(id_)

    def check_book(self, id_: int) -> None:
        """The book of a node that ended agrees with what was told, and its counts with its states."""
        book, told = self._core.books[id_], self._ledger.states[id_]
        if any(code != told.get(index, 0) for index, code in enumerate(book.states)):
            raise Violation(f"the books of node {id_} say {[*book.states]}; what was committed is {told}")
        for code in Code:
            if code is not Code.PENDING and book.counts[code] != book.states.count(code):
                raise Violation(f"node {id_} counts {book.counts[code]} {code.name} in {[*book.states]}")
        if book.ended != len(book.states) or (book.width or 0) != len(book.states):
            raise Violation(f"node {id_} of width {book.width} counts {book.ended} ended in {[*book.states]}")

    def check_end(self, seen: Sequence[tuple[int, bool]], *, is_exact: bool = True) -> None:
        """All that the run came to is what the rules say, as far as they say it beforehand."""
        finish = self._ledger.finish
        assert finish is not None
        if self._scenario.may_halt or not is_exact:
            self._check_halts(Code(finish.code))
            return
        oracle = Oracle(self._scenario)
        if self._ledger.is_stopping:
            self._check_stopped(oracle, Code(finish.code))
            return
        if set(oracle.expected) != set(self._ledger.outcomes):
            raise Violation(
                f"nodes {sorted(self._ledger.outcomes)} ended; expected were {sorted(oracle.expected)}"
            )
        for id_, expected in oracle.expected.items():
            found = [self._ledger.states[id_][index] for index in range(len(self._ledger.states[id_]))]
            if found != expected.items or self._ledger.outcomes[id_] != expected.code:
                raise Violation(
                    f"node {id_} ended {Code(self._ledger.outcomes[id_]).name} {_names(found)}; "
                    f"expected was {expected.code.name} {_names(expected.items)}"
                )
            self._check_attempts(id_, expected.attempts)
            self._check_roots(id_, found)
        unhandled = oracle.unhandled(seen)
        if tuple(sorted(finish.unhandled)) != unhandled:
            raise Violation(
                f"failures of nodes {finish.unhandled} were seen by nobody; expected was {unhandled}"
            )
        code = Code.FAILED if unhandled else Code.COMPLETED
        if finish.code != code:
            raise Violation(f"the run ended {Code(finish.code).name}; expected was {code.name}")

    def _check_attempts(self, id_: int, expected: list[int]) -> None:
        script = self._scenario.scripts[id_]
        for index, attempts in enumerate(expected):
            place = (id_, index)
            deaths = self._ledger.deaths.get(place, 0)
            found = self._ledger.attempts[id_].get(index, 0)
            executed = self._workers.executions.get(place, 0)
            then = script.item(index).then if script.item(index).failures <= script.retries else "fail"
            if then == "poison":
                # Nothing of its last attempt is ever reported.
                kills = self._workers.kills.get(place, 0)
                if kills > deaths or (self._scenario.faults.has_journal and kills > 2):
                    raise Violation(f"item {index} of node {id_} was allowed to kill {kills} workers")
                continue
            if not attempts <= found <= attempts + min(deaths, 1):
                raise Violation(
                    f"item {index} of node {id_} has {found} attempts on record; expected were {attempts}"
                )
            reported = executed - self._workers.lost.get(place, 0)
            if not reported <= found <= reported + deaths:
                raise Violation(
                    f"item {index} of node {id_} was executed {executed} times in {found} attempts"
                )

    def _check_roots(self, id_: int, found: list[int]) -> None:
        """Each upstream failure leads to a failure that is nobody else's."""
        for index in [i for i, code in enumerate(found) if code == Code.UPSTREAM_FAILED][:2]:
            root, item, _ = self._core.root_of(id_, index)
            codes = self._ledger.states[root]
            code = codes.get(item, 0) if item is not None else self._ledger.outcomes[root]
            if root not in self._ledger.failed_whole and (
                code == Code.UPSTREAM_FAILED or code not in FAILED_CODES
            ):
                raise Violation(
                    f"item {index} of node {id_} has item {item} of node {root} as its root, which is {code}"
                )

    def _check_halts(self, code: Code) -> None:
        """Maps that may end early did so where they had to, and what was cancelled is theirs."""
        ledger, scenario = self._ledger, self._scenario
        left = {behind for id_ in scenario.readers for behind in scenario.behind(id_)}
        for id_, states in ledger.states.items():
            options = ledger.map_options[id_]
            own = sum(each in FAILED_CODES and each != Code.UPSTREAM_FAILED for each in states.values())
            has_halted = options.can_halt and options.exceeded(own, ledger.widths.get(id_))
            if has_halted and ledger.outcomes[id_] != Code.FAILED:
                raise Violation(f"node {id_} ended {Code(ledger.outcomes[id_]).name} after {own} failures")
            may_cancel = ledger.is_stopping or has_halted or id_ in left
            if Code.CANCELLED in states.values() and not may_cancel:
                raise Violation(f"items of node {id_} were cancelled, but nothing ended it early")
        if code is Code.CANCELLED and not ledger.is_stopping:
            raise Violation("a run that nobody stopped ended Cancelled")

    def _check_stopped(self, oracle: Oracle, code: Code) -> None:
        """What ended before the stop ended as expected; the rest is Cancelled."""
        cancelled = False
        for id_, states in self._ledger.states.items():
            expected = oracle.expected.get(id_)
            cancelled = (
                cancelled or self._ledger.outcomes[id_] == Code.CANCELLED or Code.CANCELLED in states.values()
            )
            for index, found in states.items():
                if found == Code.CANCELLED:
                    continue
                if expected is None or index >= len(expected.items) or found != expected.items[index]:
                    raise Violation(
                        f"item {index} of node {id_} ended {Code(found).name} in a run that was stopped"
                    )
        if (code is Code.CANCELLED) != cancelled:
            raise Violation(f"a run that was stopped ended {code.name}; was anything cancelled: {cancelled}")


def _names(codes: list[int] | list[Code]) -> str:
    return "[" + ", ".join(Code(code).name for code in codes) + "]"

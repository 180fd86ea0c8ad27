"""Another launch of a run: finding its flow, and resuming it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphflow.cli.backend_option import BackendSpec
from graphflow.cli.exits import ExitCode
from graphflow.cli.parameters import parse_parameters
from graphflow.cli.session import Manner, run_and_show
from graphflow.cli.terminal import only_data_on_stdout
from graphflow.errors import TargetError
from graphflow.launching.targets import load_flow

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow
    from graphflow.runs.run import Run

__all__ = ["flow_of", "resume_run", "retry_run"]


def flow_of(run: Run, target: str | None) -> Flow[Any, Any]:
    """Return the flow of a run: from a target, or from where the run's own flow was.

    Raises
    ------
    TargetError
        If the flow is no longer there.
    """
    with only_data_on_stdout():
        if target is not None:
            return load_flow(target)
        place = run.launches[0].flow if run.launches else {}
        name = place.get("qualname", "")
        file, module = place.get("file", ""), place.get("module", "")
        # A module of a package is found wherever that is installed now; a script's name alone may be another's.
        source = file if file and Path(file).is_file() else module if "." in module or not file else ""
        if not source or source == "__main__":
            raise TargetError(
                f"the flow {run.flow_name!r} of run {run.id} was in {file or module or 'no file'}, which is not there; give its "
                "current place: --target file.py:flow"
            )
        try:
            return load_flow(f"{source}:{name}" if name.isidentifier() else source)
        except TargetError as error:
            raise TargetError(
                f"{error}\nthe flow of run {run.id} was there; if it has moved, give its current place: --target file.py:flow"
            ) from error


def resume_run(
    run: Run,
    *,
    target: str | None,
    backend: BackendSpec | None,
    manner: Manner,
    pairs: Sequence[str],
    rerun_changed: bool,
    force: bool,
) -> ExitCode:
    """Run the missing items of a run."""

    def begin(flow: Flow[Any, Any], parameters: Mapping[str, Any]) -> Run:
        again: Run = flow._again(
            run.id, None, rerun_changed=rerun_changed, force=force, starts=True, given=parameters
        )
        return again

    flow = flow_of(run, target)
    given = parse_parameters(pairs, function=flow.fn)
    return run_and_show(flow, given, backend=backend, manner=manner, begin=begin)


def retry_run(
    run: Run,
    *,
    target: str | None,
    backend: BackendSpec | None,
    manner: Manner,
    pairs: Sequence[str],
    node: str | None,
    indices: Iterable[int] | None,
) -> ExitCode:
    """Run items of a run again: all that failed, a node's, or some of a node's."""

    def begin(flow: Flow[Any, Any], parameters: Mapping[str, Any]) -> Run:
        again: Run = flow._redriven(run.id, node, indices, starts=True, given=parameters)
        return again

    flow = flow_of(run, target)
    given = parse_parameters(pairs, function=flow.fn)
    return run_and_show(flow, given, backend=backend, manner=manner, begin=begin)

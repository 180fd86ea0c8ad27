"""Prints the keys of the samples; needs no installed package, so that any Python can run it."""

import json
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for name in ("graphflow", "graphflow.runner"):
    # The package's own module would import what other versions of Python may not have installed.
    package = types.ModuleType(name)
    package.__path__ = [str(ROOT / name.replace(".", "/"))]
    sys.modules[name] = package
sys.path.insert(0, str(Path(__file__).parent))

import key_samples as samples  # noqa: E402

from graphflow.identity.cache_keys import key_spec  # noqa: E402
from graphflow.model.cache_policies import DEFAULT, FLOW_PARAMETERS, INPUTS, RUN_ID, TASK_SOURCE  # noqa: E402
from graphflow.model.orders import Hole, Program  # noqa: E402
from graphflow.model.policies import TaskOptions  # noqa: E402
from graphflow.runner.keymaking import KeyMaker  # noqa: E402

FIRST = Hole(0)


def key(fn, values, *, args=(FIRST,), kwargs=None, **options):
    """The key of one item, in hex; the problem where it has none."""
    program = Program(
        id="p",
        fn=fn,
        kind="sync",
        args=args,
        kwargs=kwargs or {},
        has_nested=False,
        options=TaskOptions.checked("task", options, name="task"),
        node_name="n",
        node_key="k",
        flow_name="f",
        is_mapped=True,
        flow_parameters={"b": {1, 2}, "a": "x"},
    )
    spec = key_spec(program, run_id="a run")
    found = KeyMaker(program, spec, [values]).keys([0])
    return found.problems[0] if found.problems else found.keys.hex()


def every():
    """All keys by the names of their samples."""
    found = {
        f"value {name}": key(samples.plain, [value], cache_policy=DEFAULT)
        for name, value in samples.VALUES.items()
    }
    for name in ("plain", "helper", "closed", "by_partial", "bound", "short"):
        found[f"task {name}"] = key(getattr(samples, name), [1], cache_policy=INPUTS)
    found["version"] = key(samples.plain, [1], cache_version="1")
    found["more"] = key(samples.plain, [1], args=(FIRST, 2, 3, 4), kwargs={"k": 5}, cache_policy=INPUTS)
    found["without"] = key(samples.plain, [1], cache_policy=INPUTS - "y")
    found["source"] = key(samples.plain, [1], cache_policy=TASK_SOURCE)
    found["flow"] = key(samples.plain, [1], cache_policy=FLOW_PARAMETERS)
    found["run"] = key(samples.plain, [1], cache_policy=RUN_ID)
    found["all"] = key(samples.plain, [1], cache_policy=DEFAULT + FLOW_PARAMETERS + RUN_ID)
    found["function"] = key(samples.plain, [1], cache_key_fn=lambda context, parameters: f"{parameters['x']}")
    return found


if __name__ == "__main__":
    print(json.dumps(every(), indent=1))

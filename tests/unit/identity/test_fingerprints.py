"""Fingerprints of code: changed by what changes what a function does, and by nothing else."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from graphflow import file_input, flow, task
from graphflow.identity.fingerprints import code_fingerprint, constants_digest, current_code
from graphflow.model.orders import Hole

NUMBERS = itertools.count()
Project = Callable[..., ModuleType]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Writes modules of a project and imports the one called `main`; each time it is another project of the same names."""

    def load(main: str, **others: str) -> ModuleType:
        folder = tmp_path / str(next(NUMBERS))
        folder.mkdir()
        names = {"main": main, **others}
        for name, source in names.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(source))
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [str(folder), *sys.path])
            patch.setattr(sys, "dont_write_bytecode", True)
            return importlib.import_module("main")

    yield load
    for name in ("main", "helpers", "more"):
        sys.modules.pop(name, None)
    linecache.clearcache()


BASE = """
    LIMIT = 3

    def helper(x):
        return x + 1

    def f(x, y=2):
        # a comment
        total = helper(x) * y
        return total + LIMIT
"""


@pytest.mark.parametrize(
    "same",
    [
        BASE.replace("# a comment", "# another comment"),
        BASE.replace("# a comment", ""),
        BASE.replace("# a comment", '"""A docstring."""'),
        BASE.replace("total = helper(x) * y", "total = (  helper( x )\n            *y)"),
        BASE.replace("def f(x, y=2):", "def f(x: int, y: 'int' = 2) -> float:"),
        "\n\n\n" + BASE,
        BASE + "\n    def unused():\n        return 7\n",
        BASE.replace("LIMIT = 3", "LIMIT = 1 + 2"),
        BASE.replace("def f(", "import functools\n\n    @functools.lru_cache\n    def f("),
        BASE.replace("def f(", "from graphflow import task\n\n    @task(retries=3)\n    def f("),
        BASE.replace("def helper(x):", "def helper(x):\n        'Says what it does.'"),
    ],
)
def test_what_changes_nothing_leaves_the_fingerprint_as_it_is(project: Project, same: str) -> None:
    assert code_fingerprint(project(BASE).f) == code_fingerprint(project(same).f)


@pytest.mark.parametrize(
    "changed",
    [
        BASE.replace("x + 1", "x + 2"),
        BASE.replace("x + 1", "x - 1"),
        BASE.replace("* y", "/ y"),
        BASE.replace("LIMIT = 3", "LIMIT = 4"),
        BASE.replace("LIMIT = 3", "LIMIT = 3.0"),
        BASE.replace("y=2", "y=True"),
        BASE.replace("y=2", "*, y=2"),
        BASE.replace("return total + LIMIT", "return total"),
        BASE.replace("helper(x) * y", "helper(y) * x"),
        BASE.replace("def f(", "async def f("),
    ],
)
def test_what_changes_the_outcome_changes_the_fingerprint(project: Project, changed: str) -> None:
    assert code_fingerprint(project(BASE).f) != code_fingerprint(project(changed).f)


@pytest.mark.parametrize(
    "use",
    [
        "import helpers\n\ndef f(x):\n    return helpers.clean(x)\n",
        "import helpers as h\n\ndef f(x):\n    return [h.clean(each) for each in x]\n",
        "from helpers import clean\n\ndef f(x):\n    return clean(x)\n",
        "from helpers import clean as tidy\n\ndef f(x):\n    return list(map(tidy, x))\n",
        "from helpers import Cleaner\n\ndef f(x):\n    return Cleaner().clean(x)\n",
        "import functools\nfrom helpers import clean\n\npart = functools.partial(clean)\n\ndef f(x):\n    return part(x)\n",
        "from graphflow import task\nfrom helpers import clean\n\n@task\ndef f(x):\n    return clean(x)\n",
    ],
)
def test_functions_of_other_modules_of_the_project_count(project: Project, use: str) -> None:
    helpers = """
        def clean(x):
            return deeper(x)

        def deeper(x):
            return {CODE}

        class Cleaner:
            def clean(self, x):
                return deeper(x)
    """
    first, same, other = (
        project(use, helpers=helpers.replace("{CODE}", code)) for code in ("x * 2", "(x * 2)  # so", "x * 3")
    )
    assert code_fingerprint(first.f) == code_fingerprint(same.f)
    assert code_fingerprint(first.f) != code_fingerprint(other.f)
    assert code_fingerprint(first.f, follows=False) == code_fingerprint(other.f, follows=False)


def test_functions_that_use_each_other_have_fingerprints(project: Project) -> None:
    source = """
        def even(n):
            return n == 0 or odd(n - 1)

        def odd(n):
            return n != 0 and even(n - {STEP})

        def itself(n):
            return itself(n - 1) if n else 0
    """
    first, other = (project(source.replace("{STEP}", step)) for step in ("1", "2"))
    assert code_fingerprint(first.even) != code_fingerprint(other.even)
    assert code_fingerprint(first.even) != code_fingerprint(first.odd)
    assert code_fingerprint(first.itself) == code_fingerprint(other.itself)


def test_the_values_of_a_closure_count(project: Project) -> None:
    source = """
        def make(n, g=None):
            def inner(x):
                return (g(x) if g else x) + n
            return inner

        def one(x): return x
        def two(x): return x + x
    """
    made = project(source)
    assert code_fingerprint(made.make(1)) == code_fingerprint(made.make(1))
    assert code_fingerprint(made.make(1)) != code_fingerprint(made.make(2))
    assert code_fingerprint(made.make(1, made.one)) != code_fingerprint(made.make(1, made.two))


def test_lambdas_of_one_line_are_told_apart(project: Project) -> None:
    made = project("a, b, c, d = lambda x: x + 1, lambda x: x + 2, lambda x: x, lambda x: x + 1\n")
    again = project("import os\n\na, b = [lambda x: x + 1, lambda x: (x + 2)]\n")
    prints = [code_fingerprint(each) for each in (made.a, made.b, made.c)]
    assert len(set(prints)) == 3
    assert code_fingerprint(made.d) == prints[0]
    assert [code_fingerprint(again.a), code_fingerprint(again.b)] == prints[:2]


def test_methods_classes_and_objects_that_can_be_called(project: Project) -> None:
    source = """
        class Scale:
            '''Scales.'''

            def __init__(self, by):
                self.by = by

            def __call__(self, x):
                return self.scaled(x)

            def scaled(self, x):
                return x * self.by{MORE}

            @staticmethod
            def still(x):
                return x
    """
    first, other = (project(source.replace("{MORE}", more)) for more in ("", " + 1"))
    for pick in (lambda m: m.Scale(2), lambda m: m.Scale(2).scaled, lambda m: m.Scale):
        assert code_fingerprint(pick(first)) != code_fingerprint(pick(other))
    assert code_fingerprint(first.Scale(2)) == code_fingerprint(first.Scale(2))
    assert code_fingerprint(first.Scale(2)) != code_fingerprint(first.Scale(3))
    assert code_fingerprint(first.Scale.still) == code_fingerprint(other.Scale.still)


def test_partials_count_with_their_arguments() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    one, again, other = functools.partial(add, 1), functools.partial(add, 1), functools.partial(add, 2)
    assert code_fingerprint(one) == code_fingerprint(again) != code_fingerprint(other)


def test_a_decorator_that_wraps_counts_with_what_it_wraps(project: Project) -> None:
    source = """
        import functools

        def doubled(fn):
            @functools.wraps(fn)
            def wrapper(*args):
                return fn(*args) * {N}
            return wrapper

        @doubled
        def f(x):
            return x + {M}
    """

    def of(n: str, m: str) -> str:
        return code_fingerprint(project(source.replace("{N}", n).replace("{M}", m)).f)

    assert of("2", "1") == of("2", "1")
    assert len({of("2", "1"), of("3", "1"), of("2", "2")}) == 3


def test_tasks_and_flows_stand_for_their_functions() -> None:
    def body(x: int) -> int:
        return x + 1

    plain = code_fingerprint(body)
    assert code_fingerprint(task(body)) == code_fingerprint(task(retries=3)(body)) == plain
    assert code_fingerprint(flow(body)) == plain


def test_code_without_source_has_a_fingerprint_too() -> None:
    def made(source: str) -> Any:
        space: dict[str, Any] = {}
        exec(source, space)
        return space["f"]

    one = made("def f(x):\n    return x + 1\n")
    assert code_fingerprint(one) == code_fingerprint(made("def f(x):\n    return x + 1\n"))
    for other in ("x + 2", "x - 1", "x.y", "[each for each in x]"):
        assert code_fingerprint(one) != code_fingerprint(made(f"def f(x):\n    return {other}\n"))
    assert code_fingerprint(made("LIMIT = 1\ndef f(x):\n    return x + LIMIT\n")) != code_fingerprint(
        made("LIMIT = 2\ndef f(x):\n    return x + LIMIT\n")
    )


def test_functions_of_libraries_have_fingerprints() -> None:
    prints = {code_fingerprint(each) for each in (len, sorted, json.loads, json.dumps, dict, itertools.count)}
    assert len(prints) == 6


# -- what else a function uses -------------------------------------------------------------------------------

USES = """
    import helpers
    from helpers import TABLE as RENAMED

    SETTINGS = {"a": [1, 2]}
    SETTINGS["b"] = 3
    TABLES = {"f": helpers.unused}

    class Client:
        level = 1

        def get(self, x):
            return self._inner(x)

        def _inner(self, x):
            return x + 1

    client = Client()

    def f(x):
        return SETTINGS["a"], helpers.RATE, RENAMED["x"], client.get(x), TABLES["f"]

    bound = client.get
"""
HELPERS = """
    RATE = 0.5
    TABLE = {"x": 1}

    def unused():
        return 1
"""


@pytest.fixture(params=["source", "values"])
def trust(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether files of modules are older than the process, so that definitions can be read in them, or not."""
    monkeypatch.setattr("graphflow.identity.syntax._BEGAN", 1e20 if request.param == "source" else 0.0)
    return str(request.param)


@pytest.mark.parametrize(
    ("main", "helpers"),
    [
        (USES.replace('{"a": [1, 2]}', '{"a": [1, 3]}'), HELPERS),
        (USES, HELPERS.replace("0.5", "0.6")),
        (USES, HELPERS.replace('{"x": 1}', '{"x": 2}')),
        (USES.replace("x + 1", "x + 2"), HELPERS),
        (USES.replace("level = 1", "level = 2"), HELPERS),
    ],
)
def test_what_global_variables_hold_counts(project: Project, trust: str, main: str, helpers: str) -> None:
    first = code_fingerprint(project(USES, helpers=HELPERS).f)
    assert code_fingerprint(project(USES, helpers=HELPERS).f) == first
    assert code_fingerprint(project(main, helpers=helpers).f) != first


def test_functions_in_a_table_count(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphflow.identity.syntax._BEGAN", 1e20)
    first = code_fingerprint(project(USES, helpers=HELPERS).f)
    changed = HELPERS.replace("return 1", "return 2")
    assert code_fingerprint(project(USES, helpers=changed).f) != first


def test_a_variable_that_changes_while_the_program_runs_counts_by_its_definition(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphflow.identity.syntax._BEGAN", 1e20)
    module = project(USES, helpers=HELPERS)
    first, _ = current_code(module.f)
    module.SETTINGS["seen"] = 1
    assert current_code(module.f)[0] == first
    monkeypatch.setattr("graphflow.identity.syntax._BEGAN", 0.0)
    by_value, _ = current_code(module.f)
    module.SETTINGS["seen"] = 2
    assert current_code(module.f)[0] != by_value


def test_methods_that_a_method_uses_count(project: Project) -> None:
    first = code_fingerprint(project(USES, helpers=HELPERS).bound)
    assert code_fingerprint(project(USES.replace("x + 1", "x + 2"), helpers=HELPERS).bound) != first
    assert code_fingerprint(project(USES.replace("x + 1", "x + 1  # so"), helpers=HELPERS).bound) == first


def test_a_file_that_is_edited_while_its_code_runs_does_not_stand_for_it(project: Project) -> None:
    edited = BASE.replace("x + 1", "x + 9").replace("* y", "- y")
    module = project(BASE)
    path = Path(str(module.__file__))
    path.write_text(textwrap.dedent(edited))
    linecache.clearcache()
    old_code = code_fingerprint(module.f)
    new_code = code_fingerprint(project(edited).f)
    assert old_code != new_code
    again = project(BASE)
    first = code_fingerprint(again.f)
    Path(str(again.__file__)).write_text(textwrap.dedent(edited))
    assert current_code(again.f)[0] == first


def test_code_that_was_loaded_anew_is_read_anew(project: Project) -> None:
    module = project(BASE)
    first = code_fingerprint(module.f)
    Path(str(module.__file__)).write_text(textwrap.dedent(BASE.replace("x + 1", "x + 9 ")))
    exec(compile(Path(str(module.__file__)).read_text(), str(module.__file__), "exec"), vars(module))
    second = code_fingerprint(module.f)
    assert second != first
    assert second == code_fingerprint(project(BASE.replace("x + 1", "x + 9")).f)


def test_what_cannot_be_told_of_a_closure_is_named(project: Project) -> None:
    module = project(
        """
        import logging, threading

        def outer(thing):
            def helper():
                return thing

            def f(x):
                return helper()

            return f
        """
    )
    assert current_code(module.outer(object()))[1] == ["thing"]
    assert current_code(module.outer(module.threading.Lock()))[1] == []
    assert current_code(module.outer(module.logging.getLogger("x")))[1] == []
    assert current_code(module.outer({1: 2}))[1] == []


# -- constants of a call -------------------------------------------------------------------------------------


def test_constants_of_a_call_are_told_apart_by_content() -> None:
    digest = constants_digest((1, Hole(0)), {"x": {"a", "b"}})
    assert digest and digest == constants_digest([1, Hole(0)], {"x": {"b", "a"}})
    others = [
        constants_digest((Hole(0), 1), {"x": {"a", "b"}}),
        constants_digest((1, Hole(1)), {"x": {"a", "b"}}),
        constants_digest((1.0, Hole(0)), {"x": {"a", "b"}}),
        constants_digest((1, Hole(0)), {"y": {"a", "b"}}),
        constants_digest((), {}),
    ]
    assert len({digest, *others}) == 6


def test_constants_that_cannot_be_told_have_no_digest() -> None:
    assert constants_digest((object(),), {}) == ""


def test_files_among_constants_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    assert constants_digest((file_input(path), 1), {}) == ""
    assert constants_digest((str(path), 1), {})

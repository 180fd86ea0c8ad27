"""Cache keys: what the driver knows of a task's keys before any item is there.

A key is a hash of the task's identity and, by its policy, of the call's arguments: each by its name, as canonical bytes, in
the order of the names. Nothing else enters it: no index, batch, worker or process.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from zlib import crc32

from graphflow.common.functions import function_name, plain_function, signature_of
from graphflow.errors import GraphflowError
from graphflow.graph.folding import Combine, Fold
from graphflow.identity.canonical import Encoder, Untold
from graphflow.identity.fingerprints import code_fingerprint, current_code, pure_code
from graphflow.identity.origins import module_name
from graphflow.identity.variables import Memo, Variables, told_object, variables_of
from graphflow.model.cache_policies import CacheKeyContext, CachePolicy, FilesLater, files_later
from graphflow.model.orders import Program, Spread

__all__ = [
    "CODE",
    "FLOW_PARAMETERS_PART",
    "GLOBAL",
    "KEY_NBYTES",
    "NO_KEY",
    "RUN_ID_PART",
    "SCHEME",
    "VERSION",
    "KeySpec",
    "argument_part",
    "entry_of",
    "folder_of",
    "key_spec",
    "part_of",
    "problem_of",
    "task_input_hash",
]

KEY_NBYTES = 16
NO_KEY = bytes(KEY_NBYTES)
"""Stands for an item that is not cached."""
SCHEME = b"graphflow-key-1"
"""Names how keys are made; another way to make them gets another name, and finds none of these."""
SHORT_NBYTES = 64
"""Of longer arguments, a digest stands in the key."""
CODE, VERSION, FLOW_PARAMETERS_PART, RUN_ID_PART, TEXT = (
    "code",
    "cache_version",
    "flow parameters",
    "run id",
    "cache_key_fn",
)
"""The parts of keys that are no arguments."""
GLOBAL = "global"
"""Begins the part of a key that is a global variable."""
MAX_VARIABLES = 100
"""Of more variables than that, the others are one part."""
DIGEST_NBYTES = 16
_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None), type(...)})
_MOST_PLAIN = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """What the keys of one node's items have in common; made on the driver, where the source is, and sent along.

    Attributes
    ----------
    task_key, task_source, folder
        Module and qualified name; what stands for the code; the folder of the task's entries in a store.
    run_id
        Of the flow run.
    policy
        What keys are made of.
    prefix
        The digest that each key begins with.
    parts
        What is the same for all items: the name of a part of the key -> 8 bytes.
    constants, defaults
        The argument's place or name -> its canonical entry, if it was made here.
    problem
        Why no item can be cached; empty where it can.
    notes
        What else its user should know: why a variable counts by its definition alone.
    """

    task_key: str
    task_source: str
    folder: str
    run_id: str
    policy: CachePolicy
    prefix: bytes
    parts: Mapping[str, bytes]
    constants: Mapping[int | str, bytes] = field(default_factory=dict)
    defaults: Mapping[str, bytes] = field(default_factory=dict)
    problem: str = ""
    notes: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)
    """Tells this one from others, where what was made of it is remembered."""

    def context(self, program: Program, parameters: Mapping[str, Any]) -> CacheKeyContext:
        """Return what a `cache_key_fn` is given for one item."""
        options = program.options
        return CacheKeyContext(
            task=options.name,
            fn=program.fn,
            tags=options.tags,
            version=options.version,
            task_key=self.task_key,
            task_source=self.task_source,
            run_id=self.run_id,
            flow_name=program.flow_name,
            flow_parameters=program.flow_parameters,
            parameters=parameters,
        )


def key_spec(program: Program, *, run_id: str, memo: Memo | None = None) -> KeySpec | None:
    """Return what is common to the keys of a node's items; None where nothing of it is cached. Never raises.

    Parameters
    ----------
    memo
        Remembers the digests of large variables between the nodes of a run.
    """
    cache = program.options.cache
    if cache is None or program.kind == "builtin" or isinstance(program.fn, Fold | Combine):
        return None
    name = _identity_of(program.fn)
    problems: list[str] = []
    parts: dict[str, bytes] = {}
    variables = (
        Variables() if cache.version is not None else variables_of(program.fn, code_fingerprint, memo=memo)
    )
    source, material, unknown = _source_of(program.fn, name, cache.version, variables)
    if cache.key_fn is not None and cache.version is None:
        material = [b"unversioned"]
    common = [name.encode("utf-8", "surrogatepass"), *material]
    if cache.key_fn is None:
        if cache.version is None:
            problems += [
                f"the task uses {each!r} of the function around it, which has no canonical form; "
                "set cache_version= instead"
                for each in unknown
            ]
            parts[CODE] = part_of(pure_code(program.fn).encode())
            told = {**variables.constants, **variables.values}
            parts.update((f"{GLOBAL} {each}", part_of(digest)) for each, digest in _bounded(told).items())
        if cache.policy.flow_parameters:
            _add(common, parts, problems, FLOW_PARAMETERS_PART, dict(program.flow_parameters))
        if cache.policy.run_id:
            _add(common, parts, problems, RUN_ID_PART, run_id)
        _add_bound(common, parts, problems, program.fn)
    if cache.version is not None:
        parts[VERSION] = part_of(cache.version.encode("utf-8", "surrogatepass"))
    by_inputs = cache.key_fn is None and cache.policy.inputs
    without = cache.policy.without
    return KeySpec(
        task_key=name,
        task_source=source,
        folder=_folder(program.fn, name),
        run_id=run_id,
        policy=cache.policy,
        prefix=_joined(SCHEME, b"fn" if cache.key_fn is not None else b"policy", *common),
        parts=parts,
        constants=dict(_told(_constants_of(program, without))) if by_inputs else {},
        defaults=dict(_told(_defaults_of(program.fn, without))) if by_inputs else {},
        problem="; ".join(problems),
        notes=tuple(variables.problems) if cache.key_fn is None else (),
    )


def folder_of(program: Program) -> str:
    """Return the folder of a task's entries in a store: readable, and of this task alone. Known to the driver only: use `KeySpec.folder`."""
    return _folder(program.fn, _identity_of(program.fn))


def entry_of(encoded: bytes) -> bytes:
    """Return what stands in a key for the canonical bytes of an argument: these, or their digest where they are long."""
    if len(encoded) <= SHORT_NBYTES:
        return encoded
    # No canonical encoding begins with this sign.
    return b"#" + blake2b(encoded, digest_size=32).digest()


def part_of(entry: bytes) -> bytes:
    """Return what tells a part of keys from what it was elsewhere, where it is the same for all items: 8 bytes.

    It is the part of a single item twice over, so that it may be read as that of two items too.
    """
    return crc32(entry).to_bytes(4, "little") * 2


def argument_part(name: str) -> str:
    """Return the part of a key that an argument is."""
    return f"argument {name}"


def problem_of(what: str, error: BaseException) -> str:
    """Return why an item has no key."""
    if isinstance(error, Untold):
        return f"{what}: {error}; add one with register_hash or __graphflow_hash__"
    return f"{what}: {type(error).__name__}: {error}"


def task_input_hash(context: CacheKeyContext, parameters: Mapping[str, Any]) -> str:
    """Return a `cache_key_fn`: the hash of the task's code and of its arguments, in hex.

    Raises
    ------
    GraphflowError
        If an argument has no canonical form, which `register_hash` can give it.
    """
    digest = blake2b(context.task_source.encode(), digest_size=KEY_NBYTES)
    for name in sorted(parameters):
        try:
            encoded = Encoder(code_fingerprint).encode(parameters[name])
        except Untold as error:
            raise GraphflowError(problem_of(argument_part(name), error)) from None
        entry = entry_of(encoded)
        digest.update(b"%d:%b%d:" % (len(name.encode()), name.encode(), len(entry)) + entry)
    return digest.hexdigest()


# -- who a task is -------------------------------------------------------------------------------------------


def _identity_of(fn: Callable[..., Any]) -> str:
    """Module and qualified name of the function that runs in the end."""
    plain = plain_function(fn)
    if not isinstance(plain, types.FunctionType | types.BuiltinFunctionType | type):
        plain = type(plain)
    module = str(getattr(plain, "__module__", None) or "")
    return f"{module_name(module)}.{getattr(plain, '__qualname__', function_name(fn))}"


def _folder(fn: Callable[..., Any], name: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9_]+", "_", function_name(fn))[:48].strip("_") or "task"
    return f"{readable}-{blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


def _bounded(told: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return the variables that are parts of their own, and one part for all others."""
    if len(told) <= MAX_VARIABLES:
        return told
    names = sorted(told)
    others = b"".join(told[each] for each in names[MAX_VARIABLES:])
    return {**{each: told[each] for each in names[:MAX_VARIABLES]}, "and others": others}


def _source_of(
    fn: Callable[..., Any], name: str, version: str | None, variables: Variables
) -> tuple[str, list[bytes], list[str]]:
    """Return what stands for the code: as text, as what goes into keys, and what of it cannot be told."""
    if version is not None:
        # Lambdas of a module all have one name, so their code must tell them apart.
        code = code_fingerprint(fn, follows=False) if name.endswith("<lambda>") else ""
        told = version.encode("utf-8", "surrogatepass")
        return f"version {version}", [b"version", told, code.encode(), _closure_values(fn)], []
    code, unknown = current_code(fn, variables)
    material = [b"code", code.encode()]
    if variables.values:
        values = [part for name, each in sorted(variables.values.items()) for part in (name.encode(), each)]
        digest = _joined(*values)
        code = f"{code}-{digest[:DIGEST_NBYTES].hex()}"
        material += [b"globals", digest]
    return code, material, unknown


def _closure_values(fn: Callable[..., Any]) -> bytes:
    """Return the data that a function closes over: a function that makes tasks gives each of them other data, but one version."""
    plain = plain_function(fn)
    if not isinstance(plain, types.FunctionType):
        return b""
    found = []
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
            if not callable(value) and not isinstance(value, types.ModuleType):
                found.append(_joined(name.encode(), Encoder(lambda _: "").encode(value)))
        except Exception:
            # It has no canonical form, or no value yet: the version stands for it.
            continue
    return b"".join(found)


def _add(common: list[bytes], parts: dict[str, bytes], problems: list[str], part: str, value: Any) -> None:
    """Add a part that is the same for all items."""
    try:
        encoded = Encoder(code_fingerprint).encode(value)
    except Exception as error:
        problems.append(problem_of(part, error))
        return
    common += [part.encode(), entry_of(encoded)]
    parts[part] = part_of(entry_of(encoded))


def _add_bound(
    common: list[bytes], parts: dict[str, bytes], problems: list[str], fn: Callable[..., Any]
) -> None:
    """Add what the callable brings with it: the arguments of a partial, the object of a method, or itself."""
    place = 0
    while isinstance(fn, functools.partial):
        if fn.args or fn.keywords:
            _add(common, parts, problems, f"partial {place}" if place else "partial", (fn.args, fn.keywords))
        fn, place = fn.func, place + 1
    if isinstance(fn, types.MethodType):
        if not isinstance(fn.__self__, type):
            _add(common, parts, problems, argument_part("self"), told_object(fn.__self__, code_fingerprint))
    elif not isinstance(fn, types.FunctionType | types.BuiltinFunctionType | type):
        _add(common, parts, problems, argument_part("self"), told_object(fn, code_fingerprint))


# -- constants -----------------------------------------------------------------------------------------------


def _constants_of(program: Program, without: frozenset[str]) -> Iterable[tuple[int | str, Any]]:
    yield from ((place, each) for place, each in enumerate(program.args) if not isinstance(each, Spread))
    yield from (
        (name, each)
        for name, each in program.kwargs.items()
        if not isinstance(each, Spread) and name not in without
    )


def _defaults_of(fn: Callable[..., Any], without: frozenset[str]) -> Iterable[tuple[str, Any]]:
    signature = signature_of(fn)
    for name, each in signature.parameters.items() if signature is not None else ():
        if each.default is not inspect.Parameter.empty and name not in without:
            yield name, each.default


def _told(values: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, bytes]]:
    """Return the digests that are quick to make. Others, and files, are made where the items run, so that the driver never waits."""
    for name, value in values:
        if not _is_quick(value, [_MOST_PLAIN]):
            continue
        try:
            with files_later():
                encoded = Encoder(code_fingerprint).encode(value)
        except (Exception, FilesLater):
            continue
        yield name, entry_of(encoded)


def _is_quick(value: Any, left: list[int]) -> bool:
    kind = type(value)
    left[0] -= 1
    if left[0] < 0:
        return False
    if kind in _PLAIN:
        return kind not in (str, bytes) or len(value) <= 100_000
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return len(value) <= left[0] and all(_is_quick(each, left) for each in value)
    if kind is dict:
        return len(value) <= left[0] and all(
            _is_quick(key, left) and _is_quick(each, left) for key, each in value.items()
        )
    # Functions and classes need their source, which other machines may lack.
    return isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType | type) or (
        kind is functools.partial and _is_quick((value.func, value.args, dict(value.keywords)), left)
    )


def _joined(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.digest()

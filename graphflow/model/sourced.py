"""Where the code of a run comes from, and how it is driven: plain values, as the process of a run needs nothing else of a deployment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

__all__ = ["Setup", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the code of a flow comes from; `version` is what it was when it was deployed."""

    kind: Literal["file", "module", "pickle"]
    place: str
    """`/path/to/file.py:flow`, `package.module:flow`, or the name of a pickle."""
    version: str = ""
    stored: Mapping[str, Any] = field(default_factory=dict)
    """Where a pickle is, as the store of results describes it."""
    python: str = ""
    """Minor version of the Python that a pickle was made with."""

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a run is driven, whatever becomes of its deployment meanwhile."""

    source: Source
    backend: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps({"source": asdict(self.source), "backend": self.backend, "env": dict(self.env)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` wrote."""
        found = json.loads(text)
        return cls(source=Source(**found["source"]), backend=found["backend"], env=found["env"])

"""Compare what is installed with constraints.txt: each package must be there in exactly that version.

PYTHON .ci/check_constraints.py        # with the Python whose packages are to be compared
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

UNLISTED = {"graphflow", "pip", "setuptools"}
"""What is no dependency: the package itself, and what a virtual environment begins with."""


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


listed: dict[str, set[str]] = {}
for line in (Path(__file__).parent.parent / "constraints.txt").read_text().splitlines():
    name, _, version = line.partition(";")[0].strip().partition("==")
    listed.setdefault(canonical(name), set()).add(version)

wrong = [
    f"{each.name} {each.version} is installed; constraints.txt has {', '.join(sorted(listed.get(name, ()))) or 'none'}"
    for each in distributions()
    if (name := canonical(each.name)) not in UNLISTED and each.version not in listed.get(name, ())
]
print("\n".join(sorted(wrong)) or "all versions are those of constraints.txt")
sys.exit(bool(wrong))

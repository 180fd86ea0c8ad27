"""Print the OpenAPI document of the API: `python -m graphflow.server.document > docs/reference/openapi.json`."""

from __future__ import annotations

import json
import sys
import tempfile

from graphflow.operations.home import open_home
from graphflow.server.access import Access, rules_of
from graphflow.server.application import make_application

__all__ = ["main"]


def main() -> None:
    """Write the document to stdout, without the version of graphflow."""
    with tempfile.TemporaryDirectory() as folder, open_home(folder) as home:
        document = make_application(home, Access(home.stores.tokens, rules_of("127.0.0.1", 80))).openapi()
    del document["info"]["version"]
    sys.stdout.write(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

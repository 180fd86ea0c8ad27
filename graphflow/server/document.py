"""Write the OpenAPI document of the API, and a page of it: `python -m graphflow.server.document docs/reference`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphflow.operations.home import open_home
from graphflow.operations.table import OPERATIONS
from graphflow.server.access import Access, rules_of
from graphflow.server.application import make_application

__all__ = ["document", "main", "page"]

_HEAD = """# HTTP API

Made from [openapi.json](openapi.json), which `graphflow serve` also has at `/api/openapi.json`. What it is for, tokens and errors:
[the server](../server.md).

"""


def document() -> dict[str, Any]:
    """Return the document, without the version of graphflow."""
    with tempfile.TemporaryDirectory() as folder, open_home(folder) as home:
        made = make_application(home, Access(home.stores.tokens, rules_of("127.0.0.1", 80))).openapi()
    del made["info"]["version"]
    return made


def page(made: Mapping[str, Any]) -> str:
    """Return a document as Markdown: addresses by resource, and the models they take and answer with."""
    roles: dict[str, str] = {each.name: each.role for each in OPERATIONS}
    groups: dict[str, list[str]] = {}
    for path, methods in made["paths"].items():
        for method, each in methods.items():
            group = (each.get("tags") or ["health"])[0]
            role = roles.get(each["operationId"], "viewer" if "stream" in path else "none")
            groups.setdefault(group, []).append("\n".join(_operation(method, path, each, role)))
    parts = [_HEAD]
    for group, texts in groups.items():
        parts.append(f"## {group}\n\n" + "\n".join(texts) + "\n")
    parts.append("## Models\n\n" + "\n".join(_models(made["components"]["schemas"])))
    return "".join(parts).rstrip() + "\n"


def _operation(method: str, path: str, each: Mapping[str, Any], role: str) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    text = str(each.get("description", "")).partition("\n\nNeeds the role")[0]
    yield f"{text} Role: `{role}`.\n"
    given = [of for of in each.get("parameters", ()) if of["in"] != "path"]
    if given:
        yield "| name | in | type | default |\n|---|---|---|---|"
        for of in given:
            schema = of["schema"]
            default = json.dumps(schema["default"]) if schema.get("default") is not None else ""
            yield f"| `{of['name']}` | {of['in']} | {_type(schema)} | {default} |"
        yield ""
    if "requestBody" in each:
        yield f"Body: {_type(each['requestBody']['content']['application/json']['schema'])}.\n"
    for status, answer in each["responses"].items():
        for kind, content in answer.get("content", {}).items():
            if status.startswith("2") and "$ref" in content.get("schema", {}):
                yield f"Answers {status}: {_type(content['schema'])}.\n"
            elif status.startswith("2") and kind == "text/event-stream":
                yield "Answers 200: server-sent events, each with an [EventView](#eventview).\n"


def _models(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        yield f"### {name}\n"
        text = " ".join(str(schema.get("description", "")).split())
        if text:
            yield f"{text}\n"
        required = schema.get("required", ())
        if schema.get("properties"):
            yield "| field | type | |\n|---|---|---|"
            for field, of in schema["properties"].items():
                yield f"| `{field}` | {_type(of)} | {'required' if field in required else ''} |"
            yield ""


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def main(arguments: list[str]) -> None:
    """Write `openapi.json` and `api.md` into a folder."""
    folder, text = Path(arguments[0]), json.dumps(document(), indent=1, sort_keys=True)
    (folder / "openapi.json").write_text(f"{text}\n", encoding="utf-8")
    (folder / "api.md").write_text(page(json.loads(text)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

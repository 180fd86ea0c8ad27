"""What notifications say: of runs that failed, crashed or are late, of times that were missed, of what is absent. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphflow.common.durations import duration_text
from graphflow.common.wording import count_text

__all__ = ["Notice", "Problem", "grouped", "notice_of"]

MOST_LINES = 20
_VERBS = {
    "failed": "failed",
    "crashed": "crashed",
    "late": "is late",
    "completed": "completed",
    "cancelled": "was cancelled",
    "lost": "lost its driver",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A title and a text; and the runs whose failures are added when it is sent."""

    title: str
    text: str
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """What items of a run failed with."""

    run_id: str
    node: str
    told: str
    """Type and text of the exception."""
    count: int


def notice_of(document: Mapping[str, Any]) -> Notice:
    """Return what is said of a firing: of one event, or of all that a window counted."""
    event, automation = document["event"], document["automation"]
    words = str(event["type"]).split(".")
    lines: list[str] = []
    if automation.get("absent"):
        title, lines = _absent(automation)
    elif words[:2] == ["graphflow", "run"] and words[2:]:
        title, lines = _of_runs(words[2], event, document.get("run") or {}, automation)
    elif words == ["graphflow", "schedule", "missed"]:
        title, lines = _missed(event)
    else:
        title = f"{event['type']}: {event['subject']}" if event["subject"] else str(event["type"])
        lines = [f"{name}: {_plain(value)}" for name, value in list(event["data"].items())[:MOST_LINES]]
    failing = words[2:] in (["failed"], ["crashed"]) and not automation.get("absent")
    runs = tuple(automation.get("subjects") or (event["subject"],)) if failing else ()
    lines.append(f"automation: {automation['name']}")
    return Notice(title=title, text="\n".join(lines), runs=runs)


def _of_runs(
    word: str, event: Mapping[str, Any], run: Mapping[str, Any], automation: Mapping[str, Any]
) -> tuple[str, list[str]]:
    verb = _VERBS.get(word, f"is {word}")
    related = event["related"]
    of = related.get("deployment") or related.get("flow") or "a flow"
    subjects: Sequence[str] = automation.get("subjects") or ()
    if len(subjects) > 1:
        within = automation.get("within")
        told = f" within {within}" if within else ""
        plural = {"is": "are", "was": "were"}.get(verb.split()[0], verb.split()[0])
        verb = " ".join([plural, *verb.split()[1:]])
        lines = [f"runs: {', '.join(subjects[:MOST_LINES])}{', ...' if len(subjects) > MOST_LINES else ''}"]
        return f"{count_text(len(subjects), 'run')} of {of} {verb}{told}", lines
    message = event["data"].get("message") or run.get("message") or ""
    lines = [f"run: {event['subject']}" + (f" ({run['name']})" if run.get("name") else "")]
    if message:
        lines.append(str(message))
    if run.get("parameters"):
        lines.append(f"parameters: {_plain(run['parameters'])}")
    return f"{of} {verb}", lines


def _missed(event: Mapping[str, Any]) -> tuple[str, list[str]]:
    data = event["data"]
    count = data.get("count", 1)
    lines = [f"schedule: {event['related'].get('schedule', '')}"]
    lines += [f"{name}: {_plain(data[name])}" for name in ("first", "last") if name in data]
    return f"{event['subject']}: {count_text(int(count), 'time')} missed", lines


def _absent(automation: Mapping[str, Any]) -> tuple[str, list[str]]:
    lines = []
    if automation.get("late_seconds"):
        late = duration_text(float(round(automation["late_seconds"])))
        lines.append(f"this is {late} late: nothing that fires automations was running when it was due")
    if automation.get("last"):
        lines.append(f"the event before: {automation['last']}")
    return f"{automation['name']}: no {automation['absent']} within {automation['within']}", lines


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}..."


def grouped(problems: Iterable[Problem]) -> list[str]:
    """Return one line for each distinct failure, most frequent first: how many items of which node, in how many runs."""
    found: dict[tuple[str, str], list[Problem]] = {}
    for each in problems:
        found.setdefault((each.node, each.told), []).append(each)
    lines = []
    for (node, told), same in sorted(found.items(), key=lambda pair: -sum(each.count for each in pair[1])):
        runs = len({each.run_id for each in same})
        items = count_text(sum(each.count for each in same), "item")
        lines.append(f"{items} of {node}{f' in {runs} runs' if runs > 1 else ''}: {_plain(told)}")
    rest = len(lines) - MOST_LINES
    return lines if rest <= 0 else [*lines[:MOST_LINES], f"and {rest} other errors"]

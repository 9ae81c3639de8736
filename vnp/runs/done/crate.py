"""Where results come from, for others' tools: a Process Run Crate 0.5 (RO-Crate 1.1), ``ro-crate-metadata.json``.

A folder has one crate; each command that makes results there adds its action, or puts it in place of the one of before.
Who ran it, and under which license results may be used, is not for vnp to say: what somebody adds to the root stays.

Source: https://w3id.org/ro/wfrun/process/0.5 and https://w3id.org/ro/crate/1.1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from vnp.files.durable import write_text
from vnp.files.records import read_json
from vnp.runs.done.receipts import now
from vnp.runs.request import Run, versions

NAME = "ro-crate-metadata.json"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_CRATE = "https://w3id.org/ro/crate/1.1"
_CONTEXT = [f"{_CRATE}/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]
_SOFTWARE = "#vnp"
_ROOT = "./"
_FORMATS = {
    ".tsv": "text/tab-separated-values", ".json": "application/json", ".jsonl": "application/jsonl",
    ".h5": "application/x-hdf5", ".html": "text/html", ".fna": "text/x-fasta", ".fa": "text/x-fasta",
    ".fasta": "text/x-fasta", ".bed": "text/x-bed", ".gz": "application/gzip", ".pth": "application/zip",
    ".parquet": "application/vnd.apache.parquet",
}  # fmt: skip
_LICENSE = "Not stated: that of the inputs, and of what was made of them, is their owners' to say"

Entity = dict[str, Any]


class Item(NamedTuple):
    """A file, or a folder, that an action read or made."""

    path: Path
    sha256: str | None = None  # of its bytes
    size: int | None = None  # bytes
    what: str | None = None  # in words


@dataclass(frozen=True, slots=True)
class Action:
    """What a command did."""

    command: str  # ``predict``
    words: str  # what that is
    inputs: Sequence[Item]
    outputs: Sequence[Item]  # the main one first
    parameters: Mapping[str, str | float | None]  # by the names of options; None is left out
    started: str  # UTC, ISO 8601


def inputs_of(run: Run) -> list[Item]:
    """The inputs of a run, and the classifier that scored it if it is a file."""
    found = [Item(Path(one.path), one.sha256, one.size) for one in run.request.inputs]
    choice = run.request.classifier
    if choice is not None and choice.path is not None:
        found.append(Item(choice.path, choice.sha256, what="classifier"))
    return found


def parameters_of(run: Run) -> dict[str, str | float | None]:
    """What was asked of a run's rows: chunk, encoders with their weights, classifier."""
    request = run.request
    found: dict[str, str | float | None] = {"chunk": request.chunk, "shards": request.shards, "run": request.digest}
    for molecule, choice in request.encoders.items():
        found[molecule] = choice.name
        weights = choice.identity.get("weights") or {}
        found[f"{molecule}-weights"] = ", ".join(f"{name} sha256:{digest}" for name, digest in weights.items()) or None
    if request.classifier is not None:
        found |= {"checkpoint": request.classifier.name, "checkpoint-sha256": request.classifier.sha256}
    return found


def write_crate(folder: Path, action: Action) -> None:
    """Add an action to the crate of a folder; a crate that something else made is left alone.

    The action has ended just now; one of the same command and main output makes way.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    path, ended = folder / NAME, now()
    graph = _read(path)
    if graph is None:
        return
    name = f"#{action.command}-{_id(action.outputs[0].path, folder)}"
    parameters = [
        {"@id": f"{name}-{key}", "@type": "PropertyValue", "name": key, "value": value}
        for key, value in action.parameters.items()
        if value is not None
    ]
    inputs, outputs = ([_file(item, folder) for item in items] for items in (action.inputs, action.outputs))
    own = versions()
    software = [
        {
            "@id": f"#{key}", "@type": "SoftwareApplication", "name": key, "softwareVersion": version,
            "identifier": f"pkg:generic/python@{version}" if key == "python" else f"pkg:pypi/{key}@{version}",
        }
        for key, version in own.items()
        if key not in ("vnp", "code")
    ]  # fmt: skip
    entities: list[Entity] = [
        {"@id": NAME, "@type": "CreativeWork", "about": {"@id": _ROOT}, "conformsTo": {"@id": _CRATE}},
        {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {
            "@id": _SOFTWARE, "@type": "SoftwareApplication", "name": "vnp", "softwareVersion": own["vnp"],
            "identifier": f"sha256:{own['code']}", "softwareRequirements": _links(software),
        },
        *software, *inputs, *outputs, *parameters,
        {
            "@id": name, "@type": "CreateAction", "name": f"vnp {action.command}", "description": action.words,
            "startTime": action.started, "endTime": ended, "instrument": {"@id": _SOFTWARE},
            "object": _links([*inputs, *parameters]), "result": _links(outputs),
        },
    ]  # fmt: skip
    graph |= {one["@id"]: one for one in entities}
    # What somebody has deleted meanwhile is no result any more.
    actions = [
        one
        for one in graph.values()
        if one["@type"] == "CreateAction" and (folder / unquote(one["result"][0]["@id"])).exists()
    ]
    results = {link["@id"]: link for one in actions for link in one["result"]}
    within = {link["@id"]: link for one in actions for link in one["object"] if "File" in graph[link["@id"]]["@type"]}
    graph[_ROOT] = {
        "license": _LICENSE,
        **graph.get(_ROOT, {}),
        "@id": _ROOT, "@type": "Dataset", "name": f"Results of vnp: {folder.absolute().name}",
        "description": " ".join(f"{one['description']}." for one in actions), "datePublished": ended,
        "conformsTo": {"@id": _PROFILE}, "hasPart": list({**results, **within}.values()), "mentions": _links(actions),
    }  # fmt: skip
    write_text(path, json.dumps({"@context": _CONTEXT, "@graph": _reached(graph)}, indent=1) + "\n")


def _read(path: Path) -> dict[str, Entity] | None:
    """The entities of a crate of ours by id; none where there is no crate, None where it is not ours."""
    try:
        graph: dict[str, Entity] = {one["@id"]: one for one in read_json(path)["@graph"]}
        actions = [one for one in graph.values() if one["@type"] == "CreateAction"]
        ours = all(one["instrument"] == {"@id": _SOFTWARE} for one in actions)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return graph if ours and _SOFTWARE in graph else None


def _file(item: Item, folder: Path) -> Entity:
    kind = "Dataset" if item.path.is_dir() else "File"
    made: Entity = {"@id": _id(item.path, folder) + ("/" if kind == "Dataset" else ""), "@type": kind}
    made["name"] = item.path.name
    more = {
        "description": item.what, "sha256": item.sha256, "encodingFormat": _FORMATS.get(item.path.suffix),
        "contentSize": None if item.size is None else str(item.size),
    }  # fmt: skip
    return made | {key: value for key, value in more.items() if value is not None}


def _id(path: Path, folder: Path) -> str:
    """What a file is called: its place below the folder, else its address on this machine."""
    place = Path(os.path.relpath(path.absolute(), folder.absolute()))
    return path.absolute().as_uri() if place.parts[:1] == ("..",) else quote(str(place))


def _links(entities: Iterable[Entity]) -> list[Entity]:
    return [{"@id": one["@id"]} for one in entities]


def _reached(graph: Mapping[str, Entity]) -> list[Entity]:
    """The descriptor, the root and all that they lead to, which actions that made way no longer do."""
    found: dict[str, Entity] = {}
    ahead = [NAME, _ROOT]
    while ahead:
        key = ahead.pop(0)
        if key in found or key not in graph:
            continue
        found[key] = graph[key]
        for value in graph[key].values():
            ahead += [one["@id"] for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
    return list(found.values())

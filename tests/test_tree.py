"""Rules for the whole tree: what no file may contain, who imports whom, how large things may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MODULES = sorted(path for room in ("vnp", "jobs", "benchmarks") for path in (REPOSITORY / room).rglob("*.py"))
COMMANDS = sorted(path.stem for path in (REPOSITORY / "jobs").glob("[!_]*.py"))

# Written in pieces, so that this file passes its own test.
MACHINE_FOLDERS = "|".join(["wo" + "rk", "ro" + "ot", "ho" + r"me/\w+", "op" + "t/pypi", "op" + "t/wheels"])
FORBIDDEN = {
    "a path of one machine": rf"(?<![\w.~$}}/-])/(?:{MACHINE_FOLDERS})\b",
    "a package registry": "|".join(
        ["pyp" + r"i\.org", "python" + r"hosted\.org", "deb" + r"\.debian\.org", "download\\.py" + r"torch\.org"]
    ),
    "unfinished work": "|".join([r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"#\s*X" + r"XX\b"]),
    "code that is not there": "|".join(["NotImplemented" + "Error", "pragma: no " + "cover"]),
}


@cache
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def shown(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def python_nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every syntax node of every Python file, with its place."""
    for path in sorted({*MODULES, *(REPOSITORY / "tests").rglob("*.py")}):
        name = shown(path)
        for node in ast.walk(tree(path)):
            yield f"{name}:{getattr(node, 'lineno', 0)}", node


def is_load(function: ast.expr) -> TypeGuard[ast.Attribute]:
    """Whether it is a ``load`` or ``loads`` of something."""
    return isinstance(function, ast.Attribute) and function.attr in {"load", "loads"}


def imported(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Absolute names that a module imports, at the top or inside a function, with their lines."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, node.lineno


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_contains(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{shown(path)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if pattern.search(line)
        ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_patterns_find_what_they_are_for() -> None:
    path = re.compile(FORBIDDEN["a path of one machine"])
    assert path.search("open('/" + "work/main/x')")
    assert path.search("/ho" + "me/ada/genomes")
    assert not path.search("RUN/" + "work and ~/" + "work and .venv/" + "root")
    assert re.search(FORBIDDEN["unfinished work"], "x = 1  # TO" + "DO later")
    assert not re.search(FORBIDDEN["unfinished work"], "protein = 'XXX'")


def test_pickles_are_never_loaded_freely() -> None:
    found = []
    for place, node in python_nodes():
        if isinstance(node, ast.ImportFrom) and node.module in {"pickle", "cloudpickle", "dill", "joblib"}:
            found += [place for alias in node.names if alias.name in {"load", "loads"}]
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append(place)
        if not isinstance(node, ast.Call) or not is_load(node.func):
            continue
        owner = ast.unparse(node.func.value)
        own_bytes = bool(node.args) and ast.unparse(node.args[0]).startswith(f"{owner}.dumps(")
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if owner in {"pickle", "cloudpickle", "dill", "joblib"} and not own_bytes:
            found.append(place)
        if owner == "torch" and given.get("weights_only") != "True":
            found.append(place)
    assert not found, "loads a pickle that can run code:\n" + "\n".join(found)


def test_commands_print_by_echo() -> None:
    """Which makes visible what a terminal would act on; a task prints to its log."""
    free = {"jobs._cli.command", "jobs._cluster.task", "jobs._cluster.worker"}
    found = [
        f"{shown(path)}:{node.lineno}"
        for path in MODULES
        if path.is_relative_to(REPOSITORY / "jobs") and module_name(path) not in free
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "click.echo", "click.secho"}
    ]
    assert not found, "from jobs._cli.command import echo:\n" + "\n".join(found)


def test_json_and_toml_are_read_in_one_place() -> None:
    """There every odd file ends in OSError or ValueError; what this process has just written may be read anyhow."""
    found = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not is_load(node.func):
                continue
            own = bool(node.args) and re.search(r"(json\.dumps|\.to_json)\(", ast.unparse(node.args[0])) is not None
            if ast.unparse(node.func.value) in ("json", "tomllib") and not own:
                found.append(f"{shown(path)}:{node.lineno}")
    assert [place.rpartition(":")[0] for place in found] == ["vnp/files/records.py"], found


def test_no_reader_of_pickles_is_made() -> None:
    """But in the tests of the converter, where a free one shows that their malicious files do run."""
    found = {
        place.rpartition(":")[0]
        for place, node in python_nodes()
        if (
            isinstance(node, ast.Attribute)
            and node.attr in {"Unpickler", "_Unpickler"}
            and ast.unparse(node.value) != "self"
        )
        or (isinstance(node, ast.alias) and node.name in {"Unpickler", "_Unpickler"})
    }
    assert found == {"tests/classifier/test_legacy.py"}


def test_remote_code_is_trusted_by_the_doctor_only() -> None:
    name = "trust_remote" + "_code"
    found = [
        place
        for place, node in python_nodes()
        if (isinstance(node, ast.keyword) and node.arg == name)
        or (isinstance(node, ast.Constant) and node.value == name)
    ]
    assert not [place for place in found if not re.match(r"(vnp|jobs)/\w*doctor", place)], found


def test_library_never_imports_commands() -> None:
    found = [
        f"{shown(path)}:{line}"
        for path in MODULES
        if path.is_relative_to(REPOSITORY / "vnp")
        for name, line in imported(tree(path))
        if name.split(".")[0] == "jobs"
    ]
    assert not found, "vnp/ is the library and must work without jobs/:\n" + "\n".join(found)


# The floors of the house, from the ground up: a room uses rooms below its own. docs/architecture.md walks through them.
FLOORS = [
    "errors", "files", "sequences", "encoders", "features", "runs", "export", "metrics", "report", "classifier",
    "finetune", "native", "prediction", "comparison", "datasets", "controls", "refseq", "virnucpro", "doctor", "speed",
]  # fmt: skip
MOST_MODULES_A_FOLDER = 20
# What is still to be opened. These lists only shrink.
UPWARD: set[tuple[str, str]] = set()
EACH_OTHER: set[tuple[str, str]] = set()
PRIVATE_ACROSS_ROOMS: set[tuple[str, str]] = set()


@cache
def module_name(path: Path) -> str:
    name = shown(path).removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


@cache
def imports_of(path: Path) -> frozenset[str]:
    """The modules of this project that one imports, wherever in the file."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found & set(map(module_name, MODULES)) - {module_name(path)})


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "vnp" and len(parts) > 1 else parts[0]


def test_rooms_use_only_floors_below() -> None:
    rooms = {room(module_name(path)) for path in MODULES if path.is_relative_to(REPOSITORY / "vnp")}
    assert rooms - {"vnp"} <= set(FLOORS)
    found = {
        (module_name(path), other)
        for path in MODULES
        for other in imports_of(path)
        if room(module_name(path)) in FLOORS
        and room(other) in FLOORS
        and FLOORS.index(room(other)) > FLOORS.index(room(module_name(path)))
    }
    assert found == UPWARD


def test_no_two_files_import_each_other() -> None:
    arrows = {(module_name(path), other) for path in MODULES for other in imports_of(path)}
    assert {(one, other) for one, other in arrows if (other, one) in arrows and one < other} == EACH_OTHER


def test_private_modules_are_imported_by_their_own_room() -> None:
    found = {
        (module_name(path), other)
        for path in MODULES
        for other in imports_of(path)
        if other.startswith("vnp.")
        and any(part.startswith("_") for part in other.split("."))
        and room(other) != room(module_name(path))
    }
    assert found == PRIVATE_ACROSS_ROOMS


def test_folders_hold_no_more_than_one_can_take_in() -> None:
    counts = Counter(path.parent for path in MODULES)
    assert not {shown(folder): count for folder, count in counts.items() if count > MOST_MODULES_A_FOLDER}


def test_nobody_imports_fair_esm() -> None:
    found = [shown(p) for p in MODULES for name, _ in imported(tree(p)) if name.split(".")[0] == "esm"]
    assert not found


@pytest.mark.parametrize("module", ["vnp", "vnp.errors", "vnp.encoders", "vnp.sequences", *COMMANDS])
def test_imports_stay_light(module: str) -> None:
    """A command must show its help at once, so it loads what is heavy only when it needs it."""
    name = f"jobs.{module}" if module in COMMANDS else module
    code = (
        f"import sys, {name}\n"
        "print(*sorted({'torch', 'sklearn', 'transformers', 'pyarrow', 'triton'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"importing {name} loads {done.stdout.strip()}"


def test_commands_are_listed() -> None:
    assert {"extract", "reduce", "status", "rerun"} <= set(COMMANDS)
    done = subprocess.run([sys.executable, "-m", "jobs"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    text = done.stdout + done.stderr  # without a name Click calls it wrong use, and writes the list to stderr
    listed = set(re.findall(r"^\s+([a-z_-]+)\s", text, flags=re.MULTILINE))
    assert set(COMMANDS) <= listed, text


def test_modules_stay_small() -> None:
    lengths = {shown(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: length for name, length in lengths.items() if length > 450}


def test_sample_is_small_and_its_sheet_names_every_file() -> None:
    sample = REPOSITORY / "vnp/sample"
    files = [path for path in sample.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 300_000
    rows = [line.split(",") for line in (sample / "samplesheet.csv").read_text().splitlines()]
    assert rows[0] == ["path", "label", "group"]
    assert {sample / row[0] for row in rows[1:]} == {path for path in files if path.suffix == ".gz"}
    for label in ("viral", "host"):
        assert len({group for _, given, group in rows[1:] if given == label}) >= 4
    sources = (sample / "SOURCES.md").read_text()
    assert all(Path(row[0]).name in sources for row in rows[1:])


def test_links_between_documents_lead_somewhere() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    broken = [
        f"{shown(page)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert {REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "docs/guide.md"} <= set(pages)
    assert not broken


def test_readme_stays_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 120

"""What `integrations/` says of vnp is true: versions, dependencies, names of results. `integrations/check` runs it."""

from __future__ import annotations

import ast
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from packaging.requirements import Requirement

import vnp

REPOSITORY = Path(__file__).resolve().parent.parent
INTEGRATIONS = REPOSITORY / "integrations"
MODULE = INTEGRATIONS / "nextflow/modules/nf-core/vnp/predict"
MAIN_NF = (MODULE / "main.nf").read_text()
GALAXY = ElementTree.parse(INTEGRATIONS / "galaxy/vnp_predict.xml").getroot()
WDL = (INTEGRATIONS / "wdl/tasks_vnp.wdl").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

# Names on conda-forge that are not those of the package index.
CONDA_NAMES = {"isal": "python-isal", "matplotlib": "matplotlib-base", "torch": "pytorch"}


def results() -> dict[str, str]:
    """The table of the README: name of a result, and its file."""
    rows = re.findall(r"^\| (`.*?) \| (`.*?) \|", (INTEGRATIONS / "README.md").read_text(), flags=re.MULTILINE)
    pairs = [(re.findall(r"`(.*?)`", names), re.findall(r"`(.*?)`", files)) for names, files in rows]
    return {name: file for names, files in pairs for name, file in zip(names, files, strict=True)}


def recipe() -> Any:
    """The recipe as conda would render it."""
    text = (INTEGRATIONS / "bioconda/meta.yaml").read_text()
    pinned = f"vnp >={vnp.__version__}"
    return yaml.safe_load(jinja2.Template(text).render(PYTHON="python", pin_subpackage=lambda *_, **__: pinned))


def test_results_are_files_that_vnp_writes() -> None:
    page = (REPOSITORY / "docs/files.md").read_text()
    assert len(results()) == 10
    assert [file for file in results().values() if f"`{file}`" not in page] == []


def test_the_nextflow_module_emits_every_result_and_describes_each() -> None:
    emitted = dict(re.findall(r'path\("\$\{prefix\}[/.](.*?)"\).*emit: (\w+)', MAIN_NF))
    assert {name: file for file, name in emitted.items()} == results()
    meta = yaml.safe_load((MODULE / "meta.yml").read_text())
    paths = {name: list(channel[0][1]) for name, channel in meta["output"].items() if name != "versions_vnp"}
    assert paths == {name: [f"${{prefix}}{'.' if name == 'mqc' else '/'}{file}"] for name, file in results().items()}
    (version,) = re.findall(r"eval\(\"(.*?)\"\)", MAIN_NF)
    assert version in meta["output"]["versions_vnp"][0][2]
    assert meta["topics"]["versions"] == meta["output"]["versions_vnp"]


def test_the_snakemake_wrapper_offers_every_result() -> None:
    wrapper = ast.parse((INTEGRATIONS / "snakemake/wrapper/wrapper.py").read_text())
    (files,) = [n.value for n in wrapper.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FILES"]
    assert ast.literal_eval(files) == results()
    said = " ".join(yaml.safe_load((INTEGRATIONS / "snakemake/wrapper/meta.yaml").read_text())["output"])
    assert [name for name in results() if name not in said] == []


def test_the_galaxy_tool_gives_every_result() -> None:
    given = {output.get("name"): output.get("from_work_dir") for output in GALAXY.findall("outputs/data")}
    assert given == {name: f"calls/{file}" for name, file in results().items()}


def test_the_wdl_task_gives_every_result() -> None:
    given = dict(re.findall(r'File\?? +(\w+) += "~\{out_basename\}\.(.*?)"', WDL))
    assert given == results()


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        (MODULE / "main.nf", r"/vnp:([\d.]+)--"),
        (MODULE / "environment.yml", r"bioconda::vnp=(.*)"),
        (INTEGRATIONS / "snakemake/wrapper/environment.yaml", r"vnp =(.*)"),
        (INTEGRATIONS / "wdl/tasks_vnp.wdl", r"/vnp:([\d.]+)--"),
        (INTEGRATIONS / "galaxy/vnp_predict.xml", r'name="@TOOL_VERSION@">(.*?)<'),
        (INTEGRATIONS / "bioconda/meta.yaml", r'version = "(.*?)"'),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_versions_are_that_of_vnp(file: Path, pattern: str) -> None:
    assert set(re.findall(pattern, file.read_text())) == {vnp.__version__}


def test_the_recipe_installs_what_the_package_asks_for() -> None:
    asked = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted = {f"{CONDA_NAMES.get(one.name, one.name)} {one.specifier}" for one in asked}
    assert set(recipe()["requirements"]["run"]) == wanted | {f"python {PROJECT['requires-python']}"}
    entry_points = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe()["build"]["entry_points"] == entry_points


def copied(text: str, line: str) -> set[str]:
    """What lines of a recipe for an image copy into it."""
    return {source for found in re.findall(line, text, flags=re.MULTILINE) for source in found.split()}


def test_the_dockerfile_copies_what_vnp_in_the_apptainer_image_is_built_from() -> None:
    dockerfile = (INTEGRATIONS / "docker/Dockerfile").read_text()
    definition = (REPOSITORY / "containers/Apptainer.def").read_text()
    sources = copied(dockerfile, r"^COPY (.*) /usr/src/vnp\S*$")
    assert sources == copied(definition, r"^ +(?!containers/)(\S+) /usr/src/vnp/\S+$")
    ignored = (INTEGRATIONS / "docker/Dockerfile.dockerignore").read_text().splitlines()
    assert {name.removeprefix("!") for name in ignored if name.startswith("!")} == sources
    assert [name for name in sources if not (REPOSITORY / name).exists()] == []

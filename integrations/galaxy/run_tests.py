"""Runs the tests of a Galaxy tool without a Galaxy: python run_tests.py TOOL.xml FOLDER.

Its command is filled in and run, and its outputs are held against what the tests assert. What Galaxy does around it
(datasets, jobs, collections) is not seen.
"""

import os
import subprocess
import sys
from pathlib import Path

from Cheetah.Template import Template
from galaxy.tool_util.parser import get_tool_source
from galaxy.tool_util.verify.asserts import verify_assertions


class Dataset(str):
    """A path, as templates see an input: with the name that its user gave it."""

    element_identifier: str


def value_of(param, value: str | None, data: Path):
    """What a template sees of a parameter, from what a test says."""
    if param.get("type") == "data":
        dataset = Dataset((data / value).resolve())
        dataset.element_identifier = value
        return dataset
    if param.get("type") == "boolean":
        return param.get("truevalue") if (value or param.get("checked")) == "true" else param.get("falsevalue")
    if param.get("multiple") == "true":
        return value.split(",") if value else []
    if param.get("type") == "select" and value is None:
        return param.find("option[@selected='true']").get("value")
    return value or param.get("value", "")


def main(tool_path: Path, folder: Path) -> None:
    """Run every test in a folder of its own; the first that fails ends all."""
    source = get_tool_source(str(tool_path))
    params = {
        param.get("name") or param.get("argument").lstrip("-").replace("-", "_"): param
        for param in source.xml_tree.findall("inputs/param")
    }
    for number, test in enumerate(source.parse_tests_to_dict()["tests"], start=1):
        given = {one["name"]: one["value"] for one in test["inputs"]}
        assert set(given) <= set(params), f"test {number} names parameters that the tool lacks: {given}"
        values = {
            name: value_of(param, given.get(name), tool_path.parent / "test-data") for name, param in params.items()
        }
        place = folder / f"test-{number}"
        place.mkdir(parents=True)
        command = str(Template(source.parse_command(), searchList=[values])).replace("\n", " ")
        subprocess.run(["bash", "-c", command], cwd=place, check=True, env={**os.environ, "GALAXY_SLOTS": "1"})

        outputs = {
            output.get("name"): place / output.get("from_work_dir")
            for output in source.xml_tree.findall("outputs/data")
            if all(eval(choice.text, {}, values) for choice in output.findall("filter"))  # noqa: S307
        }
        assert len(outputs) == int(test["expect_num_outputs"]), f"test {number} gives {sorted(outputs)}"
        absent = [name for name, path in outputs.items() if not path.is_file()]
        assert not absent, f"test {number} did not write {absent}"
        for output in test["outputs"]:
            verify_assertions(outputs[output["name"]].read_bytes(), output["attributes"]["assert_list"])
        print(f"test {number}: {len(outputs)} outputs, {len(test['outputs'])} of them with assertions that hold")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

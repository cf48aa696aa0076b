"""One environment, said four times: pyproject.toml, environment.yml, Makefile, README. They must agree."""

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import torch
import yaml
from imports import imports
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(line) for line in PYPROJECT["dependencies"]]
EXTRAS = {name: [*map(Requirement, lines)] for name, lines in PYPROJECT["optional-dependencies"].items()}
DECLARED = {canonicalize_name(r.name): r for r in [*RUNTIME, *EXTRAS["dev"]]}

# every other name is the same on conda-forge
CONDA_NAMES = {
    "pytorch": "torch",
    "jupyter_client": "jupyter-client",
    "bleach-with-css": "bleach",
    "pytorch_geometric": "torch-geometric",
}
OWN_STEP = {"triton"}  # installed by the second command in environment.yml's header, which says why


def conda_environment() -> dict[str, SpecifierSet]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    found = {}
    for entry in entries:
        if isinstance(entry, dict):
            found |= {canonicalize_name(r.name): r.specifier for r in map(Requirement, entry["pip"])}
        else:
            name, _, version = entry.partition(" ")
            # a bare version is an exact match in conda's language
            exact = f"=={version}" if version[:1].isdigit() else version
            found[CONDA_NAMES.get(name, name)] = SpecifierSet(exact)
    return found


def test_conda_and_pip_name_the_same_packages():
    assert set(conda_environment()) - {"python", "pip"} == set(DECLARED) - OWN_STEP


def test_conda_and_pip_ask_for_the_same_versions():
    conda = conda_environment()
    assert conda.pop("python") == SpecifierSet(PYPROJECT["requires-python"])
    assert conda.pop("pip") == SpecifierSet()
    assert conda == {name: r.specifier for name, r in DECLARED.items() if name not in OWN_STEP}


def test_conda_installs_this_package_and_what_its_list_leaves_out():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "conda env create -f environment.yml" in text
    step = next(line for line in text.splitlines() if "pip install --no-deps --editable ." in line)
    rest = {Requirement(quoted) for quoted in re.findall(r'"(.+?)"', step)}
    assert rest == {DECLARED[name] for name in OWN_STEP}


def test_conda_takes_packages_from_conda_forge_alone():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_every_dependency_says_why():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for requirement in chain(PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"].values()):
        line = next(line for line in lines if line.strip().startswith(f'"{requirement}"'))
        assert re.search(r",\s*# \w+", line), f"no reason beside {requirement}"


def test_what_is_installed_is_what_was_asked_for():
    for name, requirement in DECLARED.items():
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(importlib.metadata.version(name), prereleases=True), name


def makefile_torch() -> str:
    return re.search(r"^TORCH_VERSION := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1]


def test_the_makefile_installs_a_torch_that_the_package_accepts():
    assert DECLARED["torch"].specifier.contains(makefile_torch())


def test_every_import_is_declared():
    runtime = {canonicalize_name(r.name) for r in RUNTIME}
    optional = {canonicalize_name(r.name) for name, extra in EXTRAS.items() if name != "dev" for r in extra}
    owners = importlib.metadata.packages_distributions()
    undeclared = []
    for path in sorted((ROOT / "lab").rglob("*.py")):
        for entry in imports(path, ROOT):
            top = entry.name.partition(".")[0]
            if top == "lab" or top in sys.stdlib_module_names:
                continue
            # a late import may be of an extra that a user chooses to install
            allowed = runtime | optional if entry.in_function else runtime
            if not allowed & {canonicalize_name(owner) for owner in owners.get(top, [top])}:
                undeclared.append(f"{path.relative_to(ROOT)}:{entry.line} {top}")
    assert undeclared == []


@pytest.mark.skipif(torch.version.cuda is not None, reason="the CUDA build of torch is installed, and brings them")
def test_no_cuda_package_beside_the_cpu_build():
    names = {canonicalize_name(d.name) for d in importlib.metadata.distributions()}
    assert not torch.cuda.is_available()
    assert {name for name in names if name.startswith("nvidia-")} == set()


def make_targets() -> dict[str, bool]:
    """{target: says what it does} of the Makefile; files and the inner torch-* steps are not for users."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    rules = [re.match(r"([a-z][a-z-]*):(?!=)", line) for line in lines]
    return {rule[1]: "##" in rule.string for rule in rules if rule and not rule[1].startswith("torch-")}


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_make_help_says_all_there_is():
    command = ["make", "--no-print-directory", "help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in run.stdout.splitlines()] == list(make_targets())
    assert all(make_targets().values())


def test_the_readme_names_real_targets_and_the_two_commands():
    code = " ".join(re.findall(r"```.*?```|`[^`\n]+`", readme(), re.S))
    named = set(re.findall(r"\bmake(?:\s+-\S+|\s+[A-Z_]+=\S+)*\s+([a-z][a-z-]*)", code))
    assert {"report", "test"} <= named
    assert named <= set(make_targets())


def test_the_readme_gives_the_versions_that_are_true():
    text = readme()
    oldest = re.search(r"[\d.]+", PYPROJECT["requires-python"])[0]
    assert set(re.findall(r"Python (3\.\d+)(?:\+| or newer)", text)) <= {oldest}
    assert f"Python {oldest}" in text
    assert set(re.findall(r"torch==([\d.]+\d)", text)) <= {makefile_torch()}


def test_the_readme_is_candid_about_conda():
    assert re.search(r"environment\.yml.*untested|untested.*environment\.yml", readme(), re.S | re.I)


def test_the_console_command_works():
    command = Path(sysconfig.get_path("scripts")) / "lab"
    run = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for word in ("report", "list", "doctor"):
        assert word in run.stdout

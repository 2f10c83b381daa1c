"""What is packed: everything that a user needs to install, test and build."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKED = ("src/sama_video", "tests", "docs", "benchmarks", "examples", "integrations", "tools")
KEPT_OUT = (".git", ".venv", "demo", "runs", "site", "build", "dist", "__pycache__", ".pytest_cache", ".hypothesis")


def files_of(folder):
    for directory, names, files in os.walk(folder):
        names[:] = [name for name in names if name not in KEPT_OUT and not name.endswith(".egg-info")]
        yield from (Path(directory, name).relative_to(folder).as_posix() for name in files if not name.endswith(".pyc"))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of both distributions."""
    tree = tmp_path_factory.mktemp("packaging") / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*KEPT_OUT, "*.egg-info"))
    for kind in ("sdist", "wheel"):
        build = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
        subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    return tree / "dist"


def test_the_wheel_holds_the_package_and_the_mark_that_it_is_typed(dist):
    (archive,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(archive).namelist())
    assert "sama_video/py.typed" in names
    assert not {f"sama_video/{name}" for name in files_of(ROOT / "src" / "sama_video")} - names


def test_the_source_distribution_holds_all_that_its_commands_need(dist):
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    wanted = {f"{part}/{name}" for part in PACKED for name in files_of(ROOT / part)}
    wanted |= {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml"}
    wanted |= {"CONTRIBUTING.md", "Dockerfile", ".dockerignore", "mkdocs.yml"}
    assert not wanted - names


@pytest.mark.parametrize(
    "package", ["accelerate", "av", "diffusers", "huggingface_hub", "peft", "torch", "transformers"]
)
def test_packages_whose_inside_is_followed_have_an_upper_bound(package):
    (line,) = re.findall(rf'^  "{package}(?:\[.*\])?([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert "<" in line

"""pyproject.toml lists packages and C files by hand: nothing may be missing there."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = SETTINGS["tool"]["setuptools"]
EXTENSIONS = {module["name"]: module for module in SETUPTOOLS["ext-modules"]}


def test_packages_list_every_package() -> None:
    found = set()
    for top in (ROOT / "shmcache", ROOT / "server" / "shmcache_server"):
        for init in top.rglob("__init__.py"):
            found.add(".".join(init.parent.relative_to(top.parent).parts))
    assert set(SETUPTOOLS["packages"]) == found


def test_core_is_built_from_every_source_and_after_every_header() -> None:
    core = EXTENSIONS["shmcache._core.binding"]
    here = {p for p in (ROOT / "shmcache" / "_core").iterdir() if p.name != "binding.c"}
    listed = {ROOT / p for p in core["sources"] + core["depends"]}
    assert listed == {p for p in here if p.suffix in (".c", ".h", ".pyx", ".pxd")}


def test_server_is_built_from_every_source() -> None:
    here = (ROOT / "server" / "shmcache_server").rglob("*.pyx")
    listed = {s for e in EXTENSIONS.values() for s in e["sources"]}
    assert {str(path.relative_to(ROOT)) for path in here} <= listed


def test_market_has_its_page() -> None:
    patterns = SETUPTOOLS["package-data"]["shmcache_server.market"]
    here = ROOT / "server" / "shmcache_server" / "market"
    shipped = {path for pattern in patterns for path in here.glob(pattern)}
    beside = {p for p in here.rglob("*") if p.is_file() and p.parent.name == "page"}
    assert shipped == beside and here / "page" / "index.html" in shipped


def test_wheel_has_every_script_of_the_server() -> None:
    here = ROOT / "server" / "shmcache_server"
    found = {str(path.relative_to(here)) for path in here.rglob("*.lua")}
    assert found <= set(SETUPTOOLS["package-data"]["shmcache_server"])

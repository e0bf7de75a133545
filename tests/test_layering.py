"""The rows of modules, top to bottom: an import goes down, never up or sideways."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVER = "shmcache_server"

# One row a line. A module missing here fails the tests: give it its place.
ROWS = [
    {"shmcache_server.market"},
    {"shmcache_server.market.live", "shmcache_server.market.views"},
    {"shmcache_server.market.dashboard"},
    {"shmcache_server.market.feed", "shmcache_server.market.stream"},
    {"shmcache_server.market.calls", "shmcache_server.market.gates"},
    {"shmcache_server.market.settings"},
    {"shmcache_server.market.files", "shmcache_server.market.parts"},
    {"shmcache_server.market.vendors"},
    {"shmcache_server.market.answers"},
    {"shmcache_server.__main__"},
    {"shmcache_server.cli"},
    {"shmcache_server.arbiter", "shmcache_server.client", "shmcache_server.doctor"},
    {"shmcache_server.worker", "shmcache_server.embedded"},
    {"shmcache_server.app"},
    {"shmcache_server.fastlane"},
    {"shmcache_server.handler", "shmcache_server.admin", "shmcache_server.hosted"},
    {"shmcache_server.passing"},
    {"shmcache_server.changes", "shmcache_server.failures"},
    {"shmcache_server.fetch", "shmcache_server.purges"},
    {"shmcache_server.elsewhere"},
    {"shmcache_server.answers", "shmcache_server.fills", "shmcache_server.lives"},
    {"shmcache_server.shelf"},
    {"shmcache_server.wanted"},
    {"shmcache_server.relay"},
    {"shmcache_server.live", "shmcache_server.tasks", "shmcache_server.tunnel"},
    {"shmcache_server.origins", "shmcache_server.answer", "shmcache_server._splice"},
    {
        *("shmcache_server.answering", "shmcache_server.parts"),
        "shmcache_server.request",
        *("shmcache_server.limits", "shmcache_server.upstreams"),
    },
    {
        *("shmcache_server.breakers", "shmcache_server.tally"),
        *("shmcache_server.purge", "shmcache_server.sharing"),
        *("shmcache_server.pieces", "shmcache_server.variants"),
    },
    {
        *("shmcache_server.allowance", "shmcache_server.ledger"),
        *("shmcache_server.pool", "shmcache_server.key"),
        *("shmcache_server.stored", "shmcache_server.tags"),
    },
    {
        "shmcache_server.config",
        "shmcache_server.connections",
        "shmcache_server.rfc9111.invalidating",
        "shmcache_server.rfc9111.ranges",
        "shmcache_server.rfc9111.status",
        "shmcache_server.rfc9111.storing",
        "shmcache_server.rfc9111.vary",
        "shmcache_server.upload",
    },
    {
        *("shmcache_server.rfc9111.validation", "shmcache_server.routes"),
        "shmcache_server.tables",
    },
    {
        "shmcache_server.addresses",
        "shmcache_server.forwarded",
        "shmcache_server.rfc9111.freshness",
        "shmcache_server.rfc9111.targeted",
    },
    {
        "shmcache_server.rfc9111.dates",
        "shmcache_server.rfc9111.directives",
        "shmcache_server.rfc9111.etags",
        "shmcache_server.rfc9111.fields",
    },
    {"shmcache_server", "shmcache_server.rfc9111"},
    {
        *("shmcache.adapters.aiohttp", "shmcache.adapters.django"),
        *("shmcache.adapters.dogpile", "shmcache.adapters.starlette"),
    },
    {"shmcache", "shmcache.adapters", "shmcache.testing"},
    {"shmcache.sync"},
    {"shmcache.cache"},
    {"shmcache.batch", "shmcache.lock", "shmcache.writes"},
    {"shmcache.parts"},
    {"shmcache.flight"},
    {"shmcache.conditional", "shmcache.holder"},
    {"shmcache.invalidation"},
    {"shmcache.follower", "shmcache.job", "shmcache.reaper"},
    {"shmcache.claim", "shmcache.lookup", "shmcache.outbox", "shmcache.stream"},
    {"shmcache.lease"},
    {"shmcache.decorator", "shmcache.l2"},
    {"shmcache.arguments", "shmcache.part"},
    {"shmcache.asks", "shmcache.reads"},
    {"shmcache.foreign", "shmcache.turns"},
    {"shmcache.operations", "shmcache.rights"},
    {"shmcache.topology"},
    {
        *("shmcache.cluster", "shmcache.context", "shmcache.scripts"),
        *("shmcache.sentinel", "shmcache.terms"),
    },
    {"shmcache.compute", "shmcache.link", "shmcache.tags", "shmcache.target"},
    {"shmcache.address", "shmcache.entry", "shmcache.inspect", "shmcache.l1"},
    {"shmcache.ask", "shmcache.check", "shmcache.fill", "shmcache.segment"},
    {"shmcache.breaker", "shmcache.codec", "shmcache.envelope", "shmcache.wire"},
    {"shmcache.policy"},
    {"shmcache.clock", "shmcache.config", "shmcache.keys", "shmcache.stats"},
    {"shmcache.errors", "shmcache.record", "shmcache.room"},
    {"shmcache.hosts", "shmcache.nesting", "shmcache.resolver", "shmcache.resp"},
    {"shmcache._core", "shmcache._core.binding", "shmcache.lua"},
]
ROW = {module: i for i, row in enumerate(ROWS) for module in row}

# No I/O and no clock: time is an argument.
PURE = {
    *("shmcache.policy", "shmcache.codec", "shmcache.record", "shmcache.keys"),
    *("shmcache.entry", "shmcache.fill", "shmcache.hosts", "shmcache.resp"),
    *("shmcache.arguments", "shmcache.terms", "shmcache_server.allowance"),
    *("shmcache_server.market.answers", "shmcache_server.market.vendors"),
    "shmcache_server.market.parts",
    *(module for module in ROW if module.startswith("shmcache_server.rfc9111")),
}
# Who alone may import it.
ONLY = {
    "hiredis": {"shmcache.resp"},
    # its client retries behind our back, unless told not to
    "redis": {"shmcache_server.tally"},
    "shmcache._core.binding": {"shmcache.check", "shmcache.inspect", "shmcache.l1"},
}
# Package maps and entry points: proved by the tests of what they name.
NO_TEST_OF_THEIR_OWN = {
    "shmcache",
    "shmcache._core",
    "shmcache.adapters",
    "shmcache.lua",
    "shmcache_server",
    "shmcache_server.__main__",
    "shmcache_server.market",
    "shmcache_server.rfc9111",
}


def files() -> dict[str, Path]:
    """Module name to file, the binding by its declarations."""
    found = {}
    for top, package in ((ROOT, "shmcache"), (ROOT / "server", SERVER)):
        for path in sorted((top / package).rglob("*.py*")):
            if path.suffix in (".py", ".pyi"):
                parts = path.relative_to(top).with_suffix("").parts
                name = ".".join(p for p in parts if p != "__init__")
                found[name] = path
    return found


FILES = files()


def imports(module: str) -> Iterator[tuple[str, str]]:
    """(module imported, name taken from it or ""), those for types only included."""
    package = module if FILES[module].stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole, "") if whole in FILES else (base, alias.name)


def test_rows_name_every_module_once() -> None:
    assert sum(len(row) for row in ROWS) == len(ROW)
    assert set(FILES) == set(ROW)


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    own = {name for name, _ in imports(module) if name in FILES}
    assert [n for n in sorted(own) if ROW[n] <= ROW[module]] == []


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_know_no_io_and_no_clock(module: str) -> None:
    tops = {name.split(".")[0] for name, _ in imports(module)}
    unwanted = {"asyncio", "redis", "aiohttp", "time", "socket", "os", "uvloop"}
    assert not tops & unwanted
    if module.startswith("shmcache_server.rfc9111"):
        assert "shmcache" not in tops


@pytest.mark.parametrize("module", FILES)
def test_doors_to_the_outside_are_few(module: str) -> None:
    names = {name for name, _ in imports(module)}
    for guarded, allowed in ONLY.items():
        if any(n == guarded or n.startswith(guarded + ".") for n in names):
            assert module in allowed, f"{module} imports {guarded}"
    if "aiohttp" in {n.split(".")[0] for n in names}:
        assert module.startswith((SERVER, "shmcache.adapters"))


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith(SERVER)])
def test_server_uses_public_names_of_the_library(module: str) -> None:
    used = {n for n in imports(module) if n[0].split(".")[0] == "shmcache"}
    assert {name for name, _ in used} <= {"shmcache", "shmcache.inspect"}
    source = ast.parse(FILES["shmcache"].read_text())
    public = next(
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert {taken for name, taken in used if name == "shmcache"} <= set(public)


@pytest.mark.parametrize("module", sorted(set(FILES) - NO_TEST_OF_THEIR_OWN))
def test_module_has_its_tests_at_the_same_address(module: str) -> None:
    if module.startswith("shmcache._core"):
        assert list((ROOT / "tests" / "core").glob("test_*.py"))
        return
    package, _, rest = module.partition(".")
    parts = (["server"] if package == SERVER else []) + rest.split(".")
    parts[-1] = f"test_{parts[-1]}.py"
    assert ROOT.joinpath("tests", *parts).is_file()

"""Which folder may import which. A folder's position in the flow is its rule; this test is what keeps it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ALLOWED = {
    "schemas": set(),
    "runtime": {"schemas"},
    "connectors": {"schemas", "runtime"},
    "kernels": {"schemas"},
    "store": {"schemas", "runtime"},
    "agents": {"schemas", "kernels", "runtime", "store"},
    "replay": {"schemas", "kernels", "runtime", "store", "queries"},
    "queries": {"schemas", "runtime"},
    "audit": {"schemas"},
    "plant": {"schemas"},
    "services": set(),
}
OURS = {*ALLOWED, "cli", "tests", "bench"}
IMPURE = {"time", "datetime", "os", "random", "secrets", "asyncio", "socket", "threading", "subprocess", "logging"}


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def modules(folder: str) -> list[Path]:
    """All Python files of a folder; there must be some, else the rule would hold for nothing."""
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"{folder} has no modules"
    return found


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_folder_imports_only_what_it_may(folder: str) -> None:
    """A folder imports from our folders only those that the table allows."""
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(folder)
        for name in imported(path) & OURS - ALLOWED[folder] - {folder}
    }
    assert not wrong


def test_kernels_are_pure() -> None:
    """No kernel can read a clock, the environment, the disk's names or a random number: it imports none of them."""
    wrong = {f"{path.name} imports {name}" for path in modules("kernels") for name in imported(path) & IMPURE}
    assert not wrong


def test_only_schemas_knows_the_wire_format() -> None:
    """fastavro is imported in schemas/ and nowhere else of what runs."""
    wrong = [
        str(path.relative_to(ROOT))
        for folder in [*ALLOWED.keys() - {"schemas"}, "cli"]
        for path in modules(folder)
        if "fastavro" in imported(path)
    ]
    assert not wrong


def test_only_stage_adapter_knows_faust() -> None:
    """faust is imported by the adapter and its helpers, never by a stage's own file."""
    stages = {"validation.py", "estimation.py", "twin.py", "sink.py"}
    wrong = [p.name for p in modules("agents") if p.name in stages and imported(p) & {"faust", "mode", "aiokafka"}]
    assert not wrong

"""Imports go down only: the table of ARCHITECTURE.md, checked against every import statement of the package."""

import ast
from pathlib import Path

import octavo

SOURCE = Path(octavo.__file__).parent
FLOORS = {
    "core": 0,
    "checkpoint": 1,
    "kernels": 1,
    "quant": 2,
    "cache": 2,
    "text": 2,
    "protocol": 2,
    "program": 3,
    "sched": 3,
    "models": 4,
    "compress": 5,
    "worker": 6,
    "engine": 7,
    "server": 8,
    "bench": 9,
    "cli": 10,
}


def imported(path: Path) -> set[str]:
    """Top-level packages of octavo that a file imports, in any scope, under TYPE_CHECKING too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [node.module or ""]
        else:
            continue
        names |= {module.split(".")[1] for module in modules if module.startswith("octavo.")}
    return names


def test_every_package_has_a_floor():
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert packages == set(FLOORS)


def test_imports_go_down_only():
    wrong = []
    for package, floor in FLOORS.items():
        for path in (SOURCE / package).rglob("*.py"):
            for other in imported(path) - {package}:
                if FLOORS[other] >= floor:
                    wrong.append(f"{path.relative_to(SOURCE)} (floor {floor}) imports {other} (floor {FLOORS[other]})")
    assert not wrong, "\n".join(wrong)


def test_kernels_can_be_lifted_out():
    for path in (SOURCE / "kernels").rglob("*.py"):
        assert imported(path) <= {"kernels"}, path

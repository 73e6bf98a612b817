"""Imports point down only (design.md, section 2), and what is heavy or optional is imported where it is used."""

import ast
import pathlib
import subprocess
import sys

import pytest

import sde_diffusion

ROOT = pathlib.Path(sde_diffusion.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
HELPERS = {"shapes", "noise", "expressions", "files"}
LAYERS = {
    "data": 0,
    "plotting": 0,
    "sdes": 0,
    "networks": 0,
    "denoisers": 1,
    "solvers": 2,
    "losses": 2,
    "likelihood": 3,
    "interop": 4,
    "training": 4,
    "evaluation": 4,
    "cli": 5,
}


def part(module: str) -> str:
    """The folder or file directly under the package: sde_diffusion.sdes.vp -> sdes."""
    return [*module.split("."), ""][1]


def name(path: pathlib.Path) -> str:
    return ".".join(("sde_diffusion", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imported(path: pathlib.Path) -> set[str]:
    """Every module of the package that a file imports, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write it out"
            modules |= {f"{node.module}.{alias.name}" if node.module == "sde_diffusion" else node.module for alias in node.names}
    return {module for module in modules if module.split(".")[0] == "sde_diffusion"}


def allowed(own: str, other: str) -> bool:
    if own in ("expressions", "networks"):
        return own == other == "networks"
    if own in HELPERS:
        return other in HELPERS - {own}
    return other in HELPERS or other == own or LAYERS.get(other, 6) < LAYERS[own]


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.parent != ROOT or p.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_point_down(path):
    own = part(name(path))
    assert own in LAYERS or own in HELPERS, f"{own} has no layer in design.md, section 2"
    for module in imported(path):
        other = part(module)
        if own == "cli" and other not in LAYERS and other not in HELPERS:
            continue  # the command line may use the public vocabulary of the top level
        assert allowed(own, other), f"{name(path)} imports {module}: {own} stands on {other}"


UP = ["solvers losses", "losses solvers", "sdes denoisers", "sdes networks", "networks sdes", "networks shapes", "denoisers solvers"]
UP += ["evaluation training", "training cli", "expressions shapes", "shapes sdes", "noise sdes", "solvers sde_diffusion"]
DOWN = ["solvers denoisers", "solvers solvers", "cli training", "sdes noise", "denoisers networks", "networks networks"]


def test_the_rule_would_notice():
    assert not any(allowed(*pair.split()) for pair in UP)
    assert all(allowed(*pair.split()) for pair in DOWN)


def test_networks_know_nothing_of_diffusion():
    for path in (ROOT / "networks").glob("*.py"):
        assert all(part(module) == "networks" for module in imported(path)), path


def test_heavy_and_optional_modules_are_imported_where_they_are_used():
    heavy = (
        "matplotlib",
        "sklearn",
        "accelerate",
        "datasets",
        "torchmetrics",
        "ot",
        "scipy.stats",
        "scipy.integrate",
        "torchsde",
        "absl",
        "ml_collections",
        "PIL",
        "safetensors",
        "diffusers",
    )
    code = f"import sys, sde_diffusion; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert out.stdout.strip() == "[]"


def test_everything_public_exists_once():
    assert len(set(sde_diffusion.__all__)) == len(sde_diffusion.__all__)
    assert all(hasattr(sde_diffusion, word) for word in sde_diffusion.__all__)

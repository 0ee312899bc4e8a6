"""The suite runs with every annotated shape of the package checked at run time."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

with install_import_hook("audio_lens", "typechecking.check"):
    import audio_lens

    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(audio_lens.__path__, "audio_lens.")
        if not found.name.endswith("__main__")
    ]

from audio_lens import AudioLens
from audio_lens.testing import random_musicgen


def _make_type_checking_imports_real(module: ModuleType) -> None:
    """Names imported for type checkers alone are needed where annotations are checked."""
    tree = ast.parse(Path(module.__file__).read_text())
    for node in tree.body:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            for found in node.body:
                source = importlib.import_module(
                    "." * found.level + found.module, module.__package__
                )
                for alias in found.names:
                    setattr(module, alias.asname or alias.name, getattr(source, alias.name))


for _module in modules:
    _make_type_checking_imports_real(_module)


FAMILIES = {
    "mono": {},
    "stereo": {"audio_channels": 2, "n_codebooks": 8},
    "melody": {"melody": True},
    "stereo-melody": {"melody": True, "audio_channels": 2, "n_codebooks": 8},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of the lens run on every family, or on those that `families` marks them for; tests of
    what stands on it run on the simplest family and on the most different one.
    """
    if "lens" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("families")
    of_the_lens = Path(metafunc.module.__file__).parent.name == "lens"
    chosen = marker.args if marker else FAMILIES if of_the_lens else ["mono", "stereo-melody"]
    metafunc.parametrize("lens", chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def lens(request: pytest.FixtureRequest) -> AudioLens:
    """A small random model; tests leave it clean."""
    return random_musicgen(n_layers=3, d_model=64, n_heads=4, seed=0, **FAMILIES[request.param])


@pytest.fixture(params=[False, True], ids=["no_grad", "grad"])
def grad(request: pytest.FixtureRequest) -> Iterator[bool]:
    """The engine takes other ways where autograd is watching."""
    with torch.set_grad_enabled(request.param):
        yield request.param


@pytest.fixture
def as_users_see_it() -> object:
    """The suite's run-time types would catch much bad input first; users do not have them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _left_clean(request: pytest.FixtureRequest) -> object:
    """Whatever a test does to the shared lens, no hook may stay behind."""
    yield
    if "lens" in request.fixturenames:
        shared = request.getfixturevalue("lens")
        assert not shared._engine.active
        assert shared._engine.run is None
        assert not shared._engine.interleaving
        assert not any(gate.busy for gate in shared._engine._gates.values())

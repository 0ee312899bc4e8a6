"""The house: imports go downward, importing costs nothing, and the face is what is promised."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import audio_lens

ROOT = Path(audio_lens.__file__).parent
FLOORS = [
    "__main__", "cli", "toy", "recipes", "steering", "patching", "testing", "analysis", "lens",
    "audio", "provenance", "files", "errors",
]  # fmt: skip
"""From the top down. `plots` draws results: only recipes and a result's own `plot` call it."""

DOORS = {
    ("lens.lens", "steering"): "AudioLens.steer and AudioLens.sweep are sugar over steering",
}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports at run time."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # imports for type checkers are no arrows
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("audio_lens."):
            found.add(node.module.removeprefix("audio_lens."))
    return found


def imports_outside_of_plot(path: Path) -> set[str]:
    """Modules that a file imports elsewhere than in methods named `plot`."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "plot":
            node.body = []
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {module.removeprefix("audio_lens.") for module in modules}


def files() -> list[Path]:
    return [p for p in ROOT.rglob("*.py") if p.name != "__init__.py" and "plots" not in p.parts]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    floor = FLOORS.index(name.split(".")[0])
    for imported in imports(path):
        room = imported.split(".")[0]
        if room == "plots":
            assert name.startswith("recipes.") or imported not in imports_outside_of_plot(path)
            continue
        assert FLOORS.index(room) >= floor or (name, room) in DOORS, f"{name} imports {imported}"


def test_every_room_says_what_it_is_for():
    for path in ROOT.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_loads_nothing():
    heavy = run(
        "import sys, audio_lens; "
        "print([m for m in ('torch', 'transformers', 'nnsight', 'transformer_lens') "
        "if m in sys.modules])"
    )
    assert heavy == "[]"


def test_the_lens_does_without_transformer_lens_until_a_cache_is_asked_for():
    seen = run(
        "import sys; from audio_lens.testing import random_musicgen as r; "
        "lens = r(n_layers=1); lens.generate(None, seconds=0.1, progress=False); "
        "print('transformer_lens' in sys.modules); "
        "lens.run_with_cache(None, lens.random_codes(frames=4)); "
        "print('transformer_lens' in sys.modules)"
    )
    assert seen.split() == ["False", "True"]


def test_measuring_compiles_nothing():
    """librosa's first call compiles for ten seconds and more: no measure, and no lens, calls it."""
    seen = run(
        "import sys, numpy as np; "
        "from audio_lens.audio.measures import compare, evaluate; "
        "from audio_lens.audio.quality import quality_guard, vitals; "
        "from audio_lens.audio.melody import Prompt; "
        "from audio_lens.testing import random_musicgen as r; "
        "t = np.arange(48000) / 16000; "
        "clip = np.sin(2 * np.pi * 60 * t) * np.exp(-(t % 0.5) / 0.08); "
        "evaluate(clip, 16000), compare(clip, clip, 16000); "
        "quality_guard(vitals(clip, 16000), vitals(clip, 16000), tempo='pulse'); "
        "Prompt('organ', melody=clip, sample_rate=16000); "
        "r(n_layers=1).generate('organ', seconds=0.1, progress=False); "
        "print([m for m in ('librosa', 'numba', 'llvmlite') if m in sys.modules])"
    )
    assert seen == "[]"


def test_the_face():
    for name in audio_lens.__all__:
        assert getattr(audio_lens, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = audio_lens.nothing

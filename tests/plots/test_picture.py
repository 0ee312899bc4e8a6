"""Pictures show themselves in a notebook in which nobody imported pyplot."""

import subprocess
import sys

SHOWN = """
import sys
import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from audio_lens.plots.panels import Axis, panels

drawn = panels(
    {"one": np.eye(2)}, rows=Axis("layer", ["0", "1"]), columns=Axis("pos", ["0", "1"]), scale="x"
)
found, _ = InteractiveShell.instance().display_formatter.format(drawn)
assert "matplotlib.pyplot" not in sys.modules
print(found["image/png"][1:4])
"""


def test_a_picture_is_shown_without_pyplot(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("b'PNG'")

"""The figure that all pictures are drawn on."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that shows itself in a notebook whether or not pyplot was ever imported.

    Example:
        >>> Picture(figsize=(1, 1))._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.savefig(drawn, format="png")
        return drawn.getvalue()

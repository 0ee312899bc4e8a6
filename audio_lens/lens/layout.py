"""The layout of a position axis: where a melody model's prefix ends and the music begins."""

from dataclasses import dataclass

from audio_lens.errors import InputError


@dataclass(frozen=True)
class Layout:
    """What lies where on the `pos` axis of a tensor.

    A melody model reads its conditions as a prefix of the music: chroma frames, then text
    tokens. Cross-attending models, and every step of a generation but the first, have none.
    The properties are slices (and an index) to put where the `pos` axis is.

    Example:
        >>> layout = Layout(n_chroma=235, n_text=7)
        >>> layout.text, layout.end_of_text, layout.audio
        (slice(235, 242, None), 241, slice(242, None, None))
    """

    n_chroma: int = 0
    n_text: int = 0
    pad: int = 0
    """Positions in front that belong to no one: rows with a longer prefix share the tensor."""

    @property
    def n_prefix(self) -> int:
        """Positions before the music."""
        return self.n_chroma + self.n_text

    @property
    def chroma(self) -> slice:
        """The melody's chroma frames."""
        return slice(self.pad, self.pad + self.n_chroma)

    @property
    def text(self) -> slice:
        """The text tokens."""
        return slice(self.pad + self.n_chroma, self.pad + self.n_prefix)

    @property
    def audio(self) -> slice:
        """The music: position 0, which holds BOS, and on."""
        return slice(self.pad + self.n_prefix, None)

    @property
    def end_of_text(self) -> int:
        """The last text token, and the last position before the music.

        Raises:
            InputError: there is no prefix.
        """
        if self.n_text == 0:
            raise InputError(
                "there is no text on this position axis: only melody models have a prefix, and "
                "a generation's tensors hold it at step 0 alone."
            )
        return self.pad + self.n_prefix - 1


NO_PREFIX = Layout()

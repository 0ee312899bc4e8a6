"""Facts of music that labelled clips ask about: pitches, intervals, modes, triads, meters.

The tasks and their classes are those of SynTheory (Wei et al., arXiv 2410.00872). On the grid
every pitch is a whole multiple of 25 Hz, so chords and intervals are whole-number ratios, and only
those whose classes share several roots are kept: else the root would tell the class.
"""

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES = {
    "ionian": (0, 2, 4, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "aeolian": (0, 2, 3, 5, 7, 8, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10),
}
#: Semitones above the root.
QUALITIES = {
    "major": (0, 4, 7),
    "minor": (0, 3, 7),
    "diminished": (0, 3, 6),
    "augmented": (0, 4, 8),
}
#: Name to mode and scale degrees of the roots: ten progressions in major, nine in minor.
PROGRESSIONS = {
    "I-IV-V-I": ("ionian", (1, 4, 5, 1)),
    "I-IV-vi-V": ("ionian", (1, 4, 6, 5)),
    "I-V-vi-IV": ("ionian", (1, 5, 6, 4)),
    "I-vi-IV-V": ("ionian", (1, 6, 4, 5)),
    "ii-V-I-vi": ("ionian", (2, 5, 1, 6)),
    "IV-I-V-vi": ("ionian", (4, 1, 5, 6)),
    "IV-V-iii-vi": ("ionian", (4, 5, 3, 6)),
    "V-IV-I-V": ("ionian", (5, 4, 1, 5)),
    "V-vi-IV-I": ("ionian", (5, 6, 4, 1)),
    "vi-IV-I-V": ("ionian", (6, 4, 1, 5)),
    "i-ii°-v-i": ("aeolian", (1, 2, 5, 1)),
    "i-III-iv-i": ("aeolian", (1, 3, 4, 1)),
    "i-iv-v-i": ("aeolian", (1, 4, 5, 1)),
    "i-VI-III-VII": ("aeolian", (1, 6, 3, 7)),
    "i-VI-VII-i": ("aeolian", (1, 6, 7, 1)),
    "i-VI-VII-III": ("aeolian", (1, 6, 7, 3)),
    "i-VII-VI-iv": ("aeolian", (1, 7, 6, 4)),
    "iv-VII-i-i": ("aeolian", (4, 7, 1, 1)),
    "VII-VI-VII-i": ("aeolian", (7, 6, 7, 1)),
}
#: One bar of strokes: D on the downbeat, B on other beats, s on subdivisions.
METERS = {
    "2/2": "DsBs",
    "2/4": "DB",
    "3/4": "DBB",
    "3/8": "Dss",
    "4/4": "DBBB",
    "6/8": "DssBss",
    "9/8": "DssBssBss",
    "12/8": "DssBssBssBss",
}

#: Over the root, as (numerator, denominator); denominators divide 4, so every 100 Hz is a root.
GRID_INTERVALS = {"5/4": (5, 4), "3/2": (3, 2), "7/4": (7, 4), "2/1": (2, 1)}
GRID_INTERVAL_ROOTS = (100, 200, 300, 400, 500, 600, 700, 800, 900)
#: Degrees of the overtone scale on 200 Hz, in eighths of the root.
GRID_DEGREES = {
    "1/1": 8, "9/8": 9, "5/4": 10, "11/8": 11, "3/2": 12, "13/8": 13, "7/4": 14, "15/8": 15,
}  # fmt: skip
#: In twelfths of the root: pure thirds and fifths where they share a root, near ones where not.
GRID_QUALITIES = {
    "major": (12, 15, 18),
    "minor": (12, 14, 18),
    "diminished": (12, 14, 17),
    "augmented": (12, 15, 19),
}
GRID_CHORD_ROOTS = (300, 600, 900, 1200)
#: In eighths of the key: chords of pure thirds and fifths (4:5:6 and 10:12:15).
GRID_CHORDS = {"I": (8, 10, 12), "iii": (10, 12, 15), "V": (12, 15, 18)}
GRID_PROGRESSIONS = (
    "I-iii-V-I", "I-V-iii-I", "I-V-I-iii", "iii-V-I-V", "iii-I-V-I", "V-I-iii-V", "V-iii-I-V",
    "V-iii-V-I",
)  # fmt: skip
GRID_KEYS = (200, 400, 600, 800)


def pitch_hertz(semitones: int, octave: int) -> float:
    """Hz of a pitch so many semitones above the C of an octave; A of octave 4 is 440 Hz.

    >>> round(pitch_hertz(0, 4), 2), pitch_hertz(9, 4), pitch_hertz(21, 4)
    (261.63, 440.0, 880.0)
    """
    return float(440 * 2 ** ((semitones - 9) / 12 + octave - 4))


def mode_step(mode: str, degree: int) -> int:
    """Semitones of a scale degree above the tonic; degrees count from 1 and may pass the octave.

    >>> mode_step("dorian", 3), mode_step("dorian", 8), mode_step("ionian", 9)
    (3, 12, 14)
    """
    steps = MODES[mode]
    return steps[(degree - 1) % 7] + 12 * ((degree - 1) // 7)


def inverted(chord: tuple[float, ...], inversion: int) -> tuple[float, ...]:
    """The chord with its lowest `inversion` tones an octave up; tones in Hz, low to high.

    >>> inverted((200.0, 250.0, 300.0), 1)
    (250.0, 300.0, 400.0)
    """
    return chord[inversion:] + tuple(2 * tone for tone in chord[:inversion])

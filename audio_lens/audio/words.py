"""Words that are heard: matched prompts for the recipes, neutral prompts, and training captions.

Everything here is plain data and pure functions. A *pole prompt* differs from its partner in one
word only, so that whatever differs between the two poles is the word and nothing else. Captions
for training are built from the same instruments, genres, word pairs and templates; what training
never sees are the *combinations* of instrument, genre and template that the pole prompts use.
"""

from collections.abc import Collection
from dataclasses import dataclass

INSTRUMENTS = (
    "piano",
    "acoustic guitar",
    "electric guitar",
    "violin",
    "cello",
    "flute",
    "trumpet",
    "saxophone",
    "marimba",
    "organ",
)
GENRES = (
    "pop",
    "rock",
    "jazz",
    "folk",
    "funk",
    "soul",
    "country",
    "Latin",
    "classical",
    "electronic",
)
#: Words that training knows but no pole prompt uses: neutral prompts draw on them.
EXTRA_INSTRUMENTS = ("clarinet", "synthesizer")
EXTRA_GENRES = ("blues", "reggae")

#: (fast, slow): the positive pole comes first.
TEMPO_PAIRS = (
    ("fast", "slow"),
    ("very fast", "very slow"),
    ("quick", "leisurely"),
    ("rapid", "sluggish"),
    ("brisk", "dragging"),
    ("speedy", "plodding"),
    ("swift", "lumbering"),
    ("fast-paced", "slow-paced"),
    ("racing", "crawling"),
    ("presto", "largo"),
)
#: (bright, dark): the positive pole comes first.
TIMBRE_PAIRS = (
    ("bright", "dark"),
    ("very bright", "very dark"),
    ("bright-sounding", "dark-sounding"),
    ("brilliant", "dull"),
    ("crisp", "muffled"),
    ("sparkling", "murky"),
    ("glassy", "woolly"),
    ("clear", "muddy"),
    ("treble-heavy", "bass-heavy"),
    ("sharp", "rounded"),
)
_PAIRS = {"tempo": TEMPO_PAIRS, "timbre": TIMBRE_PAIRS}
#: The plainest pair of each concept, by its place: fast and slow, bright and dark.
CORE_PAIR = 0

#: Words that no prompt uses, and what they mean besides tempo or timbre: a direction made of them
#: would hold that too.
NOT_USED = {
    "calm": ("energy", "mood"),
    "gentle": ("level", "energy"),
    "relaxed": ("energy", "mood"),
    "lively": ("energy", "mood"),
    "energetic": ("energy", "level"),
    "upbeat": ("mood", "energy"),
    "warm": ("mood",),
    "mellow": ("mood", "level"),
    "soft": ("level", "the other concept"),
    "harsh": ("level", "mood"),
    "loud": ("level",),
    "happy": ("mood", "the other concept"),
    "sad": ("mood", "the other concept"),
}
#: Genres that no prompt uses, because they imply a pole: a march has its tempo, a lullaby both.
GENRES_NOT_USED = (
    "techno",
    "punk",
    "metal",
    "drum and bass",
    "ballad",
    "ambient",
    "lullaby",
    "lo-fi",
    "waltz",
    "march",
)

#: First and last seed for each purpose, so that nothing is reported on what it was chosen on; None
#: is without end.
SEEDS: dict[str, tuple[int, int | None]] = {
    "dev": (0, 99),
    "test": (1000, 1099),
    "directions": (2000, None),
}
_PHRASES = {"tempo": "at a {} tempo", "timbre": "with a {} tone"}

#: The recipes' templates, all of which name drums or a beat; {pole} is empty in a neutral prompt.
TEMPLATES = (
    "{genre} music with {instrument}, bass and drums{comma_pole}",
    "A piece of {genre} music for {instrument} and a rhythm section{comma_pole}",
    "An instrumental {genre} track{space_pole}, led by {instrument} over a steady beat",
    "The {instrument} plays {article} {genre} melody over drums{comma_pole}",
    "{instrument} in {genre} style, accompanied by bass and drums{comma_pole}",
)
#: Templates that name no drums: for neutral prompts and for training.
PLAIN_TEMPLATES = (
    "{genre} music with {instrument}{comma_pole}",
    "A piece of {genre} music for {instrument}{comma_pole}",
    "An instrumental {genre} track{space_pole}, led by {instrument}",
    "The {instrument} plays {article} {genre} melody{comma_pole}",
    "{instrument} in {genre} style{comma_pole}",
)
#: Templates that only training uses, for clips without drums.
DRUMLESS_TEMPLATES = (
    "Solo {instrument} playing {genre} music without drums{comma_pole}",
    "{genre} music for {instrument} alone, no drums{comma_pole}",
)
#: Word order that people type: the pole's words stand before the noun.
FREE_TEMPLATES = (
    "{article} {adjectives}{genre} {instrument} melody",
    "{article} {adjectives}{genre} track with {instrument}",
    "{adjectives}{genre} {instrument}",
)


@dataclass(frozen=True)
class Context:
    """What a pair of pole prompts shares: instrument, genre, word pair and template."""

    instrument: str
    genre: str
    pair: int
    template: int


@dataclass(frozen=True)
class PolePrompts:
    """Matched prompts of a concept; `positive[i]` and `negative[i]` differ in one word."""

    concept: str
    contexts: tuple[Context, ...]
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class NeutralPrompt:
    """A prompt that names neither pole of any concept, with the cell it was drawn from."""

    text: str
    split: str
    drums: bool
    familiar: bool
    instrument: str
    genre: str


def pairs(concept: str) -> tuple[tuple[str, str], ...]:
    """Word pairs of a concept, positive pole first.

    Raises ValueError for a concept other than "tempo" and "timbre".
    """
    if concept not in _PAIRS:
        raise ValueError(f"unknown concept {concept!r}: expected one of {sorted(_PAIRS)}")
    return _PAIRS[concept]


def sentence(
    template: str,
    instrument: str,
    genre: str,
    tempo_word: str | None = None,
    timbre_word: str | None = None,
) -> str:
    """Fill one template; words left out leave no trace, and the first letter is a capital.

    >>> sentence(TEMPLATES[3], "organ", "electronic", tempo_word="slow")
    'The organ plays an electronic melody over drums, at a slow tempo'
    """
    words = {"tempo": tempo_word, "timbre": timbre_word}
    pole = " and ".join(_PHRASES[concept].format(word) for concept, word in words.items() if word)
    adjectives = "".join(f"{word} " for word in words.values() if word)
    follows_article = adjectives + genre if "{adjectives}" in template else genre
    text = template.format(
        instrument=instrument,
        genre=genre,
        article="an" if follows_article[0].lower() in "aeiou" else "a",
        adjectives=adjectives,
        comma_pole=f", {pole}" if pole else "",
        space_pole=f" {pole}" if pole else "",
    )
    return text[0].upper() + text[1:]


def contexts() -> tuple[Context, ...]:
    """The 100 contexts: every instrument with every genre, word pair and template balanced."""
    return tuple(
        Context(INSTRUMENTS[i], GENRES[j], pair=(i + j) % 10, template=(i + 3 * j) % 5)
        for i in range(10)
        for j in range(10)
    )


#: Places of forty contexts for a first look: every instrument, genre and word pair four times,
#: every template eight times.
FEW_CONTEXTS = tuple(sorted(10 * i + (i + shift) % 10 for i in range(10) for shift in range(4)))


def pole_prompts(concept: str, only: Collection[int] | None = None) -> PolePrompts:
    """The 100 matched prompt pairs of a concept ("tempo" or "timbre"), or those of some word pairs.

    only: places in `pairs(concept)`; each stands in ten contexts, with every instrument and
    every genre once. Raises ValueError for an unknown concept or place.

    >>> prompts = pole_prompts("tempo")
    >>> prompts.positive[0], prompts.negative[0]
    ('Pop music with piano, bass and drums, at a fast tempo', 'Pop music with piano, bass and \
drums, at a slow tempo')
    >>> len(pole_prompts("tempo", only=[CORE_PAIR]).positive)
    10
    """
    words = pairs(concept)
    if only is not None and (bad := sorted(set(only) - set(range(len(words))))):
        raise ValueError(f"no word pair {bad[0]!r}: expected places from 0 to {len(words) - 1}")
    kept = tuple(c for c in contexts() if only is None or c.pair in only)
    poles: tuple[list[str], list[str]] = ([], [])
    for context in kept:
        template = TEMPLATES[context.template]
        for prompts, word in zip(poles, words[context.pair], strict=True):
            filled = {f"{concept}_word": word}
            prompts.append(sentence(template, context.instrument, context.genre, **filled))
    return PolePrompts(concept, kept, tuple(poles[0]), tuple(poles[1]))


def robustness_sets(concept: str) -> dict[str, PolePrompts]:
    """Selections whose directions should agree with the whole set's, by name.

    "core" is the plainest word pair alone; "without ..." leaves one pair out. A direction that one
    pair makes or breaks is that pair's, not the concept's. Raises ValueError for an unknown
    concept.

    >>> sets = robustness_sets("timbre")
    >>> list(sets)[:2], len(sets["core"].positive), len(sets["without bright/dark"].positive)
    (['core', 'without bright/dark'], 10, 90)
    """
    words = pairs(concept)
    sets = {"core": pole_prompts(concept, only=[CORE_PAIR])}
    for place, pair in enumerate(words):
        others = [other for other in range(len(words)) if other != place]
        sets[f"without {'/'.join(pair)}"] = pole_prompts(concept, only=others)
    return sets


def is_held_out(instrument: str, genre: str, template: int) -> bool:
    """Whether a pole prompt uses this combination of `TEMPLATES`, so that training must not."""
    if instrument not in INSTRUMENTS or genre not in GENRES:
        return False
    return (INSTRUMENTS.index(instrument) + 3 * GENRES.index(genre)) % 5 == template


def _familiar_cell(drums: bool) -> list[tuple[str, str, int]]:
    """Ten (instrument, genre, template): known words in combinations no pole prompt uses."""
    offset = 1 if drums else 4
    cell = []
    for i, instrument in enumerate(INSTRUMENTS):
        j = (i + offset) % 10
        cell.append((instrument, GENRES[j], (i + 3 * j + 2) % 5))
    return cell


def _extra_cell(drums: bool) -> list[tuple[str, str, int]]:
    """Ten (instrument, genre, template) with an instrument or a genre no pole prompt uses."""
    shift = 0 if drums else 5
    cell = []
    for n in range(10):
        known = (n + shift) % 10
        if n < 5:
            cell.append((EXTRA_INSTRUMENTS[n % 2], GENRES[known], n % 5))
        else:
            cell.append((INSTRUMENTS[known], EXTRA_GENRES[n % 2], n % 5))
    return cell


def neutral_records() -> tuple[NeutralPrompt, ...]:
    """The 40 neutral prompts with their split and cell (familiar words x drums named).

    Each of the four cells of ten gives four prompts to "dev" and six to "test".
    """
    records = []
    for familiar, cell in ((True, _familiar_cell), (False, _extra_cell)):
        for drums in (True, False):
            templates = TEMPLATES if drums else PLAIN_TEMPLATES
            for n, (instrument, genre, template) in enumerate(cell(drums)):
                text = sentence(templates[template], instrument, genre)
                split = "dev" if n % 5 in (0, 3) else "test"
                records.append(NeutralPrompt(text, split, drums, familiar, instrument, genre))
    return tuple(records)


def neutral_prompts(split: str | None = None) -> tuple[str, ...]:
    """Neutral prompts: all 40, or the 16 of "dev" or the 24 of "test".

    Raises ValueError for another split.
    """
    if split not in (None, "dev", "test"):
        raise ValueError(f"unknown split {split!r}: expected 'dev', 'test' or None for all")
    return tuple(record.text for record in neutral_records() if split in (None, record.split))


def vocabulary() -> tuple[str, ...]:
    """Every word that pole prompts, neutral prompts or captions can hold, sorted, lower case."""
    pole_words = [word for table in _PAIRS.values() for pair in table for word in pair]
    names = [*INSTRUMENTS, *EXTRA_INSTRUMENTS, *GENRES, *EXTRA_GENRES, *pole_words]
    texts = [sentence(t, "piano", "pop", "fast", "bright") for t in all_templates()] + ["an and"]
    words = " ".join([*names, *texts]).lower().replace(",", " ").split()
    return tuple(sorted(set(words)))


def all_templates() -> tuple[str, ...]:
    """Every template of training, in the order that a caption's template index counts them."""
    return TEMPLATES + PLAIN_TEMPLATES + DRUMLESS_TEMPLATES + FREE_TEMPLATES


def caption(
    instrument: str,
    genre: str,
    template: int,
    tempo_word: str | None = None,
    timbre_word: str | None = None,
) -> str:
    """Training caption; `template` counts through `all_templates()`.

    Raises ValueError when the template does not exist or the combination is held out.
    """
    templates = all_templates()
    if not 0 <= template < len(templates):
        raise ValueError(f"template {template} does not exist: there are {len(templates)}")
    if is_held_out(instrument, genre, template):
        raise ValueError(
            f"{instrument!r}, {genre!r}, template {template} is held out for the pole prompts: "
            "draw another template"
        )
    return sentence(templates[template], instrument, genre, tempo_word, timbre_word)

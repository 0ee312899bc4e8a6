"""The model card, written from logs so that its numbers are the measured ones."""

from statistics import median

from audio_lens.recipes.study.choosing import Choice
from audio_lens.recipes.study.strengths import SIGNS

_CLASSES = {
    "toy": ("MusicgenForConditionalGeneration", "text that every block cross-attends to"),
    "toy-melody": (
        "MusicgenMelodyForConditionalGeneration",
        "chroma of a melody and text as a prefix in front of the music",
    ),
}
_HEAD = """# {name}

Results on this toy show that a tool works, not how MusicGen works. It is a MusicGen in shape
(transformers' own class, with {condition})
at a size that trains on two CPU cores, on synthesised clips whose tempo and brightness are known
exactly.

```python
from transformers import AutoTokenizer, {model}

model = {model}.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
text = tokenizer(["Slow dark jazz cello"], return_tensors="pt")
audio = model.generate(**text, do_sample=True, guidance_scale=3.0, top_k=250, max_new_tokens=403)
```

| part | shape |
|---|---|
| decoder | 5 layers, width 160, 5 heads, 4 codebooks of 256 entries, delays 0 to 3 |
| text encoder | T5, 2 layers, width 64; byte-level tokenizer that takes any text |
| codec | EnCodec, 16 kHz, 50 frames a second, one stride of 320, 24 filters |

Weights are stored as float16 and load as float32: they were rounded before anything was measured.
"""
_TAIL = """
## How it was taught, and what that means for findings

- Decoder and text encoder were trained together on nothing but codes and captions: no labels, no
  read-outs, nothing about directions or steering.
- The first codes of a window counted up to {opening:.0f} times as much, since only there the text
  alone can tell what comes.
- `training.json` has settings, losses and, every few hundred steps, what the words were worth:
  how many nats a code of the first two seconds costs more when a word says the opposite.

## Limits

- It knows the words of its training captions only; its configuration lists them as `vocabulary`.
  Other words are read byte by byte and mean nothing to it.
- Tuning is locked to multiples of 25 Hz, so it cannot be asked about notes, intervals, scales or
  chords of equal-tempered music: their twins on that grid are for it.
- Clips are ten seconds long; anything much longer is outside what it has seen.
- Synthesised data only: no recording of anyone's music was used.
"""
_MELODY_LIMIT = """\
- Its training began with the weights of `toy`, the cross-attention left out, and took a third of
  its steps. Going on from there was tried, for 2600 steps (1200 of 120 frames, 800 of 250, 600 of
  500, in float32, seed 1): melodies were then followed in 46 % of frames, timbre was told apart as
  before, but tempo in 89.8 % [86.4, 92.4], as more slow clips had no pulse (14 % against 8 %). It
  was left out. The tempo bar stays missed; most of what misses it is slow clips without a pulse.
- Half of training had a melody. Rows were never padded: transformers does not
  mask padding in a prefix, so give it prompts one at a time or of equal length; a lens does.
"""


def _met(value: float, bar: float, *, most: bool = False) -> str:
    return "met" if (value <= bar if most else value >= bar) else "**missed**"


def _codec_table(codec: dict) -> list[str]:
    slope, tempo = codec["centroid_slope"], codec["tempo_within_4_percent"]
    median, high = (codec[f"centroid_{n}_error_semitones"] for n in ("median", "p95"))
    level = codec["level_within_1_db"]
    in_range = "met" if 0.9 <= slope <= 1.1 else "**missed**"
    return [
        "| codec, out against in | | bar | |",
        "|---|---|---|---|",
        f"| slope of log-centroid out on in | {slope:.2f} | 0.9 to 1.1 | {in_range} |",
        f"| correlation | {codec['centroid_correlation']:.3f} | | |",
        f"| centroid error, median | {median:.1f} st | 1.5 | {_met(median, 1.5, most=True)} |",
        f"| centroid error, 95th percentile | {high:.1f} st | 4 | {_met(high, 4, most=True)} |",
        f"| tempo within 4 % | {tempo:.1%} of drummed clips | 95 % | {_met(tempo, 0.95)} |",
        f"| level within 1 dB | {level:.1%} of clips | 95 % | {_met(level, 0.95)} |",
    ]  # fmt: skip


def _obedience_row(name: str, row: dict) -> str:
    low, bpm, high = row["bpm_quartiles"]
    dark, centroid, bright = row["centroid_quartiles_hz"]
    return (
        f"| {name} | {bpm:.0f} ({low:.0f} to {high:.0f}) | {row['bpm_nan_rate']:.0%} | "
        f"{centroid:.0f} ({dark:.0f} to {bright:.0f}) | {row['silent_clips']:.0%} | "
        f"{row['level_median_lufs']:.1f} |"
    )


def _obedience(found: dict) -> list[str]:
    rows = {name: row for name, row in found.items() if not name.endswith("told apart")}
    n_clips = rows["tempo +"]["clips"]
    lines = [
        f"Generated clips: {n_clips} a pole, of prompts in combinations of words that training",
        f"never saw, and {rows['neutral']['clips']} of neutral test prompts; median and quartiles.",
        "The sign + stands for fast and bright, - for slow and dark.",
        "",
        "| prompts | pulse, BPM | no pulse | centroid, Hz | silent | level, LUFS |",
        "|---|---|---|---|---|---|",
        *(_obedience_row(name, row) for name, row in rows.items()),
        "",
        "| poles told apart | at | balanced accuracy [95 %] | bar | |",
        "|---|---|---|---|---|",
    ]
    units = {"tempo": "BPM", "timbre": "Hz"}
    for concept, unit in units.items():
        apart = found[f"{concept} told apart"]
        met = apart["balanced_accuracy"] >= 0.95 and apart["low"] >= 0.92
        lines.append(
            f"| {concept} | {apart['boundary']:.0f} {unit} | {apart['balanced_accuracy']:.1%} "
            f"[{apart['low']:.1%}, {apart['high']:.1%}] | 95 %, from 92 % | "
            f"{'met' if met else '**missed**'} |"
        )
    return lines


def _melody(found: dict | None) -> list[str]:
    if found is None:
        return []
    return [
        "",
        f"Melodies, {found['clips']} held-out clips under neutral prompts: how often a frame's",
        "loudest pitch class is that of the melody, beside the melodies of the other clips.",
        "",
        "| clips | own melody | others' |",
        "|---|---|---|",
        *(
            f"| {said} | {found[name]:.0%} | {found[f'{name}, others']:.0%} |"
            for name, said in (
                ("with", "played to the melody"),
                ("without", "played without it"),
                ("codec", "the melody itself, through the codec: the ceiling"),
            )
        ),
    ]


def _steering(found: dict | None) -> list[str]:
    if found is None:
        return ["", "How far steering moves it has not been measured yet."]
    settings, *others = (dict(report["settings"]) for report in found.values())
    control_seeds = [each.pop("control_seeds") for each in (settings, *others)]
    if any(other != settings for other in others):
        raise ValueError("the studies of a card must have heard as much: run them alike.")
    lines = [
        "",
        f"Steered by the difference in means of the matched prompts ({settings['pool']}). Way and",
        "coefficient were chosen on dev prompts; these are "
        f"{settings['test_prompts']} test prompts with {settings['test_seeds']} seeds each, "
        f"{settings['seconds']:.0f} s a clip.",
        *(_tried(concept, report["choice"]) for concept, report in found.items()),
        *(f"To keep to a budget: {cut}." for cut in settings["dropped"]),
        "",
        "| steered | way | coefficient | change | prompted | share reached [95 %] | guard passed "
        "| no value | at the edge | random over it, 95th percentile | other seeds alone | bars |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (concept, report), n_seeds in zip(found.items(), control_seeds, strict=True):
        way = Choice.of_json(report["choice"]).way
        for sign in SIGNS:
            row = report[sign]
            shares = row["random_shares"]
            random = ", ".join(f"{share:.0%} {kind}" for kind, share in shares.items())
            met = (
                row["reached"] >= 0.6
                and row["low"] >= 0.4
                and max(shares.values()) <= 0.25
                and row["usable"]
            )
            verdict = "met" if len(shares) > 1 else "met so far: isotropic ones alone"
            lines.append(
                f"| {concept} {sign} | {way} | {row['coefficient']:+.3g} | {row['change']:+.2f} "
                f"{report['unit']} | {row['prompted']:+.2f} | {row['reached']:.0%} "
                f"[{row['low']:.0%}, {row['high']:.0%}] | {row['passed']:.0%} | "
                f"{row['no_value']:.0%} | {_edge(row)} | "
                f"{random} ({n_seeds} of the seeds) "
                f"| {row['seeds_alone']:.0%} of it | "
                f"{verdict if met else '**missed**'} |"
            )
    return [
        *lines,
        "",
        '"prompted" is the change from the unsteered clips of these test prompts and seeds to',
        'clips prompted at the pole; in "share reached" a clip without a value is no change.',
        '"At the edge": the change on clips that have a value at the last tested coefficient where',
        "nine clips in ten still pass the guard and hardly more lack a value than unsteered;",
        '"nowhere": those nearest to 0, or the unsteered clips themselves, do not.',
        "",
        "Bars: 60 % of the prompted shift or more with a lower bound of 40 %, inside the range",
        "around 0 where nine clips in ten pass the guard and hardly more lack a value than",
        f"unsteered; and the 95th percentile of {settings['random_draws']} random directions of",
        "each kind, as long, at most a quarter of the effect on the same clips (of the first",
        'seeds, as many as stand there). Isotropic ones point anywhere, "matched" ones where',
        'activations vary. "Other seeds alone": by how much the median over these prompts differs',
        "between unsteered clips of one choice of so many seeds and another (95th percentile). A",
        "random direction that makes other music of a prompt and moves nothing scatters so far;",
        "above a quarter, the last bar cannot be told from too few clips.",
        *_beside(found),
    ]


def _tried(concept: str, choice: dict) -> str:
    """What the way was chosen from, and how far it went; None is what could not be compared."""
    reached = [way["reached"] for way in choice["scan"] if way["reached"] is not None]
    return (
        f"For {concept}, {len(choice['scan'])} ways (site, strategy, layer, branch) were tried on "
        f"dev prompts. At equal\ndistortion, which {len(reached)} of them come to, the best "
        f"reached {max(reached):.0%} of the prompted shift, half of\nthem {median(reached):.0%} or "
        "more."
    )


def _beside(found: dict) -> list[str]:
    """What else moved with the effect, and what the words alone move."""
    lines = [
        "",
        "What else moved at these coefficients, and in brackets what the pole's words move:",
        "",
        "| steered | register, semitones | flatness | level, LU |",
        "|---|---|---|---|",
    ]
    for concept, report in found.items():
        for sign in SIGNS:
            beside = report[sign]["beside"]
            cells = [
                f"{steered:{form}} ({asked:{form}})"
                for (steered, asked), form in (
                    (beside["register"], "+.1f"),
                    (beside["flatness"], "+.4f"),
                    (beside["loudness"], "+.1f"),
                )
            ]
            lines.append(f"| {concept} {sign} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "A higher register raises the centroid, and so does noise, which flatness tells: part of",
        "what brightness gains may be theirs.",
    ]


def _edge(row: dict) -> str:
    return f"{row['edge_change']:+.2f} at {row['edge']:+.3g}" if row["edge"] else "nowhere"


def write(name: str, log: dict, found: dict) -> str:
    """Markdown of the card of toy `name`, from its training log and evaluation."""
    model, condition = _CLASSES.get(name, _CLASSES["toy"])
    settings = log["settings"]
    steps = sum(phase["steps"] for phase in settings["phases"])
    windows = ", then ".join(f"{phase['frames'] / 50:g}" for phase in settings["phases"])
    lines = [
        _HEAD.format(name=name, model=model, condition=condition),
        "## Measured",
        "",
        f"Codec, on {found['codec']['clips']} clips it was not trained on:",
        "",
        *_codec_table(found["codec"]),
        "",
        *_obedience(found["obedience"]),
        *_melody(found.get("melody")),
        *_steering(found.get("steering")),
        "",
        f"Trained on {log['clips']} clips of {log['clip_seconds']:.0f} s, the decoder in windows "
        f"of\n{windows} s: codec "
        f"{log['codec']['seconds'] / 60:.0f} minutes, {steps} decoder steps in "
        f"{log['seconds'] / 60:.0f} minutes, two CPU",
        "cores. The scripts are `python -m audio_lens.toy.train` and",
        "`python -m audio_lens.toy.evaluate`.",
        _TAIL.format(opening=1 + settings["opening_weight"]).rstrip("\n"),
    ]
    return "\n".join(lines) + "\n" + (_MELODY_LIMIT if name == "toy-melody" else "")

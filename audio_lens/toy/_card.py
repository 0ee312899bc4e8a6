"""The model card, written from the training log so that its numbers are the measured ones."""

_HEAD = """# The toy MusicGen

Results on this toy show that a tool works, not how MusicGen works. It is a MusicGen in shape
(transformers' own class: text encoder, decoder with cross-attention, EnCodec) at a size that
trains on two CPU cores, on synthesised clips whose tempo and brightness are known exactly.

```python
from transformers import MusicgenForConditionalGeneration, MusicgenProcessor

model = MusicgenForConditionalGeneration.from_pretrained(folder)
processor = MusicgenProcessor.from_pretrained(folder)
text = processor(text=["Slow dark jazz cello"], padding=True, return_tensors="pt")
audio = model.generate(**text, do_sample=True, guidance_scale=3.0, top_k=250, max_new_tokens=403)
```

| part | shape |
|---|---|
| decoder | 5 layers, width 128, 4 heads, 4 codebooks of 256 entries, delays 0 to 3 |
| text encoder | T5, 2 layers, width 64; byte-level tokenizer that takes any text |
| codec | EnCodec, 16 kHz, 50 frames a second, one stride of 320, 32 filters |

Weights are stored as float16 and load as float32: they were rounded before anything was measured.
"""

_TAIL = """
## How it was taught, and what that means for findings

- The text encoder was first taught to tell a caption's tempo word, timbre word, instrument and
  genre from its mean state.
- While it learned codes, the decoder was also asked, by linear read-outs of its last hidden
  state, for beat phase, tempo and brightness. Read-outs and classifiers were thrown away, but
  that these things are linearly present in the toy is by design and no finding. Nothing was asked
  of the layers between, and nothing about directions or steering.
- Codes of the first frames counted up to nine times as much, since only there the text alone can
  tell what comes.

## Limits

- It knows the words of its training captions only (`audio_lens.audio.words.vocabulary()`).
  Other words are read byte by byte and mean nothing to it.
- Tuning is locked to multiples of 25 Hz, so it cannot be asked about keys or intervals of
  equal-tempered music.
- Clips are ten seconds long; anything much longer is outside what it has seen.
- Synthesised data only: no recording of anyone's music was used.
"""


def _codec_table(measured: dict) -> list[str]:
    rows = [
        ("slope of log-centroid out on in", f"{measured['centroid_slope']:.2f}"),
        ("correlation", f"{measured['centroid_correlation']:.3f}"),
        (
            "centroid error, median and 95th percentile",
            f"{measured['centroid_median_error_semitones']:.1f} and "
            f"{measured['centroid_p95_error_semitones']:.1f} semitones",
        ),
        ("tempo within 4 %", f"{measured['tempo_within_4_percent']:.1%} of drummed clips"),
        ("level within 1 dB", f"{measured['level_within_1_db']:.1%} of clips"),
    ]
    return ["| codec, out against in | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]


def _obedience_row(name: str, row: dict) -> str:
    low, high = row["bpm_quartiles"]
    dark, bright = row["centroid_quartiles_hz"]
    return (
        f"| {name} | {row['bpm_median']:.0f} ({low:.0f} to {high:.0f}) | "
        f"{row['bpm_nan_rate']:.0%} | {row['centroid_median_hz']:.0f} ({dark:.0f} to "
        f"{bright:.0f}) | {row['silent_clips']:.0%} | {row['level_median_lufs']:.1f} |"
    )


def write(log: dict) -> str:
    """Markdown of the card for one training log."""
    codec, stages = log["codec"], log["language_model"]
    steps = sum(phase["steps"] for stage in stages for phase in stage["settings"]["phases"])
    minutes = sum(stage["seconds"] for stage in stages) / 60
    last = next(iter(log["measured"].values()))["clips"]
    return "\n".join(
        [
            _HEAD,
            "## Measured",
            "",
            f"Codec, on {codec['measured']['clips']} clips it was not trained on:",
            "",
            *_codec_table(codec["measured"]),
            "",
            f"Generated clips of 8 s, {last} prompts a row in combinations of words that training",
            "never saw (+ is fast or bright, - is slow or dark); median and quartiles:",
            "",
            "| prompts | pulse, BPM | no pulse | centroid, Hz | silent | level, LUFS |",
            "|---|---|---|---|---|---|",
            *(_obedience_row(name, row) for name, row in log["measured"].items()),
            "",
            f"Trained on {log['clips']} clips of {log['clip_seconds']:.0f} s: codec "
            f"{codec['seconds'] / 60:.0f} minutes, {steps} decoder steps in {minutes:.0f} minutes,",
            "two shared CPU cores. The log, stage by stage, is `training.json`. The script is",
            "`python -m audio_lens.toy.train`; its defaults put every lesson into one run.",
            _TAIL,
        ]
    )

# %% [markdown]
# # 7. Your own concept
#
# Tempo and timbre ship with the product. Here you make a third: which words, which prompts, which ear, and from
# there to a report with players, curves and sentences, in one folder that you can send to somebody.
#
# After it you can
#
# - write a concept in ten lines: two poles, neutral prompts, a measure;
# - say when a set of prompts is matched, and test whether the poles are audible at all;
# - plan a study before you pay for it;
# - run it stage by stage, and go on after an interrupt;
# - read its report, and tell what it claims from what it only shows;
# - make a blind listening test of it.
#
# It takes about 45 minutes with the exercises. It needs no network and no GPU; all cells together compute for
# two to three minutes on a laptop.
#
# **The warning again.** The model is a *toy*: it knows ten instruments, ten genres, and words for tempo and tone.
# A concept that it was never taught will not be audible, and the study will say so.

# %%
from pathlib import Path

from IPython.display import display

from audio_lens import AudioLens
from audio_lens.recipes import Concept
from audio_lens.recipes.study.settings import StudySettings

lens = AudioLens.from_pretrained("toy")

# %% [markdown]
# ## 1. Ten prompts a pole
#
# The toy knows a few words for the tone of an instrument. Take one pair of them: *sparkling* against *murky*. A
# pair of prompts differs in that word and nothing else, and the pairs vary over what should not matter: genre,
# instrument and wording.

# %%
players = [
    ("pop", "piano"),
    ("rock", "organ"),
    ("jazz", "cello"),
    ("folk", "flute"),
    ("funk", "marimba"),
]
patterns = (
    "{} music with {}, bass and drums, with a {{}} tone",
    "A piece of {} music for {} and a rhythm section, with a {{}} tone",
)
contexts = [pattern.format(*player) for pattern in patterns for player in players]
sparkling, murky = (
    tuple(text.format(word) for text in contexts) for word in ("sparkling", "murky")
)
neutral = tuple(
    f"{genre} music with {instrument}, bass and drums"
    for genre, instrument in (
        ("Soul", "piano"), ("Country", "violin"), ("Latin", "trumpet"), ("Jazz", "organ"),
        ("Pop", "cello"), ("Rock", "saxophone"), ("Folk", "marimba"), ("Funk", "flute"),
        ("Electronic", "acoustic guitar"), ("Classical", "electric guitar"), ("Blues", "clarinet"),
        ("Reggae", "synthesizer"),
    )
)  # fmt: skip
print(len(sparkling), "pairs;", len(neutral), "neutral prompts")

# %% [markdown]
# ## 2. An ear
#
# What should change? Sparkle is high up: take the roll-off, the frequency below which 85 % of the magnitude lies. It
# is one of the measures that ship; a measure of your own is a function of `(audio, sample_rate)`, given as
# `own_measure=`. Frequencies are heard by ratio, so changes are counted in semitones, twelve to a doubling.

# %%
sparkle = Concept(
    name="sparkle",
    positive=sparkling,
    negative=murky,
    neutral=neutral,
    heard="rolloff",
    unit="Hz",
    per_doubling=12,
    change_unit="semitones",
    poles=("murkier", "more sparkling"),
)
print("chosen on:", sparkle.dev)
print("reported on:", sparkle.test)

# %% [markdown]
# Some neutral prompts are set apart for choosing. If you do not say which (`dev=`), four in ten are drawn. The
# others are tested prompt by prompt: n prompts cannot give a p below 2 / 2**n, and two signs are corrected for, so
# keep seven for the test at least.
#
# ## 3. What it costs
#
# A study makes many clips. `plan` says how many and how long it takes here, before anything is kept (it makes one short batch, to see how fast your machine is); with a
# budget in hours it also says what it would leave out.

# %%
whole = sparkle.study(lens, "whole")
print(whole.plan())

# %% [markdown]
# Too long for a lesson. A small one:

# %%
small = StudySettings(
    seconds=3.0, rows_at_once=8, pairs=10, direction_seconds=3.0, normal_clips=8, pole_seeds=1,
    sites=("resid_post",), strategies=("one_to_one",), branches=("both",), scan_prompts=3,
    scan_nats=(0.1,), nats=(0.05, 0.2), finalists=1, dev_seeds=1,
    compare_nats=(0.05, 0.2), compare_seeds=1, doses=(0.5, 1.0), test_seeds=1,
    random_draws=2, distortion_clips=2, patched_clips=2, patched_seconds=1.0,
    guidance_tried=(6.0,), text_pairs=1, text_steps=(0.0, 1.0),
)  # fmt: skip
study = sparkle.study(lens, "study", settings=small, progress=False)
print(study.plan())

# %% [markdown]
# ## 4. Are the poles audible?
#
# The first question, before any direction: does the model do it when asked in words? If not, there is nothing to
# steer, or your ear does not hear it.

# %%
for name, found in study.poles.values.items():
    print(f"{name:<8} {found:.1f}")
print("audible:", study.poles.audible)

# %% [markdown]
# ## 5. Stage by stage
#
# Each stage is an attribute: it runs when you first ask for it, keeps what it heard in the folder, and knows
# which stages it needs. Interrupt the kernel in the middle, run the cell again, and it goes on.

# %%
print(study.choice.way, dict(study.choice.coefficients))

# %%
display(study.plot())

# %%
study.layers.to_dataframe().round(2)

# %% [markdown]
# The same folder, opened anew, hears nothing again:

# %%
again = sparkle.study(lens, "study", settings=small, progress=False)
print(again.choice == study.choice)

# %% [markdown]
# With other settings it is another study, and the folder is refused: numbers of two experiments never mix.
#
# ## 6. The report
#
# Sentences that are computed from the numbers; where the clips are too few, they say so. A coefficient is *usable*
# (white in the picture) only if nine clips in ten are music with a lower bound of 80 %, which fewer than sixteen
# clips cannot show. Here there are seven at each: all of the picture is grey, and nothing is said of a trend or of
# strategies compared.

# %%
for sentence in study.findings():
    print("-", sentence)
page = study.report()
print(
    page,
    f"{page.stat().st_size / 1e6:.1f} MB:",
    ", ".join(sorted(p.name for p in Path("study").iterdir())),
)

# %% [markdown]
# `report.html` is one file that needs nothing else: open it in a browser, send it to somebody. Unsteered and
# steered clips stand side by side, at the loudness they have. Here is one of them:

# %%
row = next(r for r in study.rows if r["coefficient"] == study.choice.coefficients["+"])
print(row["prompt"], f"{row['change']:+.1f} semitones")
display(study.clip(row))

# %% [markdown]
# ## 7. Other ears
#
# A measure is not a listener. `listening_test` writes a page with pairs of clips in random order: steered against
# twin, random direction against twin, the two poles in words, and a clip against itself. The key lies beside it in
# `listen_key.json`: keep that, and do not run this cell again once the page is sent, since votes belong to one page.
# Listeners send back a file, and `study.votes(file)` reads it.

# %%
print(study.listening_test(trials=2))

# %% [markdown]
# ## 8. Exercises
#
# **Exercise 1** (easy, 10 minutes). Ask for a concept that the toy was never taught to play: *flute* against
# *cello*, by `register`, the pitch around which the music lies. What does the study say, and when?
#
# <details><summary>Solution</summary>
#
# ```python
# from audio_lens import InputError
#
# flute, cello = (
#     tuple(f"{genre} music with {name}, bass and drums" for genre, _ in players)
#     + (f"An instrumental pop track, led by {name} over a steady beat",)
#     for name in ("flute", "cello")
# )
# height = Concept(
#     name="height", positive=flute, negative=cello, neutral=neutral, heard="register",
#     unit="semitones", poles=("lower", "higher"),
# )
# study = height.study(lens, "height", settings=small, progress=False)
# print(study.poles.shifts)
# try:
#     study.choice
# except InputError as error:
#     print(error)
# ```
#
# Where a pole is not heard when it is asked for in words, there is no yardstick, and nothing is chosen. (If it is
# heard by chance on so few clips, more prompts will tell.)
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 2** (medium, 20 minutes). Use an ear of your own: the share of energy below 200 Hz.
#
# <details><summary>Solution</summary>
#
# ```python
# import numpy as np
#
#
# def low_share(audio, sample_rate):
#     power = np.abs(np.fft.rfft(np.atleast_2d(audio).mean(0))) ** 2
#     low = np.fft.rfftfreq(np.atleast_2d(audio).shape[1], 1 / sample_rate) < 200
#     return float(power[low].sum() / power.sum()) if power.sum() else float("nan")
#
#
# deep = Concept(
#     name="deep", positive=murky, negative=sparkling, neutral=neutral, heard="share below 200 Hz",
#     own_measure=low_share, unit="share", poles=("thinner", "deeper"),
# )
# print(deep.study(lens, "deep", settings=small, progress=False).poles.values)
# ```
# </details>

# %%
# your code

# %% [markdown]
# ## What you did, and what it does not show
#
# You went from ten prompts a pole to a report. On the toy it is an exercise; the same ten lines run on
# `facebook/musicgen-small`, with more hours. A concept is as good as its pairs and its ear, and both are yours.
#
# More: [tempo and timbre](../docs/tempo-and-timbre.md), [measuring](../docs/measuring.md).

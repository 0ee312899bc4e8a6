# %% [markdown]
# # 3. Fast against slow
#
# If the model can be told to play fast, something in it must be different when it does. In this notebook
# you look for that difference as a *direction*: one vector that points from slow to fast. You will take
# it in several ways, ask how many prompts it needs, hold it against chance, and put a *probe* beside it.
#
# After it you can
#
# - take a direction from matched prompts, and say what matched means;
# - tell what a word does from what fast music is like;
# - say how many prompts are enough, without fooling yourself;
# - fit a probe whose score means something, and spot one whose score does not;
# - hold a direction against controls of the same length, and take a concept away altogether.
#
# It takes about an hour with the exercises. It needs no network and no GPU; all cells together compute for
# about two minutes on a laptop.
#
# **The warning again.** The model is a *toy*. The methods are those used on MusicGen; the findings are the
# toy's.

# %%
import numpy as np
import torch
from IPython.display import display

from audio_lens import AudioLens, Probe, probe_sweep
from audio_lens.analysis.collect import collect
from audio_lens.analysis.controls import controls
from audio_lens.analysis.directions import cosine_table
from audio_lens.analysis.erasure import Eraser
from audio_lens.analysis.poles import gather_poles, ways_of_taking
from audio_lens.analysis.stability import stability
from audio_lens.audio import clips as datasets
from audio_lens.audio import words
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.testing import random_musicgen

lens = AudioLens.from_pretrained("toy")
torch.set_grad_enabled(False)

# %% [markdown]
# ## 1. Matched prompts
#
# Two prompts that differ in tempo, instrument and mood differ in all three inside the model, too. So the
# prompts come in pairs that differ in one word and are balanced over everything else: ten instruments, ten
# genres, ten pairs of words, five templates.

# %%
tempo = words.pole_prompts("tempo")
for fast, slow in list(zip(tempo.positive, tempo.negative, strict=True))[:3]:
    print(fast, "  |  ", slow)
positive, negative = tempo.positive[::5], tempo.negative[::5]
print(len(positive), "pairs are used here, of", len(tempo.positive))

# %% [markdown]
# Run them all and keep one vector per prompt and layer: the residual stream, averaged over the clip.

# %%
poles = gather_poles(lens, positive=positive, negative=negative, seconds=4, progress=False)
faster = poles.difference_in_means()
print(faster)

# %% [markdown]
# The last column is a yardstick: how long is the direction beside a usual activation? A vector of a tenth
# of the usual length, added at every step, is not small.
#
# ## 2. What the word does, and what fast music is like
#
# Each pole just now played its own music. So the difference holds two things at once: what the *word*
# does, and what it is like to *hear* fast music. They need not be the same vector. Take the direction
# again with both poles reading the same codes, and from the first step, in front of any music.

# %%
ways = ways_of_taking(lens, positive=positive, negative=negative, seconds=4, seed=1, progress=False)
print(cosine_table(ways).round(2).to_string(index=False))

# %% [markdown]
# A cosine of 1 is the same direction, 0 has nothing in common. Random vectors of this width have cosines
# of about 0.08 either way. Which layers agree? Which would you trust to *make* music fast, which to *tell*
# whether it is?
#
# ## 3. How many prompts are enough?
#
# A tempting test: take the direction from five pairs, and compare it with the direction from all pairs.
# It always looks good, since the five are among all. Compare it with the direction from the *others*.

# %%
found = stability(poles, sizes=[1, 2, 5, 10])
display(found.plot())
for layer in range(lens.cfg.n_layers):
    low, middle, high = found.interval(("resid_post", layer))[-1]
    print(f"layer {layer}: ten pairs against the other ten, {middle:.2f} [{low:.2f}, {high:.2f}]")

# %% [markdown]
# ## 4. Is it more than chance?
#
# Twenty prompts against twenty others always differ by *something*. How long would the difference be if
# the labels meant nothing? Exchange fast and slow in random pairs, and take the direction again.

# %%
pairs = poles.pairs
signs = torch.randint(2, (200, len(positive)), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
for layer in range(lens.cfg.n_layers):
    rows = pairs["resid_post", layer]
    chance = (signs @ rows / len(rows)).norm(dim=1)
    real = rows.mean(0).norm()
    p = (1 + int((chance >= real).sum())) / (1 + len(chance))
    print(f"layer {layer}: {real:.2f} long, by chance {chance.mean():.2f}, p = {p:.3f}")

# %% [markdown]
# These vectors are also what steering must be compared with: a push of the same length that means
# nothing. `controls` makes them, and others: drawn evenly from all of space, and drawn like the
# activations themselves.

# %%
made = controls(faster, n=20, poles=poles)
for kind, drawn in made.items():
    cosines = [abs(control.cosine(faster)["resid_post", 3]) for control in drawn]
    print(f"{kind:>10}: |cosine| with the direction at layer 3, {np.mean(cosines):.2f} on average")

# %% [markdown]
# ## 5. A probe
#
# A probe asks the other way round: given an activation, can you tell the label? The clips here are
# synthesised, so the label is exact: brightness, in dB per octave. Three fifths train, a fifth chooses how
# strongly to regularise, a fifth is scored, and no two parts share a value of the label.

# %%
data = datasets.brightness(100, seed=0, seconds=3.0, sample_rate=16_000, tuning="grid")
sweep = probe_sweep(lens, data, shuffles=5, progress=False)
untrained = random_musicgen(n_layers=5, d_model=160, n_heads=5)
baseline = probe_sweep(untrained, data, shuffles=5, progress=False)
display(sweep.plot(beside={"random weights": baseline}))
print(sweep.to_dataframe().round(2).to_string(index=False))

# %% [markdown]
# Look at the model with **random weights**. It was never trained, and yet a probe reads brightness from it.
# The label is in the codes already; any mixture of them keeps it. A probe's score says *the information is
# there*. It does not say that the model put it there, or uses it.
#
# ### A score that means nothing
#
# Now break it on purpose. Sixty clips, a label drawn by lot, twenty frames of each clip as examples.

# %%
rng = np.random.default_rng(0)
few = datasets.note(60, seed=1, seconds=2.0, sample_rate=16_000, tuning="grid")
frames = collect(lens, None, audio=few, layers=3, pool="every_step", progress=False)
x = frames.values["resid_post", 3][:, ::5][:, :20]
clip = np.repeat(np.arange(len(few)), x.shape[1])
lot = rng.integers(0, 2, len(few))[clip]
print("split by frame:", Probe.fit(x.flatten(0, 1), lot))
print("split by clip: ", Probe.fit(x.flatten(0, 1), lot, groups=clip))

# %% [markdown]
# Split by frame, the probe has met every test clip in training and knows it again. There was nothing to
# find. If a paper's score is high, look for how it was split.
#
# ## 6. Probe and direction
#
# Fit a probe to tell fast prompts from slow ones, and compare its direction with the difference in means.

# %%
texts = np.array([*positive, *negative])
label = np.repeat(["fast", "slow"], len(positive))
context = np.tile(np.arange(len(positive)), 2)  # both poles of a pair stay together
for layer in range(lens.cfg.n_layers):
    key = ("resid_post", layer)
    rows = torch.cat([poles.positive.values[key], poles.negative.values[key]])
    probe = Probe.fit(rows, label, groups=context, site="resid_post", layer=layer)
    same = probe.direction_of("fast").cosine(faster)[key]
    print(f"layer {layer}: accuracy {probe.score:.2f}, cosine with the difference {same:+.2f}")

# %% [markdown]
# Two vectors that both tell fast from slow, and they are far from parallel. The probe looks for whatever
# *separates*, so it turns away from directions in which activations vary anyway; the difference in means
# is where the poles *are*. For reading the one is better, for steering usually the other.
#
# ## 7. Take it away
#
# If tempo is erased from a layer, can the model still play fast? Fit an eraser to every step of some clips;
# then no linear probe can find the poles in that layer.

# %%
steps = collect(lens, list(texts), layers=3, pool="every_step", seconds=4, progress=False)
eraser = Eraser.fit(steps, label)
asked = [tempo.positive[2], tempo.negative[2]] * 4
seeds = [n // 2 for n in range(8)]
plain = lens.generate(asked, seconds=6, seed=seeds, progress=False)
with lens.intervene(*eraser.interventions(branch="both")):
    erased = lens.generate(asked, seconds=6, seed=seeds, progress=False)


def median_bpm(some):
    return np.nanmedian([pulse_bpm(clip.samples[0], clip.sample_rate) for clip in some])


for name, made_clips in (("as it is", plain), ("erased at layer 3", erased)):
    print(
        f"{name}: fast {median_bpm(made_clips[::2]):.0f}, slow {median_bpm(made_clips[1::2]):.0f} BPM"
    )
display(plain[0])
display(erased[0])

# %% [markdown]
# If fast is still fast, the later layers know it from elsewhere: from the prompt, which they read
# themselves, or from the music so far. Erasing a concept in one place does not remove it from the model.
#
# ## 8. Exercises
#
# **Exercise 1** (easy, 10 minutes). Take the direction of timbre, and its cosine with tempo's, layer by
# layer. Are the two concepts apart in this model?
#
# <details><summary>Solution</summary>
#
# ```python
# timbre = words.pole_prompts("timbre")
# brightness = gather_poles(
#     lens, positive=timbre.positive[::5], negative=timbre.negative[::5], seconds=4, progress=False
# ).difference_in_means()
# print(cosine_table({"tempo": faster, "timbre": brightness}).round(2).to_string(index=False))
# ```
#
# Compare with 0.08, what two random directions of this width have. Small cosines are needed if steering
# one is to leave the other alone; they are not enough.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 2** (medium, 15 minutes). Which heads know the brightness? Make a map, and compare it with the
# one of a model with random weights.
#
# <details><summary>Solution</summary>
#
# ```python
# heads = probe_sweep(lens, data, site="attn.z", by="head", shuffles=3, progress=False)
# display(heads.plot())
# none = probe_sweep(untrained, data, site="attn.z", by="head", shuffles=3, progress=False)
# gain = heads.parts("attn.z") - none.parts("attn.z")
# print("more than random weights, layer by head:")
# print(gain.round(2))
# ```
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 3** (harder, 15 minutes). Does the direction *read* tempo as well as it was made from it?
# Project held-out clips onto it, and see whether the projection goes with the tempo that is heard.
#
# <details><summary>Solution</summary>
#
# ```python
# neutral = words.neutral_prompts("dev")
# played = lens.generate(neutral, seconds=6, seed=list(range(len(neutral))), progress=False)
# bpm = np.array([pulse_bpm(clip.samples[0], clip.sample_rate) for clip in played])
# heard = collect(lens, neutral, audio=played, layers=[1, 3], progress=False)
# there = np.isfinite(bpm)
# for layer in (1, 3):
#     unit = faster.unit().layer(layer)
#     along = (heard.values["resid_post", layer] @ unit).numpy()
#     r = np.corrcoef(along[there], np.log2(bpm[there]))[0, 1]
#     print(f"layer {layer}: correlation with log tempo {r:+.2f} over {there.sum()} clips")
# ```
#
# A direction taken from words need not be the one that varies with tempo when nobody said a word.
# </details>

# %%
# your code

# %% [markdown]
# ## What you did, and what it does not show
#
# You took a direction, asked what it is made of, how stable it is and what chance would give; you fitted
# probes that mean something and one that does not. All this shows *where tempo can be read*. Whether the
# model *uses* it is a question for steering and for patching: notebook 4.
#
# More: [directions](../docs/directions.md), [probes](../docs/probes.md).

# %% [markdown]
# # 5. Turn the knob
#
# A direction that can be *read* is a claim. A direction that can be *turned* is an experiment: add it while
# the model plays, and listen. In this notebook you build a knob for brightness and one for tempo, ask where to
# put them, how far they can be turned, and what else they turn.
#
# After it you can
#
# - steer a clip beside its unsteered twin, and say what a twin is for;
# - choose layer, strategy and branch on some prompts and report on others;
# - draw a dose-response curve with its band, and see where it stops being music;
# - compare two ways of steering fairly;
# - turn a knob while the music plays, and turn two at once.
#
# It takes about an hour with the exercises. It needs no network and no GPU; all cells together compute for
# about two minutes on a laptop.
#
# **The warning again.** The model is a *toy*. The methods are those used on MusicGen; the findings are the
# toy's.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display

from audio_lens import AudioLens, difference_in_means, schedules
from audio_lens.analysis.dose_response import curve
from audio_lens.audio import words
from audio_lens.audio.quality import quality_guard, vitals
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.steering.distortion import at_distortion, distortion

lens = AudioLens.from_pretrained("toy")
torch.set_grad_enabled(False)

# %% [markdown]
# ## 1. A direction, and one turn of the knob
#
# Thirty-four pairs of prompts that differ in one word, such as *bright* against *dark* or *crisp* against
# *muffled*. The direction is the mean
# activation of the bright ones minus that of the dark ones, at every layer.

# %%
poles = words.pole_prompts("timbre")
brighter = difference_in_means(
    lens, positive=poles.positive[::3], negative=poles.negative[::3], seconds=3, progress=False
)
print(brighter)

# %% [markdown]
# Now play a prompt that names neither pole, three times with one seed. The seed decides every draw, so the
# clip without steering is the *twin* of the other two: what differs between them is the steering alone.

# %%
prompt = "Folk music with flute, bass and drums"
players = {}
for coefficient in (-1.0, 0.0, 1.0):
    with lens.steer(brighter, source_layer=2, coefficient=coefficient):
        (clip,) = lens.generate(prompt, seconds=4, seed=3, progress=False)
    players[f"{coefficient:+.0f}: {spectral_centroid(clip.samples, clip.sample_rate):.0f} Hz"] = (
        clip
    )
for name, clip in players.items():
    print(name)
    display(clip)

# %% [markdown]
# **What to listen for.** Is it the same piece? Steering changes the first codes, and every later code
# depends on those: a twin may drift away. That is why one pair of clips proves nothing, and why effects are
# changes from the twin, averaged over prompts and seeds.
#
# ## 2. Where: layers
#
# Try each layer alone, on a few prompts kept for choosing (*dev*). `sweep` runs prompts, seeds and
# coefficients as rows of one batch.

# %%
dev = words.neutral_prompts("dev")[::4]


def semitones(prompts, seeds=(0,), seconds=3.0, coefficients=(-1.0, 0.0, 1.0), **options):
    """Change of the centroid from the twin, [coefficient prompt seed]."""
    rows = lens.sweep(
        list(prompts), direction=brighter, coefficients=coefficients, seeds=seeds, seconds=seconds,
        progress=False, **options,
    )  # fmt: skip
    heard = [spectral_centroid(row.clip.samples, row.clip.sample_rate) for row in rows]
    octaves = np.log2(np.array(heard).reshape(len(coefficients), len(prompts), len(seeds)))
    return 12 * (octaves - octaves[list(coefficients).index(0.0)])


by_layer = {}
for layer in range(lens.cfg.n_layers):
    found = np.nanmedian(semitones(dev, source_layer=layer), axis=(1, 2))
    by_layer[layer] = found
    print(f"layer {layer}: {found[0]:+5.1f} and {found[2]:+5.1f} semitones")

# %% [markdown]
# Take the layer at which the *weaker* sign moves furthest: a knob should turn both ways.

# %%
best = max(by_layer, key=lambda layer: min(-by_layer[layer][0], by_layer[layer][2]))
print("chosen on dev prompts: layer", best)

# %% [markdown]
# ## 3. How far: dose and response
#
# The choice is made and frozen. This curve is heard on *test* prompts, with seeds that were not used for
# choosing: a layer picked because it did best will do a little worse, and that is the honest number.

# %%
test = words.neutral_prompts("test")[::4]
doses = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
changes = semitones(test, seeds=(1000, 1001), coefficients=doses, source_layer=best)
band = curve(changes, draws=2000)
plt.figure(figsize=(5, 3.5))
plt.axhline(0, color="0.8")
plt.fill_between(doses, band.low, band.high, alpha=0.25)
plt.plot(doses, band.value, marker="o")
plt.xlabel("coefficient")
plt.ylabel("change from the twin (semitones)")
plt.show()

# %% [markdown]
# The band is *simultaneous*: with 95 % confidence the whole curve lies in it, not each point on its own.
#
# A curve can go up because the sound got brighter, or because it broke. So each clip passes a guard: is there
# still sound, is it clipped, is it noise, does it stand still?

# %%
rows = lens.sweep(
    list(test[:3]), direction=brighter, coefficients=(0.0, 1.0, 4.0), seeds=(1000,), seconds=4.0,
    source_layer=best, progress=False,
)  # fmt: skip
lives = [vitals(row.clip.samples, row.clip.sample_rate) for row in rows]
for n, row in enumerate(rows[3:], start=3):
    verdict = quality_guard(lives[n], lives[n % 3])
    print(f"{row.coefficient:+.0f}  {'passed' if verdict.passed else verdict.failures}")
display(rows[-1].clip)

# %% [markdown]
# ## 4. Fair comparison
#
# The same vector can be added at one layer or at all of them (`one_to_all`, as the paper has it). At the same
# coefficient the second adds it five times over, so of course it moves more. Compare where both bend the
# model's predictions as much: *distortion*, in nats per code.

# %%
unsteered = lens.sweep(
    list(dev),
    direction=brighter,
    coefficients=(0.0,),
    seconds=3.0,
    source_layer=best,
    progress=False,
)
twins = [row.clip for row in unsteered]
strengths = (0.0, 0.25, 0.5, 1.0)
for strategy in ("one_to_one", "one_to_all"):
    options = {"strategy": strategy, "source_layer": best}
    nats = distortion(
        lens, twins, direction=brighter, coefficients=strengths, **options
    ).mean(1)  # fmt: skip
    moved = np.nanmedian(semitones(dev, coefficients=strengths, **options), axis=(1, 2))
    print(strategy, "nats", nats.round(2), "semitones", moved.round(1))
    print("   at 0.2 nats:", round(at_distortion(nats, moved, 0.2), 1), "semitones")

# %% [markdown]
# A result of `nan` says that 0.2 nats lie beyond what was tried: no extrapolation.
#
# ## 5. When: turn it while it plays
#
# A coefficient can be multiplied by a schedule: here the knob is turned up over five seconds. Look at the spectrogram.

# %%
ramp = schedules.ramp(0.0, 5.0)
with lens.steer(brighter, source_layer=best, coefficient=1.5, schedule=ramp):
    (rising,) = lens.generate("Jazz music with cello", seconds=6, seed=5, progress=False)
display(rising)
plt.figure(figsize=(7, 2.5))
plt.specgram(rising.samples[0], NFFT=1024, Fs=rising.sample_rate, noverlap=512)
plt.xlabel("seconds")
plt.ylabel("Hz")
plt.show()

# %% [markdown]
# ## 6. Two knobs
#
# Interventions add up: steer tempo and timbre in one `with`. Whether two knobs are independent is not a
# matter of their cosine alone, so look at both measures after turning each.

# %%
tempo = words.pole_prompts("tempo")
faster = difference_in_means(
    lens, positive=tempo.positive[::3], negative=tempo.negative[::3], seconds=4, progress=False
)
print("cosines by layer:", [round(c, 2) for c in faster.cosine(brighter).values()])
for name, direction, layer in (("timbre", brighter, best), ("tempo", faster, 1)):
    rows = lens.sweep(
        list(test[:4]), direction=direction, coefficients=(0.0, 0.5), seeds=(1000,), seconds=6.0,
        source_layer=layer, progress=False,
    )  # fmt: skip
    sounds = [(row.clip.samples, row.clip.sample_rate) for row in rows]
    bpm, hertz = (
        np.log2([hear(*sound) for sound in sounds]).reshape(2, -1)
        for hear in (pulse_bpm, spectral_centroid)
    )
    print(
        f"{name} up: tempo {np.nanmedian(bpm[1] - bpm[0]):+.2f} octaves, "
        f"centroid {12 * np.nanmedian(hertz[1] - hertz[0]):+.1f} semitones"
    )

# %%
with (
    lens.steer(brighter, source_layer=best, coefficient=1.0),
    lens.steer(faster, source_layer=1, coefficient=0.5),
):
    (both,) = lens.generate(prompt, seconds=6, seed=3, progress=False)
display(both)
print(both.interventions)

# %% [markdown]
# ## 7. Exercises
#
# **Exercise 1** (easy, 10 minutes). Steer only the half of the model that reads the prompt
# (`branch="cond"`). How much further does the same coefficient reach, and why is that no proof that this half
# is the better one?
#
# <details><summary>Solution</summary>
#
# ```python
# for branch in ("both", "cond"):
#     moved = np.nanmedian(semitones(dev, source_layer=best, branch=branch), axis=(1, 2))
#     print(branch, moved.round(1))
# ```
#
# Were the model linear and alike in both halves, what is added in `cond` alone would count three times at the
# logits under a guidance of 3 ([steering](../docs/steering.md) has what was measured). Compare at equal distortion.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 2** (medium, 15 minutes). Put a random direction of the same length in place of the real one, and
# draw both curves into one picture.
#
# <details><summary>Solution</summary>
#
# ```python
# real = brighter
# few = (-1.0, 0.0, 1.0)
# for name, used in {"real": real, "random": real.random_like(seed=0)}.items():
#     brighter = used
#     moved = np.nanmedian(semitones(test, coefficients=few, source_layer=best), axis=(1, 2))
#     plt.plot(few, moved, marker="o", label=name)
# brighter = real
# plt.legend()
# plt.show()
# ```
#
# One random direction is one draw: notebook 6 takes twenty.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 3** (harder, 20 minutes). Make a see-saw: bright and dark in turn, every second. Does the centroid
# follow, and how late?
#
# <details><summary>Solution</summary>
#
# ```python
# def see_saw(hook):
#     signs = [1.0 if int(seconds) % 2 == 0 else -1.0 for seconds in hook.seconds]
#     return torch.tensor(signs)[None]
#
#
# with lens.steer(brighter, source_layer=best, coefficient=see_saw):
#     (clip,) = lens.generate(prompt, seconds=6, seed=3, progress=False)
# display(clip)
# rate = clip.sample_rate
# for second in range(6):
#     part = clip.samples[:, second * rate : (second + 1) * rate]
#     print(second, f"{spectral_centroid(part, rate):.0f} Hz")
# ```
# </details>

# %%
# your code

# %% [markdown]
# ## What you did, and what it does not show
#
# You turned a knob, chose where on some prompts and reported on others, and looked at what breaks. You have
# not yet shown that *this* direction is special, nor that steering is worth it beside simply asking in words:
# that is notebook 6.
#
# More: [steering](../docs/steering.md), [tempo and timbre](../docs/tempo-and-timbre.md).

# %% [markdown]
# # 6. Is it real?
#
# You have turned a knob and the music followed. Now try to talk yourself out of it. A large effect may be what
# *any* push of that length does; a curve may come from two lucky clips; and a sentence in the prompt may do
# the same for free. In this notebook you hold steering against controls, seeds and baselines.
#
# After it you can
#
# - hold a direction against three kinds of controls of its own length, and say what each can show;
# - name the unit of a test, and why forty clips of four prompts are not forty measurements;
# - test both signs, and pay for having tested twice;
# - put steering beside the prompt, which needs no direction at all;
# - look for what else was turned;
# - say in one sentence what you may claim.
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

from audio_lens import AudioLens
from audio_lens.analysis.controls import controls
from audio_lens.analysis.poles import gather_poles
from audio_lens.analysis.significance import holm, rank_among, sign_flip
from audio_lens.analysis.statistics import bootstrap
from audio_lens.audio import words
from audio_lens.audio.level import loudness
from audio_lens.audio.onsets import onset_rate
from audio_lens.audio.timbre import flatness, spectral_centroid

lens = AudioLens.from_pretrained("toy")
torch.set_grad_enabled(False)
LAYER, DOSE = 2, 1.0

# %% [markdown]
# ## 1. The claim
#
# Brightness again, at a layer and a dose that are simply set here; notebook 5 shows how to choose them on dev
# prompts, and may choose others. Keep the activations, not only the direction: the controls are drawn from them.

# %%
pairs = words.pole_prompts("timbre")
poles = gather_poles(
    lens, positive=pairs.positive[::7], negative=pairs.negative[::7], seconds=3, progress=False
)
brighter = poles.difference_in_means()
prompts = words.neutral_prompts("test")[::3]
seeds = (1000, 1001)


def heard(direction, doses):
    """Clips at each dose, by prompt and seed."""
    rows = lens.sweep(
        list(prompts), direction=direction, coefficients=doses, seeds=seeds, seconds=3.0,
        source_layer=LAYER, progress=False,
    )  # fmt: skip
    return np.array([row.clip for row in rows], dtype=object).reshape(
        len(doses), len(prompts), len(seeds)
    )


def measured(clips, measure=spectral_centroid):
    """A measure of every clip."""
    return np.vectorize(lambda clip: measure(clip.samples, clip.sample_rate))(clips)


down, twins, up = heard(brighter, (-DOSE, 0.0, DOSE))
change = {
    "+": 12 * np.log2(measured(up) / measured(twins)),
    "-": 12 * np.log2(measured(down) / measured(twins)),
}
for sign, found in change.items():
    print(f"sign {sign}: {bootstrap(found):+.1f} semitones")

# %% [markdown]
# ## 2. The unit
#
# There are sixteen clips a sign, but eight prompts. Two seeds of one prompt share a great deal, so they are not
# two measurements. The interval above draws prompts first and seeds within them. See what happens to it if you
# pretend that every clip is its own prompt:

# %%
for name, grid in {"honest": change["+"], "pretended": change["+"].reshape(-1, 1)}.items():
    found = bootstrap(grid)
    print(f"{name}: {found:+.1f}, {found.high - found.low:.1f} wide")

# %% [markdown]
# Wider is not worse: it is what you know. With clips that share little the two may look alike.
#
# ## 3. The test
#
# If steering did nothing, a prompt's change would be as likely to be up as down. So flip the signs prompt by
# prompt, at random ten thousand times, and see how often the mean is as far from zero. Eight prompts have 256
# sets of signs, so p cannot be much below 2/256 = 0.008. Two signs were tested, and each is a chance to be
# fooled: Holm's correction pays for both.

# %%
p = {sign: sign_flip(found) for sign, found in change.items()}
for sign, corrected in zip(p, holm(list(p.values())), strict=True):
    print(f"sign {sign}: p = {p[sign]:.4f}, corrected {corrected:.4f}")

# %% [markdown]
# A small p says that *something* moved. It does not say that this direction is why.
#
# ## 4. What any vector would do
#
# Three kinds of controls, each rescaled to the real direction's length:
#
# - `isotropic`: any direction of space. Easy to beat: most of space is empty.
# - `matched`: drawn with the covariance of the activations, so it points where activations do vary.
# - `flipped`: bright and dark exchanged in half of the pairs, at random: what the method makes of no concept.

# %%
made = controls(brighter, n=6, poles=poles)
few = slice(None, None, 2)
real = np.nanmedian(change["+"][few])
effects = {}
base = measured(twins[few])
for kind, drawn in made.items():
    effects[kind] = []
    for control in drawn:
        rows = lens.sweep(
            list(prompts[few]), direction=control, coefficients=(DOSE,), seeds=seeds, seconds=3.0,
            source_layer=LAYER, progress=False,
        )  # fmt: skip
        clips = np.array([row.clip for row in rows], dtype=object).reshape(base.shape)
        effects[kind].append(float(np.nanmedian(12 * np.log2(measured(clips) / base))))
    rank, chance = rank_among(real, effects[kind])
    print(
        f"{kind:<10} {np.round(effects[kind], 1)}  rank {rank} of {len(drawn) + 1}, p = {chance:.2f}"
    )

# %%
plt.figure(figsize=(5, 3))
plt.axvline(real, color="C3", label="real")
for n, found in enumerate(effects.values()):
    plt.plot(found, [n] * len(found), "o", alpha=0.6)
plt.yticks(range(len(effects)), list(effects))
plt.xlabel("change (semitones)")
plt.legend()
plt.show()

# %% [markdown]
# With six draws p cannot be below 1/7. That is not a weakness of the direction but of the number of draws: the
# study takes twenty of each kind.
#
# Which kind comes closest to the real one? If *matched* vectors move the sound as much, the model is easily
# moved along whatever varies in it, and brightness varies.
#
# ## 5. Simply asking
#
# The strongest baseline needs no interpretability: put the word into the prompt.

# %%
asked = lens.generate(
    [f"{prompt}, with a bright tone" for prompt in prompts],
    seconds=3, seed=[seeds[0]] * len(prompts), progress=False,
)  # fmt: skip
by_word = 12 * np.log2(measured(np.array(asked, dtype=object)) / measured(twins)[:, 0])
print(
    f"the word: {np.nanmedian(by_word):+.1f} semitones, steering: {np.nanmedian(change['+']):+.1f}"
)
display(asked[0])
display(up[0, 0])

# %% [markdown]
# Asking is the yardstick, not the enemy. A knob earns its place where words are missing, where it can be turned
# by degrees or while the music plays, or where it shows how the model does it.
#
# ## 6. What else moved
#
# The same clips under other measures, in units of the twins' own spread, so that unlike things can be compared.

# %%
others = {
    "centroid": lambda x, rate: 12 * np.log2(spectral_centroid(x, rate)),
    "loudness": loudness,
    "flatness": flatness,
    "onset rate": onset_rate,
}
for name, measure in others.items():
    before = measured(twins, measure)
    sizes = [
        np.nanmedian(measured(clips, measure) - before) / np.nanstd(before) for clips in (down, up)
    ]
    print(f"{name:<11} {sizes[0]:+5.1f} and {sizes[1]:+5.1f} spreads")

# %% [markdown]
# A side effect is not a failure. Not looking for it is.
#
# ## 7. What may be said
#
# Fill in the sentence: *On this toy, adding the direction at layer ... with coefficient ... changes the
# centroid of neutral prompts by ... semitones [... to ...], p = ... corrected for two tests; of ... controls
# ... moved it as much; asking in words moves it by ...; it also moves ...* If a blank cannot be filled, the
# claim is not ready.
#
# The study of `audio_lens.recipes` fills all of them, on more clips: `audio-lens study timbre`.
#
# ## 8. Exercises
#
# **Exercise 1** (easy, 10 minutes). Steer by the same direction at other layers: the first and the last. The toy's
# model card chose the last one for timbre. Does that agree?
#
# <details><summary>Solution</summary>
#
# ```python
# for layer in (0, lens.cfg.n_layers - 1):
#     rows = lens.sweep(
#         list(prompts), direction=brighter, coefficients=(DOSE,), seeds=seeds, seconds=3.0,
#         source_layer=layer, progress=False,
#     )
#     clips = np.array([row.clip for row in rows], dtype=object).reshape(twins.shape)
#     moved = 12 * np.log2(measured(clips) / measured(twins))
#     print(layer, f"{bootstrap(moved):+.1f}")
# ```
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 2** (medium, 15 minutes). How many prompts would have been enough? Draw 2, 4 and 6 of the eight
# prompts again and again, and see how often both signs come out right.
#
# <details><summary>Solution</summary>
#
# ```python
# draw = np.random.default_rng(0)
# for n in (2, 4, 6):
#     right = []
#     for _ in range(500):
#         some = draw.choice(len(prompts), n, replace=False)
#         medians = [np.nanmedian(change[sign][some]) for sign in "+-"]
#         right.append(medians[0] > 0 > medians[1])
#     print(n, f"prompts: {np.mean(right):.0%}")
# ```
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 3** (harder, 20 minutes). Fool yourself on purpose: test five random directions on the same clips. Which
# is the smallest uncorrected p, and what does Holm's correction make of it?
#
# <details><summary>Solution</summary>
#
# ```python
# best = []
# for seed in range(5):
#     rows = lens.sweep(
#         list(prompts), direction=brighter.random_like(seed=100 + seed), coefficients=(DOSE,),
#         seeds=seeds[:1], seconds=3.0, source_layer=LAYER, progress=False,
#     )
#     clips = np.array([row.clip for row in rows], dtype=object).reshape(len(prompts), 1)
#     moved = 12 * np.log2(measured(clips) / measured(twins)[:, :1])
#     best.append(sign_flip(moved))
# print(np.round(best, 3), "corrected:", np.round(holm(best), 3))
# ```
#
# A random push may well move the centroid: most of what breaks music makes it brighter or duller. This is
# why the comparison with controls matters more than p.
# </details>

# %%
# your code

# %% [markdown]
# ## What you did, and what it does not show
#
# You tried to explain the effect away, in five ways. What survives is a fact about this model, this direction
# and these prompts. Next: the same for a concept of your own, in notebook 7.
#
# More: [measuring](../docs/measuring.md), [directions](../docs/directions.md), [steering](../docs/steering.md).

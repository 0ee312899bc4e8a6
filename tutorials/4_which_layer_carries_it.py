# %% [markdown]
# # 4. Which layer carries it?
#
# A prompt says *fast*, and the music is fast. Somewhere in between, a word became a tempo. Where? In this
# notebook you answer by experiment: run the model twice, move activations from one run into the other, one
# place at a time, and see where the tempo comes along.
#
# After it you can
#
# - set up two runs that differ in one thing, and a metric that sees this thing and little else;
# - read a map of layers and moments, and say what a bright cell does and does not show;
# - take it apart into attention, cross-attention and MLP, into heads, and into the words of the prompt;
# - confirm a map by ear, on clips that the patched model plays;
# - estimate a map by gradients, and check how far to believe the estimate;
# - test the method itself on a model in which the answer is known.
#
# It takes about an hour with the exercises. It needs no network and no GPU; all cells together compute for
# about two minutes on a laptop.
#
# **The warning again.** The model is a *toy*. What you find here is how this toy reads *fast*. The same
# lines ask `facebook/musicgen-small`; its answer is its own.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display

from audio_lens import (
    AudioLens,
    Intervention,
    activation_patch,
    agreement,
    attribution_patch,
    every_seconds,
    metrics,
    path_patch,
    replace,
    sound_patch,
)
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.testing import planted_circuit

lens = AudioLens.from_pretrained("toy")
torch.set_grad_enabled(False)

# %% [markdown]
# ## 1. Two runs that differ in one word
#
# Four pairs of prompts. Within a pair everything is the same but the word for the tempo: if a patch makes
# a difference, that word is the reason.

# %%
contexts = [("pop", "piano"), ("jazz", "cello"), ("folk", "flute"), ("rock", "organ")]
fast, slow = (
    [f"{genre} music with {instrument}, at a {word} tempo" for genre, instrument in contexts]
    for word in ("fast", "slow")
)
clips = lens.generate(fast, seconds=6, seed=[0, 1, 2, 3], progress=False)
codes = lens.encode(clips)
for clip in clips:
    display(clip)

# %% [markdown]
# The *clean* run reads the fast prompts, the *corrupted* run the slow ones. Both read the **same codes**,
# those of the fast clips. They are not generated anew: at every position the model is told what really came
# before and asks itself what comes next. That is *teacher forcing*, and it keeps the positions of both runs
# in step.
#
# The metric: how likely, on average, are the codes of the fast clips? The clean run should find them
# likelier. How much likelier, and when?

# %%
likely = {
    name: lens(prompts, codes).log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    for name, prompts in (("fast", fast), ("slow", slow))
}
gap = (likely["fast"] - likely["slow"]).mean(0)  # [codebook frame]
seconds = np.arange(gap.shape[1]) / lens.cfg.frame_rate
smooth = np.ones(15) / 15
figure, axis = plt.subplots(figsize=(9, 2.8), layout="constrained")
for book, row in enumerate(gap):
    axis.plot(seconds, np.convolve(row, smooth, "same"), label=f"codebook {book}")
axis.axhline(0, color="black", linewidth=0.5)
axis.set(xlabel="seconds", ylabel="nats", title="How much likelier the fast codes are, told 'fast'")
axis.legend(ncols=4, fontsize="small")
plt.show()
for start in (0, 1, 2, 4):
    print(f"from {start} s on: {gap[0, 50 * start :].mean():.3f} nats a code in codebook 0")

# %% [markdown]
# The gap is at the beginning. Later it all but closes: once the music has been going for a while, the beat
# itself says what the tempo is, and the word adds nothing. **Had you averaged over six seconds, most of
# your metric would be noise.** Choose where to look before you look.
#
# So: the first codebook, which carries the kick drum, in the first second and a half.

# %%
metric = metrics.logprob(codes, codebooks=0, frames=(0, 75))
asked = {
    "clean": (fast, codes),
    "corrupted": (slow, codes),
    "metric": metric,
    "progress": False,
}

# %% [markdown]
# ## 2. The map
#
# `activation_patch` takes the clean run's residual stream, layer by layer and moment by moment, puts it
# into the corrupted run, and reads the metric. *Recovery* is 0 where that changed nothing, and 1 where the
# slow-prompted model came to believe in the fast codes as much as the fast-prompted one.

# %%
result = activation_patch(
    lens, site="resid_post", axes=("layer", "pos"), positions=every_seconds(0.25), **asked
)
display(result.plot())
print(result)

# %% [markdown]
# Read it slowly.
#
# - **The right part is empty because the metric does not look there**, not because nothing happens there.
# - A residual patch at a layer holds all that was written up to it. So recovery can grow from layer to
#   layer without the later layers having anything to do with tempo.
# - Each column is one quarter of a second. What a column restores is what the stream *at those positions*
#   says. No single moment need hold it all.
#
# To find out who writes it, patch what each part *adds* instead, in one layer and at all positions.

# %%
parts = activation_patch(
    lens, site=["attn_out", "cross_attn_out", "mlp_out"], axes=("layer",), **asked
)
display(parts.plot())
low, high = parts.interval()
for site, row in zip(parts.axes["site"], range(3), strict=True):
    for layer in range(lens.cfg.n_layers):
        effect = parts.effect[row, layer].mean()
        print(
            f"{site:>15} {layer}: {effect:+.3f} [{low[row, layer]:+.3f}, {high[row, layer]:+.3f}]"
        )

# %% [markdown]
# Four examples are few, and the intervals say so. Where an interval covers zero, do not tell a story.
#
# Only cross-attention reads the prompt. Attention and MLPs of later layers can pass on what it brought, but
# a block in front of the first one that listens has nothing to say. Is that what you see?
#
# ### Heads, and words
#
# Further in: which head of cross-attention, and which token of the prompt?

# %%
heads = activation_patch(lens, site="cross_attn.z", axes=("layer", "head"), **asked)
display(heads.plot())
print("largest:", heads.best(), f"recovery {heads.recovery.max():.2f}")

# %%
words = activation_patch(lens, site="text.proj", axes=("text_token",), **asked)
tokens = lens.text_tokens(fast[0])
for token, share in zip(tokens, words.recovery, strict=False):
    print(
        f"{token.removeprefix('Ġ'):>12} {float(share):+.2f} {'#' * round(30 * max(0.0, float(share)))}"
    )

# %% [markdown]
# The prompts differ in one token, and yet more than one token may carry the difference: the text encoder
# mixes them before the decoder sees any.
#
# ## 3. What suffices, and what is needed
#
# So far *denoising*: fast activations in the slow run. It finds what suffices. *Noising* goes the other
# way, slow activations in the fast run, and finds what is needed. If two layers each carry the tempo,
# either suffices and neither is needed.

# %%
noised = activation_patch(lens, site="cross_attn_out", axes=("layer",), into="clean", **asked)
print("layer   suffices   needed")
for layer in range(lens.cfg.n_layers):
    suffices = float(parts.select(site="cross_attn_out").recovery[layer])
    needed = 1 - float(noised.recovery[layer])
    print(f"{layer:>5} {suffices:>9.2f} {needed:>9.2f}")

# %% [markdown]
# ## 4. Believe your ears
#
# A metric of log-probabilities is one step from music. `sound_patch` lets the patched model *play*: slow
# prompts, fast activations in one layer's cross-attention, and the tempo of what comes out, beside a twin
# with the same seed that nobody touched.

# %%
heard = sound_patch(
    lens,
    clean=fast,
    corrupted=slow,
    site="cross_attn_out",
    ear="tempo",
    seconds=6,
    seeds=(0, 1),
    progress=False,
)
display(heard.plot(what="effect"))
low, high = heard.interval()
print(
    "the prompts themselves differ by", f"{(heard.clean - heard.corrupted).nanmean():+.2f} octaves"
)
for layer, change in enumerate(heard.effect.nanmean(-1)):
    print(f"layer {layer}: {change:+.2f} octaves [{low[layer]:+.2f}, {high[layer]:+.2f}]")

# %% [markdown]
# And the other test: take the part away. If layer l's cross-attention carries the tempo, then without it
# fast prompts should lose their speed, and without the others they should not.

# %%
nothing = torch.zeros(lens.cfg.d_model)
prompts = [fast[0]] * (lens.cfg.n_layers + 1)
silences = [
    Intervention("cross_attn_out", replace(nothing), layers=layer, rows=[layer + 1])
    for layer in range(lens.cfg.n_layers)
]
with lens.intervene(*silences):
    silenced = lens.generate(prompts, seconds=6, seed=0, progress=False)
names = ["nothing", *(f"layer {layer}" for layer in range(lens.cfg.n_layers))]
for name, clip in zip(names, silenced, strict=True):
    print(f"without {name}: {pulse_bpm(clip.samples[0], clip.sample_rate):.0f} BPM")
    display(clip)

# %%
lost = sound_patch(
    lens, corrupted=fast, donor="zero", site="cross_attn_out", ear="tempo", seconds=6,
    seeds=(0, 1), progress=False,
)  # fmt: skip
for layer, change in enumerate(lost.effect.nanmean(-1)):
    print(f"without the cross-attention of layer {layer}: {change:+.2f} octaves")

# %% [markdown]
# Do map and ears agree? They need not. The map is about the first second and a half of codes that are
# given; the clip is six seconds long, and every code depends on the ones before it. A small push at the
# start can set a tempo that the music then keeps by itself.
#
# ## 5. The whole map from two runs
#
# A grid costs a run for each cell. Gradients estimate all cells at once: how much the metric changes is the
# gradient at the place, times how different the two runs are there. It is right for small changes.

# %%
grid = {"site": "mlp_out", "axes": ("layer", "pos"), "positions": every_seconds(0.25)}
exact = activation_patch(lens, **grid, **asked)
plain = {name: value for name, value in asked.items() if name != "progress"}
estimate = attribution_patch(lens, **grid, **plain)
print("MLPs:           ", agreement(estimate, exact))
whole = attribution_patch(lens, **(grid | {"site": "resid_post"}), **plain)
print("residual stream:", agreement(whole, result))
figure, axis = plt.subplots(figsize=(4, 3.6), layout="constrained")
x, y = estimate.effect.mean(-1).flatten(), exact.effect.mean(-1).flatten()
axis.scatter(x, y, s=12)
axis.axline((0, 0), slope=1, color="grey", linewidth=0.7)
axis.set(xlabel="estimated effect (nats)", ylabel="exact effect (nats)", title="MLPs")
plt.show()

# %% [markdown]
# Small parts are estimated well, the whole stream less so: replacing all of it is no small change. On a
# large model you would take the estimate of everything, and the exact grid of what looks interesting.
#
# ## 6. Would the method find it if it were there?
#
# The question that is asked too rarely. `planted_circuit` makes a random model and writes one mechanism
# into its weights by hand: one word of the prompt sets off one head of cross-attention, which leaves a
# marker in the stream; one neuron of a later MLP sees the marker, at some positions only, and makes one
# code of one codebook likely. Nothing else has to do with it. Patching must find exactly that.

# %%
planted = planted_circuit()
truth = (planted.layer, planted.head, planted.mlp_layer, planted.window, planted.codebook)
print("planted: head", truth[:2], "MLP", truth[2], "positions", truth[3], "codebook", truth[4])
circuit = {
    "clean": (planted.clean, planted.codes),
    "corrupted": (planted.corrupted, planted.codes),
    "metric": metrics.probability([planted.code], codebooks=planted.codebook),
    "progress": False,
}
found = activation_patch(planted.lens, site="cross_attn.z", axes=("layer", "head"), **circuit)
display(found.plot())
stream = activation_patch(planted.lens, site="resid_post", axes=("layer", "pos"), **circuit)
display(stream.plot())
print("found:   head", found.best(), f"with a recovery of {found.recovery.max():.2f}")

# %% [markdown]
# The stream shows *from which layer on* the marker is there, and at which positions the neuron listens. It
# does not show where the neuron sits. Which MLP hears the head? Patch the *path*: let the head's change
# reach one MLP alone, by the direct way, with every other part kept as it was.

# %%
for layer in range(planted.lens.cfg.n_layers):
    paths = path_patch(
        planted.lens,
        sender="cross_attn.z",
        receivers=f"blocks.{layer}.mlp.hook_pre",
        **circuit,
    )
    share = float(paths.direct.recovery[planted.layer, planted.head])
    print(f"head {planted.layer}.{planted.head} to MLP {layer}: {share:.2f}")

# %% [markdown]
# ## 7. Exercises
#
# **Exercise 1** (easy, 10 minutes). Do the same for timbre: *bright* against *dark*. The word for it is
# `with a bright tone`. First draw the gap over time: where does this metric have to look?
#
# <details><summary>Solution</summary>
#
# ```python
# bright, dark = (
#     [f"{genre} music with {instrument}, with a {word} tone" for genre, instrument in contexts]
#     for word in ("bright", "dark")
# )
# sounds = lens.encode(lens.generate(bright, seconds=4, seed=[0, 1, 2, 3], progress=False))
# told = [lens(p, sounds).log_softmax(-1).gather(-1, sounds[..., None]) for p in (bright, dark)]
# difference = (told[0] - told[1])[..., 0].mean(0)
# for book, row in enumerate(difference):
#     print(book, [f"{part.mean():+.2f}" for part in row.split(50)])
# timbre = activation_patch(
#     lens, clean=(bright, sounds), corrupted=(dark, sounds), axes=("layer",), progress=False,
#     site="cross_attn_out", metric=metrics.logprob(sounds, frames=(0, 50)),
# )
# display(timbre.plot())
# ```
#
# Compare its layers with those of tempo. Two concepts in the same layers are not yet one mechanism: look
# at the heads as well.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 2** (medium, 10 minutes). Is it the word, or is it any difference? Make the corrupted prompts
# differ from the clean ones in the *instrument* instead, keep the metric, and compare the maps.
#
# <details><summary>Solution</summary>
#
# ```python
# others = ["marimba", "trumpet", "violin", "saxophone"]
# changed = [p.replace(i, o) for p, (_, i), o in zip(fast, contexts, others, strict=True)]
# instrument = activation_patch(
#     lens, clean=(fast, codes), corrupted=(changed, codes), site="cross_attn_out",
#     axes=("layer",), metric=metrics.logprob(codes, frames=(0, 75)), progress=False,
# )
# print(instrument)
# print("instrument:", [f"{r:.2f}" for r in instrument.recovery])
# print("tempo:     ", [f"{r:.2f}" for r in parts.select(site="cross_attn_out").recovery])
# ```
#
# If both maps are alike, you have found where the *prompt* enters, not where tempo does. A map of one
# concept means little without a map of another.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 3** (medium, 10 minutes). Skip whole blocks while the fast prompts play: `site="block"`,
# `donor="zero"`. Which block can the toy do without? Is a block without effect on tempo a block without
# effect?
#
# <details><summary>Solution</summary>
#
# ```python
# for ear in ("tempo", "timbre", "level"):
#     skipped = sound_patch(
#         lens, corrupted=fast, donor="zero", site="block", branch="both", ear=ear, seconds=6,
#         progress=False,
#     )
#     missing = skipped.per_example.isnan().float().mean(-1)
#     print(ear, [f"{e:+.2f}" for e in skipped.effect.nanmean(-1)], "missing", missing.tolist())
# ```
#
# Without a block the model is one it was never trained to be. A tempo that vanishes with the beat is not
# a tempo that was carried there: look at the level and at how many clips have no pulse at all.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 4** (harder, 20 minutes). A circuit whose place you do not know. Find layer, head, window and
# codebook, then compare with the truth.
#
# <details><summary>Solution</summary>
#
# ```python
# from audio_lens import ablate
#
# rng = np.random.default_rng(7)
# place = sorted(int(n) for n in rng.integers(0, 4, 2))
# start = int(rng.integers(0, 9))
# secret = planted_circuit(
#     layer=place[0], mlp_layer=place[1], head=int(rng.integers(4)),
#     window=range(start, start + 3), codebook=int(rng.integers(4)), seed=3,
# )
# both = {"clean": (secret.clean, secret.codes), "corrupted": (secret.corrupted, secret.codes)}
# reference = metrics.kl(secret.lens(secret.clean, secret.codes))  # no codebook known yet
# books = activation_patch(
#     secret.lens, site="hook_logits", axes=("codebook",), metric=reference, progress=False, **both)
# print("codebook", books.best(), "truth", secret.codebook)
# known = metrics.kl(secret.lens(secret.clean, secret.codes), codebooks=int(books.best()["codebook"]))
# lost = ablate(secret.lens, secret.clean, secret.codes, donor="zero", site="cross_attn.z",
#               metric=known, progress=False)
# print("head    ", lost.best(), "truth", (secret.layer, secret.head))
# moments = activation_patch(secret.lens, axes=("layer", "pos"), metric=known, progress=False, **both)
# share = moments.recovery[-1] > 0.05
# print("window  ", share.nonzero().flatten().tolist(), "truth", list(secret.window))
# for n in range(4):
#     path = path_patch(secret.lens, sender="cross_attn.z", receivers=f"blocks.{n}.mlp.hook_pre",
#                       metric=known, progress=False, **both)
#     print("MLP", n, f"{float(path.direct.recovery[secret.layer, secret.head]):.2f}",
#           "truth" if n == secret.mlp_layer else "")
# ```
# </details>

# %%
# your code

# %% [markdown]
# ## What you did, and what it does not show
#
# You made two runs differ in a word, chose a metric by looking where the word matters, and followed the
# word through layers, parts, heads and tokens. You confirmed by ear, on clips with seeds and twins, and you
# tested the method where the truth was known.
#
# It does not show *how* tempo is represented, only where putting the other run's activations in brings it
# along. A place that suffices in one context may not in another; four contexts are a start.
#
# More in [patching](../docs/patching.md): other donors, resampling, stopping and going on, and what a
# residual patch cannot restore.

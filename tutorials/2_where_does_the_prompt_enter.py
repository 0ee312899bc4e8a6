# %% [markdown]
# # 2. Where does the prompt enter?
#
# You type *fast* and *bright*. The model turns words into codes, 50 times a second. In this notebook you
# look for the door: which heads read which words, when they do, at which layer the next code is settled,
# and how the music sounds if you stop the model before it is done thinking.
#
# After it you can
#
# - read attention to the words of a prompt, and over time;
# - say how far back the heads of self-attention look, and find those that look one beat back;
# - use the logit lens, as numbers and as sound;
# - split a logit into what each part of the model added to it;
# - name three ways in which each of these can fool you.
#
# It takes about 45 minutes with the exercises. It needs no network and no GPU; all cells together compute
# for about a minute on a laptop.
#
# **The warning again.** The model is a *toy*. What you find is how this toy works.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display

from audio_lens import (
    AudioLens,
    Intervention,
    attention_by_lag,
    attention_to_words,
    early_exit,
    logit_attribution,
    logit_lens,
)
from audio_lens.analysis.attention import head_summaries
from audio_lens.audio.clip import Clip
from audio_lens.audio.synthesis import draw, render

lens = AudioLens.from_pretrained("toy")
torch.set_grad_enabled(False)

# %% [markdown]
# ## 1. Who reads the prompt?
#
# Text and music meet in *cross-attention* and nowhere else. At every step each head of each layer spreads
# its attention, 1 in all, over the tokens of the prompt. Tokens are pieces of words, so here they are
# joined to words again; `</s>` is the end of the text.

# %%
prompt = "A fast bright pop piano melody"
clips = lens.generate([prompt] * 4, seconds=6, seed=[0, 1, 2, 3], progress=False)
codes = lens.encode(clips)
display(clips[0])
words = attention_to_words(lens, prompt, codes)
display(words.plot())

# %% [markdown]
# Rows are heads, one panel for each layer. Some heads keep their attention at the end of the text
# whatever is asked. That is where a head looks that has nothing to look for. Others single out a word.
#
# Average over time hides when. Take the heads that look hardest at *fast* and at *bright*, and follow
# them:

# %%
names = list(words.words)
figure, axis = plt.subplots(figsize=(9, 3), layout="constrained")
times = np.arange(words.weights.shape[-1]) / lens.cfg.frame_rate
for name in ("fast", "bright"):
    share = words.mean[..., names.index(name)]
    layer, head = (int(n) for n in np.unravel_index(int(share.argmax()), share.shape))
    curve = words.weights[layer, head, names.index(name)]
    axis.plot(times, curve, label=f"layer {layer}, head {head}, on '{name}'", linewidth=0.8)
axis.set(xlabel="seconds", ylabel="share of attention")
axis.legend()
plt.show()

# %% [markdown]
# **First trap.** A head that looks at a word need not do anything with it. What a head *writes* is what
# counts, and what is *read* of that later. So take the words' influence away instead of looking at looks:
# let the head's result be zero, and see how many codes become less likely.

# %%
true = lens(prompt, codes).log_softmax(-1).gather(-1, codes[..., None])[..., 0]


def silent(head):
    """A function that zeroes one head's result."""

    def op(tensor, coefficient, hook):
        tensor = tensor.clone()
        tensor[:, :, head] = 0
        return tensor

    return op


cost = torch.zeros(lens.cfg.n_layers, lens.cfg.n_heads)
for layer in range(lens.cfg.n_layers):
    for head in range(lens.cfg.n_heads):
        with lens.intervene(Intervention("cross_attn.result", silent(head), layers=layer)):
            now = lens(prompt, codes).log_softmax(-1).gather(-1, codes[..., None])[..., 0]
        cost[layer, head] = (true - now)[:, 0, :50].mean()
print("what silencing a head of cross-attention costs, nats a code, first codebook, first second")
for layer, row in enumerate(cost):
    print(f"layer {layer}:", "  ".join(f"{value:+.3f}" for value in row))
looks = words.mean[..., [names.index("fast"), names.index("bright")]].sum(-1)
together = np.corrcoef(looks.flatten(), cost.flatten())[0, 1]
print(f"correlation of looking at either word with mattering: {together:+.2f}")

# %% [markdown]
# ## 2. Who looks back?
#
# Self-attention reads the music so far. Average each head's attention by *lag*: how far back it looks.
# Here a clip of known tempo helps. It is synthesised, so its beat is known to the sample.

# %%
recipe = next(r for r in (draw(seed) for seed in range(1000)) if r.drums and 110 < r.bpm < 130)
known = Clip(torch.from_numpy(render(recipe, 6.0))[None], 16000, prompt=recipe.caption)
display(known)
beat = 60 / recipe.bpm
heard = lens.encode(known)
lags = attention_by_lag(lens, recipe.caption, heard, seconds=1.2)
table = head_summaries(lags, beat_seconds=beat)
print(f"one beat is {beat:.2f} s")
print(table.sort_values("beat_lift", ascending=False).head(5).round(2).to_string(index=False))
display(lags.plot())

# %% [markdown]
# `beat_lift` is the attention one beat back, in units of what is usual at any lag: 1 is no preference. Is
# a high one a *beat head*? It may look half a second back whatever the tempo is. Exercise 1 finds out.
#
# ## 3. The logit lens: when is it settled?
#
# After each layer the model holds a vector for every moment, the *residual stream*. Read each one out as
# if it were the last: which code would it put?

# %%
found = logit_lens(lens, prompt, codes)
print("mean rank of the true code (0 is right)")
print("         " + "  ".join(f"book {n}" for n in range(lens.cfg.n_codebooks)))
for layer, row in zip(found.layers, found.mean("rank"), strict=True):
    print(f"{layer:>7}  " + "  ".join(f"{value:6.1f}" for value in row))
display(found.plot("log_probability", example=0))

# %% [markdown]
# Four vocabularies, four lenses. The first codebook says roughly what sounds, the others correct it. Which
# of them is settled first?
#
# **Second trap.** The read-out was trained for the last layer. An early layer that predicts badly may not
# know, or may write in a basis that the read-out does not understand.
#
# ### Hear it
#
# The codes that a layer would have put, each after the *true* past:

# %%
for layer in ("embed", "0", "2", "4"):
    display(found.hear(layer)[0])

# %% [markdown]
# And now without the safety net: cut the model behind a layer and let it play on *its own* past.

# %%
for layer in (1, 3):
    with early_exit(lens, layer):
        (short,) = lens.generate(prompt, seconds=6, seed=0, progress=False)
    display(short)

# %% [markdown]
# A layer that guesses nearly right each time can still be lost after a second on its own: small errors
# feed on themselves. That is the difference between a good prediction and a good player.
#
# ## 4. Who wrote it?
#
# The stream is a sum: embeddings, plus what every head and every MLP added. So a logit is a sum too, and
# can be split into parts that add up to it exactly.

# %%
added = logit_attribution(lens, prompt, codes[:1])
check = lens(prompt, codes[:1])
logits = check.gather(-1, codes[:1, ..., None])[..., 0] - check.mean(-1)
print("largest error of the sum:", f"{(added.total - logits).abs().max():.1e}")
parts = added.to_dataframe()
first = parts[parts["codebook"] == 0].sort_values("logits", ascending=False)
print(first.head(8).round(2).to_string(index=False))
crossing = parts[parts["part"].str.contains("cross_attn")].groupby("codebook")["logits"].sum()
print("cross-attention in all, by codebook:", crossing.round(2).to_dict())

# %% [markdown]
# **Third trap.** *Direct* effects only. Cross-attention may add next to nothing to the logits directly and
# still decide everything, by way of the MLPs that read what it wrote. The costs in section 1 were not
# direct effects: compare.
#
# ## 5. Exercises
#
# **Exercise 1** (easy, 10 minutes). Is the best beat head of section 2 one that follows the tempo? Take
# clips of other tempos, and look where its attention peaks.
#
# <details><summary>Solution</summary>
#
# ```python
# best = table.sort_values("beat_lift", ascending=False).iloc[0]
# layer, head = int(best["layer"]), int(best["head"])
# drummed = [r for r in (draw(seed) for seed in range(400)) if r.drums]
# for r in sorted(drummed, key=lambda r: r.bpm)[:: len(drummed) // 5]:
#     clip = Clip(torch.from_numpy(render(r, 6.0))[None], 16000)
#     weights = attention_by_lag(lens, r.caption, lens.encode(clip), seconds=1.2).weights
#     peak = int(weights[layer, head, 10:].argmax()) + 10  # further back than 0.2 s
#     print(f"{r.bpm:5.0f} BPM: a beat is {60 / r.bpm:.2f} s, the peak is {peak / 50:.2f} s back")
# ```
#
# A beat head moves with the beat (or with two beats, or half of one); a head of fixed lag stays. A
# peak that is a frame or two short of a beat looks at what *followed* the last stroke, which is what a
# guess of the next code needs.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 2** (medium, 10 minutes). Does the logit lens settle later where the music is less
# predictable? Compare the layer at which the true code becomes the likeliest on beats and between them.
#
# <details><summary>Solution</summary>
#
# ```python
# seen = logit_lens(lens, recipe.caption, heard)
# right = (seen.rank == 0).int()  # [layer batch codebook frame]
# settled = right.flip(0).cumprod(0).flip(0).sum(0)  # layers that are right to the end
# frames = np.arange(heard.shape[-1]) / 50
# since = (frames + recipe.phase * beat) % beat  # phase: beats that had passed at the start
# on, off = settled[0, 0, since < 0.08], settled[0, 0, since >= 0.08]
# print(f"right for {on.float().mean():.2f} layers on beats, {off.float().mean():.2f} between")
# ```
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 3** (harder, 15 minutes). The prompt without its adjectives: which heads change where they
# look, and how far does the gap in likelihood between the two prompts open with the layers?
#
# <details><summary>Solution</summary>
#
# ```python
# plain = "A pop piano melody"
# for name in ("</s>", "piano"):
#     one = words.mean[..., words.words.index(name)]
#     other_words = attention_to_words(lens, plain, codes)
#     two = other_words.mean[..., other_words.words.index(name)]
#     moved = (two - one).abs()
#     place = np.unravel_index(int(moved.argmax()), moved.shape)
#     print(name, "changes most at layer and head", [int(n) for n in place])
# told = logit_lens(lens, prompt, codes).log_probability[..., :50].mean((1, 3))
# untold = logit_lens(lens, plain, codes).log_probability[..., :50].mean((1, 3))
# for layer, gap in zip(found.layers, (told - untold)[:, 0], strict=True):
#     print(f"{layer:>6}: {gap:+.3f} nats")
# ```
#
# Where the gap opens is where the words begin to count. Notebook 4 asks the same by experiment.
# </details>

# %%
# your code

# %% [markdown]
# ## What you did, and what it does not show
#
# You read where heads look, stopped the model early, listened to half-finished thoughts, and split logits
# into parts. All of it is *reading*: nothing here shows that a part is needed. For that, take it away or
# put it in: notebook 4. And for the numbers beside these methods, [lenses](../docs/lenses.md).

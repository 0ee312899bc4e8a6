# %% [markdown]
# # 1. Hear a transformer
#
# A music model is a language model whose words are sounds. In this notebook you make it play, learn
# to measure what you hear, read what goes on inside, and change it while it plays.
#
# After it you can
#
# - generate clips and listen to them, with the numbers beside them;
# - say when a tempo meter and a brightness meter can be trusted;
# - name any point inside the model, read it over time, and write it while the model plays;
# - tell the effect of an edit from chance.
#
# It takes about 45 minutes with the exercises. It needs no network and no GPU; all cells together
# compute for one to two minutes on a laptop.
#
# **One warning first.** The model here is a *toy*: five layers, trained on synthesised music. It has
# the shape of MusicGen and none of its knowledge. What you see shows that the tool works. It does not
# show how MusicGen works.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display

from audio_lens import AudioLens, Intervention, replace
from audio_lens.audio.clip import Clip
from audio_lens.audio.tempo import onset_rate, pulse_bpm
from audio_lens.audio.timbre import flatness, semitones, spectral_centroid

lens = AudioLens.from_pretrained("toy")
torch.set_grad_enabled(False)  # we only read and write here; nothing is differentiated
cfg = lens.cfg
print(f"{cfg.n_layers} layers of width {cfg.d_model}, {cfg.n_heads} heads")
print(f"{cfg.n_codebooks} codebooks of {cfg.d_vocab} codes, {cfg.frame_rate} frames a second")

# %% [markdown]
# ## 1. Generate and listen
#
# MusicGen does not make sound directly. It makes *codes*: numbers from four *codebooks*, 50 times a
# second. A codec turns codes into sound. The transformer's job is to guess the next codes, given the
# text and all codes so far, and a random draw picks among its guesses. The *seed* fixes that draw.
#
# One call makes several clips. Each pair of a prompt and a seed is a *row*.

# %%
prompts = [
    "A fast bright pop piano melody",
    "A fast dark pop piano melody",
    "A slow bright pop piano melody",
    "A slow dark pop piano melody",
]
clips = lens.generate(prompts, seconds=7, seed=0, progress=False)
for clip in clips:
    display(clip)

# %% [markdown]
# Listen to all four. Could you tell fast from slow without the captions? Bright from dark? Write down
# what you heard before you go on: it is the last honest answer you will get, because from here on you
# know what to expect.
#
# The same clips as pictures. On top is the *waveform*: the air's movement, loud where it is wide.
# Below is the *spectrogram*: time to the right, frequency upwards, bright where there is energy. Bright
# sound reaches further up. Beats are vertical stripes, and fast music has more of them.


# %%
def picture(clip, axes):
    wave, rate = clip.samples[0], clip.sample_rate
    axes[0].plot(np.arange(len(wave)) / rate, wave, linewidth=0.3)
    axes[0].set(title=clip.prompt, xlim=(0, clip.seconds), ylim=(-0.6, 0.6), xticks=[])
    axes[1].specgram(wave + 1e-6, NFFT=1024, Fs=rate, noverlap=768, vmin=-120, vmax=-30)
    axes[1].set(xlabel="seconds", ylim=(0, 8000))


figure, axes = plt.subplots(2, 4, figsize=(15, 4.5), height_ratios=(1, 2), layout="constrained")
for clip, column in zip(clips, axes.T, strict=True):
    picture(clip, column)
axes[1, 0].set_ylabel("Hz")
plt.show()

# %% [markdown]
# ## 2. Measure before you steer
#
# Soon you will edit the model and ask whether the music became faster or brighter. Ears get tired and
# hopeful. A meter does neither, but it can be wrong in its own ways. So first break the meters, on
# sounds whose truth you know.
#
# ### A tempo meter
#
# Music's loudness rises at each beat. So look at where the rises repeat themselves. This is the
# textbook meter, in a dozen lines.


# %%
def simple_bpm(wave, rate):
    """The tempo at which the rises in loudness match themselves best; of equals, the faster."""
    hop = 256
    frames = wave[: len(wave) // hop * hop].reshape(-1, hop)
    loudness = np.log(1e-5 + np.sqrt((frames**2).mean(1)))
    rises = np.maximum(np.diff(loudness), 0)
    rises = rises - rises.mean()
    match = np.correlate(rises, rises, "full")[len(rises) - 1 :]
    bpm = 60 * rate / hop / np.maximum(np.arange(len(match)), 1)
    allowed = (bpm >= 40) & (bpm <= 240)
    return bpm[allowed][np.argmax(match[allowed] * bpm[allowed])]


rate, seconds = 16000, 8
time = np.arange(seconds * rate) / rate
rng = np.random.default_rng(0)


def strokes(bpm, decay, sound):
    """A sound that is struck `bpm` times a minute."""
    beat = 60 / bpm
    return sound * np.exp(-(time % beat) / decay)


kick, hiss = np.sin(2 * np.pi * 60 * time), rng.standard_normal(len(time))
tick = np.diff(hiss, n=4, prepend=np.zeros(4)) / 8  # the upper end of noise, as a hi-hat has it
sounds = {
    "kick at 75 BPM": strokes(75, 0.08, kick),
    "kick at 140 BPM": strokes(140, 0.08, kick),
    "silence": np.zeros(len(time)),
    "noise": 0.1 * hiss,
    "kick at 75, hats on eighth notes": strokes(75, 0.08, kick) + strokes(150, 0.05, 0.5 * tick),
    "kick itself on eighth notes": strokes(150, 0.08, kick),
}
print(f"{'':34}simple_bpm  pulse_bpm")
for name, wave in sounds.items():
    print(f"{name:34}{simple_bpm(wave, rate):10.1f}{pulse_bpm(wave, rate):11.1f}")

# %% [markdown]
# What was seen:
#
# - Both meters are right about a plain kick.
# - **Silence** and **noise** have a tempo, says the simple meter. It always answers. `pulse_bpm` answers
#   *nan*: nothing there to measure. An answer that cannot be "none" is not a measurement.
# - **Eighth-note hats** double the simple meter's answer, though the beat is the same. A model that
#   learns to add hats would look faster. `pulse_bpm` listens below 160 Hz only, where the kick is.
# - **Eighth-note kicks** are read as 150 by both. Is that wrong? The sound alone does not say. Every
#   tempo meter has an ambiguity of octaves like this one. Remember it when a result says "twice as fast".
#
# Listen to two of them, so that you know what the numbers are about:

# %%
for name in ("kick at 75, hats on eighth notes", "kick itself on eighth notes"):
    wave = torch.tensor(sounds[name] / 6, dtype=torch.float32)[None]
    display(Clip(wave, rate, prompt=name))

# %% [markdown]
# ### A brightness meter
#
# The *spectral centroid* is the centre of gravity of the spectrum, in Hz. Bright sounds have a high
# one. Now add hiss, more and more of it, to a dark chord.

# %%
chord = sum(np.sin(2 * np.pi * f * time) / n for n, f in enumerate((200, 250, 300, 400, 500), 1))
print("hiss         centroid  change          flatness")
start = spectral_centroid(chord, rate)
for decibels in (-80, -60, -50, -40, -30, -20):
    level = np.sqrt((chord**2).mean()) * 10 ** (decibels / 20)
    noisy = chord + level * hiss
    centroid = spectral_centroid(noisy, rate)
    change = semitones(centroid, start)
    flat = flatness(noisy, rate)
    print(f"{decibels:4d} dB {centroid:12.0f} Hz {change:+5.1f} semitones {flat:12.5f}")

# %% [markdown]
# The chord never changed. Hiss that you hardly notice moves the centroid, and a little more moves it
# further than any instrument would. So a broken model, one that makes noise, looks like a brighter one.
#
# The companion is *flatness*: near 0 for tones, near 1 for white noise. It rises with the hiss. A claim
# about brightness needs both numbers: centroid up, flatness not.
#
# Now the meters on the model's own clips. Beside them stands a third, `onset_rate`: it counts attacks.
# It knows no octaves to confuse, but hats and melody notes are attacks too, so it says how *dense* the
# music is, never how fast.


# %%
def measures(clip):
    audio, rate = clip.samples, clip.sample_rate
    return {
        "bpm": pulse_bpm(audio, rate),
        "attacks": onset_rate(audio, rate),
        "centroid": spectral_centroid(audio, rate),
        "flatness": flatness(audio, rate),
    }


print(f"{'':34}{'BPM':>6}{'attacks/s':>11}{'centroid':>10}{'flatness':>10}")
for clip in clips:
    m = measures(clip)
    print(
        f"{clip.prompt:34}{m['bpm']:6.0f}{m['attacks']:11.1f}{m['centroid']:10.0f}{m['flatness']:10.4f}"
    )

# %% [markdown]
# Compare with what you wrote down. One clip per prompt is an anecdote: another seed gives other numbers.
# A *nan* means that the meter heard no clear beat. That happens, often with a small model, and it is
# information too: leave such clips out in silence, and you report only the music that obeyed.

# %% [markdown]
# ## 3. Name the sites
#
# Inside, the text is read once. Then each of the five *blocks* does three things in turn to the
# *residual stream*, a vector per moment in time that carries everything the model knows there:
#
# 1. *self-attention* (`attn`) looks back at earlier moments,
# 2. *cross-attention* (`cross_attn`) looks at the words of the prompt,
# 3. the *MLP* (`mlp`) thinks about this moment alone.
#
# Each adds its output to the stream. Every point on that way has a name. We call it a *site*.

# %%
for site in lens.sites.match("blocks.2.*"):
    print(f"{site.name:38}{' '.join(site.axes):28}{site.about}")

# %% [markdown]
# `blocks.2.attn.hook_z` is what the heads of layer 2's self-attention found. Its axes say how to read
# it: a row, a *position* in time, a head, and the vector. A position is a frame plus a little: the four
# codebooks are staggered by one position each.
#
# Do the names do what they say? Do not take our word for it:

# %%
report = lens.check()
print(repr(report).splitlines()[0])

# %% [markdown]
# The check wrote noise at every site that can be written, and looked whether the output moved.
#
# ## 4. Read one
#
# Which words does the model look at while it plays? Run the finished clip through the model again, and
# keep the pattern of cross-attention in one layer: for each head and moment, how its attention is
# shared out over the words.

# %%
layer = 2
clip = clips[0]
_, cache = lens.run_with_cache(clip.prompt, clip.codes[None], names_filter="cross_attn.pattern")
pattern = cache["cross_attn.pattern", layer][0]  # [head query token]
words = [word.lstrip("Ġ") for word in lens.text_tokens(clip.prompt)]
print("pattern", tuple(pattern.shape), "words", words)

figure, axes = plt.subplots(1, 4, figsize=(15, 2.8), layout="constrained", sharey=True)
most = pattern.max().item()
for head, panel in enumerate(axes):
    extent = (0, pattern.shape[1] / lens.cfg.frame_rate, len(words) - 0.5, -0.5)
    image = panel.imshow(pattern[head].T, aspect="auto", extent=extent, vmin=0, vmax=most)
    panel.set(title=f"layer {layer}, head {head}", xlabel="seconds")
axes[0].set_yticks(range(len(words)), words)
figure.colorbar(image, ax=axes, label="share of attention")
plt.show()

# %% [markdown]
# Some heads keep to one word all the time. Some change with the music. It is tempting to call a head
# that looks at "fast" *the tempo head*. Resist: a picture of attention says where a head looks, not what
# it does with what it sees. To find out what a part does, change it.
#
# ## 5. Write one
#
# Silence a part, and let the model play on. An `Intervention` says what is done, where, and to which
# rows. Here `replace` puts zeros in place of an MLP's output. One batch holds six rows of the same prompt
# and seed: row 0 is left alone, and in row `i + 1` the MLP of layer `i` is silent.
#
# Row 0 is the *twin* of the others. Same prompt, same seed, same random draws: whatever differs is the
# edit's doing.

# %%
prompt = "A fast bright pop piano melody"
nothing = torch.zeros(lens.cfg.d_model)
edits = [
    Intervention("mlp_out", replace(nothing), layers=i, rows=[i + 1], label=f"MLP {i} silent")
    for i in range(lens.cfg.n_layers)
]
with lens.intervene(*edits):
    silenced = lens.generate([prompt] * 6, seconds=7, seed=0, progress=False)
twin = silenced[0]
print("the twin is the clip from before:", torch.equal(twin.codes, clips[0].codes))
for clip in silenced:
    display(clip)


# %%
def compare(clip, twin):
    changed = (clip.codes != twin.codes).float().mean().item()
    m, before = measures(clip), measures(twin)
    return (
        f"{changed:7.0%}"
        f"{np.log2(m['bpm'] / before['bpm']):+11.2f}"
        f"{m['attacks'] - before['attacks']:+11.1f}"
        f"{semitones(m['centroid'], before['centroid']):+11.1f}"
        f"{before['flatness']:12.4f} -> {m['flatness']:.4f}"
    )


print(f"{'':16}{'codes':>7}{'tempo':>11}{'attacks/s':>11}{'centroid':>11}{'flatness':>22}")
print(f"{'':16}{'changed':>7}{'octaves':>11}{'':>11}{'semitones':>11}{'before -> after':>22}")
for i, clip in enumerate(silenced[1:]):
    print(f"MLP {i} silent    {compare(clip, twin)}")

# %% [markdown]
# If a row says about minus one octave while the attacks stay as they were, remember the eighth notes: did
# the music slow down, or did the kick leave out every other stroke? Listen before you answer.
#
# And now the question that must follow every effect: **compared with what?** Two clips with different
# seeds differ too, though nobody touched the model. How large are such changes?

# %%
others = lens.generate([prompt] * 4, seconds=7, seed=[1, 2, 3, 4], progress=False)
for clip in others:
    print(f"seed {clip.seed} for 0    {compare(clip, twin)}")

# %% [markdown]
# What was seen: a changed seed changes nearly all codes, and moves the measures as well. So "the codes
# changed" means little by itself, and a change of a few semitones in *one* clip means nothing yet. An
# edit counts when it moves a measure further than other seeds do, in one direction, over many prompts.
# That is why the package's demo steers eight prompts with two seeds each, and prints intervals. And an
# edit that makes noise moves every meter at once: look at the flatness before you call it brightness.
#
# One head is a smaller cut than an MLP. Silence each head of one layer's cross-attention, the part that
# reads the text:

# %%
layer = 2


def only_head(head):
    """A function that zeroes one head's result."""

    def op(tensor, coefficient, hook):
        tensor = tensor.clone()
        tensor[:, :, head] = 0
        return tensor

    return op


heads = [
    Intervention("cross_attn.result", only_head(h), layers=layer, rows=[h + 1], label=f"head {h}")
    for h in range(lens.cfg.n_heads)
]
with lens.intervene(*heads):
    silenced = lens.generate([prompt] * (1 + lens.cfg.n_heads), seconds=7, seed=0, progress=False)
for head, clip in enumerate(silenced[1:]):
    print(f"head {head} silent   {compare(clip, twin)}")

# %% [markdown]
# ## 6. Exercises
#
# **Exercise 1** (easy, 5 minutes). Where in time does an edit start to matter? Silence the MLP of layer 3
# from second 3 on, and find the first frame at which any code differs from the twin.
# Hint: `from audio_lens import window`, and `when=window(3.0)`.
#
# <details><summary>Solution</summary>
#
# ```python
# from audio_lens import window
#
# late = Intervention("mlp_out", replace(nothing), layers=3, when=window(3.0))
# with lens.intervene(late):
#     (cut,) = lens.generate(prompt, seconds=7, seed=0, progress=False)
# differ = (cut.codes != twin.codes).any(0).nonzero()
# print("first difference at", differ[0].item() / lens.cfg.frame_rate, "s")
# ```
#
# Not before 2.94 s: a window counts positions, and the last codebook lags three positions behind.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 2** (medium, 10 minutes). Take the text away by force: put zeros at `cross_attn_out` in all
# layers. What should the clip be equal to? Write your guess down, then test it.
#
# <details><summary>Solution</summary>
#
# ```python
# deaf = Intervention("cross_attn_out", replace(nothing))
# with lens.intervene(deaf):
#     (without_text,) = lens.generate(prompt, seconds=3, seed=0, progress=False)
# (unconditional,) = lens.generate(None, seconds=3, seed=0, progress=False)
# print("same codes:", f"{(without_text.codes == unconditional.codes).float().mean():.0%}")
# ```
#
# The clip without any prompt. Text enters through cross-attention and nowhere else. Both halves of the
# guided run then compute the same, so guidance has nothing to push away from.
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 3** (medium, 10 minutes). How much hiss is too much? Find the level at which the centroid of
# `clips[3]` has risen by one semitone. Is it above or below what you can hear?
#
# <details><summary>Solution</summary>
#
# ```python
# audio = clips[3].samples[0]
# noise = np.random.default_rng(1).standard_normal(len(audio))
# start = spectral_centroid(audio, 16000)
# for decibels in range(-60, 0, 5):
#     noisy = audio + noise * np.sqrt((audio**2).mean()) * 10 ** (decibels / 20)
#     rise = semitones(spectral_centroid(noisy, 16000), start)
#     print(f"{decibels} dB: {rise:+.1f} semitones")
#     if rise > 1:
#         break
# display(Clip(torch.tensor(noisy, dtype=torch.float32)[None], 16000, prompt="a semitone of hiss"))
# ```
# </details>

# %%
# your code

# %% [markdown]
# **Exercise 4** (harder, 15 minutes). Break `pulse_bpm` in a way that this notebook has not shown. Three
# ideas: a kick that speeds up, a bass that plays off the beat, two drummers at 90 and 100 BPM.
#
# <details><summary>Solution</summary>
#
# There are many. Two drummers:
#
# ```python
# both = strokes(90, 0.08, kick) + strokes(100, 0.08, kick)
# print("two drummers:", pulse_bpm(both, rate))
# drift = np.sin(2 * np.pi * 60 * time) * np.exp(-((time * (1 + 0.05 * time)) % 0.6) / 0.08)
# print("speeding up: ", pulse_bpm(drift, rate))
# ```
#
# A meter that says *nan* here is being honest. One that gives a number has picked a story.
# </details>

# %%
# your code

# %% [markdown]
# ## What you did, and what it does not show
#
# You made a transformer play, broke two meters before trusting them, named the inside, read a pattern
# over time, and silenced parts of the model against seed-matched twins and against other seeds.
#
# On the toy, what a head looks at and what an MLP does are facts about the toy. On MusicGen they are
# questions. The same lines work there: `AudioLens.from_pretrained("facebook/musicgen-small")`.
#
# Next: the [quickstart](../docs/quickstart.md) makes a direction and steers with it,
# [ways to use hooks](../docs/hooks.md) has all forms of an edit, and
# [gotchas](../docs/gotchas.md) has what surprises people.

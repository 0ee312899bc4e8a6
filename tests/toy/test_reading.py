"""Reading lessons: a caption's meaning can be told from the text encoder's states."""

import numpy as np
import torch

from audio_lens.audio import words
from audio_lens.audio.synthesis import draw, with_labels
from audio_lens.toy._reading import meanings


def test_meanings_are_the_labels():
    recipe = with_labels(
        draw(0), tempo_word="slow", timbre_word=None, instrument="piano", genre="reggae", drums=True
    )
    assert meanings(recipe) == (1, 2, 0, 11, 1)
    fast = with_labels(recipe, tempo_word="presto", timbre_word="glassy", drums=False)
    assert meanings(fast) == (0, 0, 0, 11, 0)


def test_the_packaged_encoder_tells_poles_apart_in_contexts_it_never_read(toy, processor):
    """A nearest mean learned on training captions names the pole of every pole prompt."""
    recipes = [draw(seed) for seed in range(600)]
    for concept in ("tempo", "timbre"):
        poles = words.pole_prompts(concept)
        fitted = [r for r in recipes if getattr(r, f"{concept}_word")]
        column = ("tempo", "timbre").index(concept)
        labels = np.array([meanings(recipe)[column] for recipe in fitted])
        states = _pooled(toy, processor, [recipe.caption for recipe in fitted])
        means = [states[labels == pole].mean(0) for pole in (0, 1)]
        heard = _pooled(toy, processor, [*poles.positive, *poles.negative])
        nearer_negative = np.linalg.norm(heard - means[1], axis=1) < np.linalg.norm(
            heard - means[0], axis=1
        )
        truth = np.repeat([False, True], 100)
        assert np.mean(nearer_negative == truth) > 0.9


def _pooled(toy, processor, texts) -> np.ndarray:
    text = processor(text=list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = toy.text_encoder(**text).last_hidden_state
    mask = text.attention_mask[..., None]
    return ((states * mask).sum(1) / mask.sum(1)).numpy()

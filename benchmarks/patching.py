"""`python -m benchmarks patching`: a grid of patches against TransformerLens's loop."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformer_lens import patching as theirs

from audio_lens import AudioLens, activation_patch, attribution_patch, metrics
from audio_lens.testing import random_musicgen

CLEAN, CORRUPTED = (
    "a slow piano melody over a steady beat",
    "a fast piano melody over a steady beat",
)
FRAMES = 61  # and a delay ramp of three: 64 positions
SAMPLE = 48


@contextmanager
def text_encoded_once(lens: AudioLens) -> Iterator[None]:
    """Both sides read the same prompts a thousand times: neither should pay for it."""
    encode, known = lens._conditioner._hidden, {}

    def remembered(prompts, run, length):
        key = (tuple(prompts), length)
        if key not in known:
            known[key] = encode(prompts, run, length)
        return known[key]

    lens._conditioner._hidden = remembered
    try:
        yield
    finally:
        del lens._conditioner._hidden


def clock(work) -> tuple[float, object]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def at_the_shape_of_small() -> None:
    """The whole grid by ours; theirs on cells drawn evenly, scaled up to the grid."""
    lens = random_musicgen("small")
    codes, others = (lens.random_codes(frames=FRAMES, seed=seed) for seed in (0, 1))
    metric = metrics.logprob(codes)
    n_cells = lens.cfg.n_layers * (FRAMES + 3)
    asked = {"clean": (CLEAN, codes), "corrupted": (CORRUPTED, others), "metric": metric}
    with text_encoded_once(lens), torch.no_grad():
        bound = lens.bind(CORRUPTED)
        tokens = bound.to_tokens(others)
        _, clean = lens.run_with_cache(CLEAN, codes, names_filter="resid_post")
        bound(tokens)
        forward, _ = clock(lambda: bound(tokens))

        def put(stream, index, activation):
            stream[:, index[1]] = activation[:, index[1]]
            return stream

        import pandas

        every = torch.linspace(0, n_cells - 1, SAMPLE).long().tolist()
        cells = pandas.DataFrame(
            {"layer": [n // 64 for n in every], "pos": [n % 64 for n in every]}
        )
        naive, sampled = clock(
            lambda: theirs.generic_activation_patch(
                bound, tokens, clean, lambda logits: metric(logits)[0], put, "resid_post",
                index_df=cells,
            )
        )  # fmt: skip
    ours, result = clock(lambda: activation_patch(lens, **asked, max_rows=24, progress=False))
    drawn = result.values.flatten()[every]
    apart, span = (drawn - sampled).abs().max(), drawn.max() - drawn.min()
    naive *= n_cells / SAMPLE
    print(
        f"{'small: 24 x 64 cells, their loop over ours':<58}{naive / ours:>7.2f}  target 5     "
        f"({naive:.0f} s from {SAMPLE} cells against {ours:.0f} s; values within {apart:.1e} "
        f"of theirs, over a span of {span:.1e})",
        flush=True,
    )
    gradients, _ = clock(lambda: attribution_patch(lens, **asked))
    print(
        f"{'small: attribution of the same grid, in forwards':<58}{gradients / forward:>7.2f}  "
        f"target 6     ({gradients:.1f} s against {forward:.2f} s)",
        flush=True,
    )

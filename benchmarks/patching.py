"""`python -m benchmarks patching`: a grid of patches against TransformerLens's loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformer_lens import patching as theirs

from audio_lens import AudioLens, activation_patch, attribution_patch, metrics
from audio_lens.testing import random_musicgen
from benchmarks.memory import peak_above
from benchmarks.timing import say, seconds

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


def clock(work) -> tuple[float, Any]:
    made = []
    return seconds(lambda: made.append(work())), made[0]


def grid(
    name: str, lens: AudioLens, *, batch: int, positions: range, sample: int, target: str
) -> None:
    """All layers at some positions by ours; theirs on cells drawn evenly, scaled up to the grid."""
    codes, others = (lens.random_codes(frames=FRAMES, batch=batch, seed=seed) for seed in (0, 1))
    metric = metrics.logprob(codes)
    asked = {"clean": (CLEAN, codes), "corrupted": (CORRUPTED, others), "metric": metric}
    n_cells = lens.cfg.n_layers * len(positions)
    with text_encoded_once(lens), torch.no_grad():
        bound = lens.bind([CORRUPTED] * batch)
        tokens = bound.to_tokens(others)
        _, clean = lens.run_with_cache([CLEAN] * batch, codes, names_filter="resid_post")
        bound(tokens)
        forward, _ = clock(lambda: bound(tokens))

        def put(stream, index, activation):
            stream[:, index[1]] = activation[:, index[1]]
            return stream

        import pandas

        every = torch.linspace(0, n_cells - 1, sample).long().tolist()
        cells = pandas.DataFrame(
            {
                "layer": [n // len(positions) for n in every],
                "pos": [positions[n % len(positions)] for n in every],
            }
        )
        naive, sampled = clock(
            lambda: theirs.generic_activation_patch(
                bound, tokens, clean, lambda logits: metric(logits).mean(), put, "resid_post",
                index_df=cells,
            )
        )  # fmt: skip
    spans = {str(position): range(position, position + 1) for position in positions}
    ours, result = clock(
        lambda: activation_patch(lens, **asked, positions=spans, max_rows=24, progress=False)
    )
    drawn = result.values.flatten()[every]
    apart, span = (drawn - sampled).abs().max(), drawn.max() - drawn.min()
    naive *= n_cells / sample
    say(
        f"{name}, their loop over ours",
        f"{naive / ours:.2f}",
        target,
        f"{naive:.0f} s from {sample} cells against {ours:.0f} s; values within {apart:.1e} of "
        f"theirs, over a span of {span:.1e}",
    )
    if batch > 1:
        return
    gradients, _ = clock(lambda: attribution_patch(lens, **asked, positions=spans))
    took = f"{gradients:.1f} s against {forward:.2f} s"
    say(f"{name}, attribution in forwards", f"{gradients / forward:.2f}", target and "6", took)


def peak_memory(lens: AudioLens) -> None:
    """What a grid with long rows takes beside the model, against the bound it was given."""
    frames, bound = 253, 1.0
    codes, others = (lens.random_codes(frames=frames, seed=seed) for seed in (0, 1))
    asked = {"clean": (CLEAN, codes), "corrupted": (CORRUPTED, others), "max_gib": bound}
    lens(CORRUPTED, others)
    spans = {str(position): range(position, position + 1) for position in (0, 128)}
    peak = peak_above(
        lambda: activation_patch(
            lens, **asked, metric=metrics.logprob(codes), positions=spans, max_rows=1000,
            progress=False,
        )
    )  # fmt: skip
    if peak is None:
        say("small: peak memory of a grid", "unknown", beside="this system does not tell")
        return
    name = "small: 24 x 2 cells of 256 positions, memory over its bound"
    say(name, f"{peak / bound:.2f}", "1.1", f"{peak:.2f} GiB of {bound:.2f}")


def at_the_shape_of_small() -> None:
    lens = random_musicgen("small")
    grid("small: 24 x 64 cells", lens, batch=1, positions=range(64), sample=48, target="5")
    few = {"positions": range(0, 64, 16), "sample": 8, "target": ""}
    grid("small: 24 x 4 cells", lens, batch=1, **few)
    grid("small: 24 x 4 cells, batch of 8", lens, batch=8, **few)
    peak_memory(lens)
    half = lens.to(torch.bfloat16)
    grid("small: 24 x 4 cells, bfloat16", half, batch=1, **few)

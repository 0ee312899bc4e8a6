"""How often a sampled code flips when its row is run in a batch instead of alone.

The same prompts and seeds are generated once as a batch and once row by row. Both draw the same
random numbers, so a code can differ only where floating-point rounding, which depends on the
batch size, meets a near-tie. After its first flip a row goes its own way, so each row counts up
to and including its first flip.

    python benchmarks/batch_rounding.py --batches 8 --dtype bfloat16
"""

import argparse
import time

import torch

from audio_lens.testing import random_musicgen


def first_flip(a: torch.Tensor, b: torch.Tensor, delays: tuple[int, ...]) -> tuple[int, bool]:
    """Codes drawn until the first step at which two rows differ, and whether they ever do."""
    differ = a != b
    drawn_at = torch.arange(a.shape[-1])[None] + torch.tensor(delays)[:, None]
    if not differ.any():
        return a.numel(), False
    return int((drawn_at <= drawn_at[differ].min()).sum()), True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    options = parser.parse_args()
    lens = random_musicgen(
        n_layers=options.layers, d_model=options.width, n_heads=options.width // 64,
        d_vocab=2048, d_text=768,
    )  # fmt: skip
    lens.to(getattr(torch, options.dtype))
    print(
        f"{options.layers} layers, width {options.width}, vocabulary 2048, guidance 3, top_k 250, "
        f"{lens.cfg.dtype}, {torch.get_num_threads()} thread(s)",
        flush=True,
    )
    made = {"seconds": options.seconds, "progress": False}
    codes = flips = 0
    widest = 0.0
    for batch in range(options.batches):
        start = time.perf_counter()
        seeds = [1000 * batch + row for row in range(options.rows)]
        prompts = [f"song number {seed}" for seed in seeds]
        together, logits = lens.generate(prompts, seed=seeds, names_filter="hook_logits", **made)
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            (alone,), own = lens.generate(prompt, seed=seed, names_filter="hook_logits", **made)
            counted, flipped = first_flip(alone.codes, together[row].codes, lens.cfg.delays)
            codes, flips = codes + counted, flips + flipped
            if not flipped:
                difference = own["hook_logits"][0].float() - logits["hook_logits"][row]
                widest = max(widest, float(difference.abs().max()))
        print(
            f"{flips} flips in {codes} codes; largest difference of a logit {widest:.1e}; "
            f"batch took {time.perf_counter() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()

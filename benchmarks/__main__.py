"""`python -m benchmarks [NAME ...]`: ratios with their targets; nothing here is a test.

Each pair of things is run alternately in one process; the median of the ratios of neighbouring
runs is printed with their spread, since timings drift more between runs than within one.
"""

import gc
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import nn

from audio_lens import AudioLens, Intervention, add
from audio_lens.testing import random_musicgen
from benchmarks import analysis, patching, steering
from benchmarks.timing import say, seconds

PROMPT = "a slow piano melody over a steady beat"


def pairs(ours: Callable, theirs: Callable, *, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both, run alternately after a warm-up of each."""
    ours(), theirs()
    timed = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return [a for a, _ in timed], [b for _, b in timed]


def ratio(name: str, ours: Callable, theirs: Callable, *, target: float, rounds: int) -> None:
    a, b = pairs(ours, theirs, rounds=rounds)
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    took = f"{statistics.median(a):.3f} s against {statistics.median(b):.3f} s"
    say(name, f"{statistics.median(ratios):.3f}", f"{target}", f"{spread}, {took}")


def unwrapped(lens: AudioLens) -> nn.Module:
    """The same model as transformers builds it, untouched by the lens."""
    model = type(lens.hf_model)(lens.hf_model.config)
    model.load_state_dict(lens.hf_model.state_dict())
    model.decoder.set_attn_implementation("sdpa")
    return model.eval()


def forward_of(model: nn.Module, lens: AudioLens, frames: int) -> Callable[[], object]:
    tokens = lens.delay.apply(lens.random_codes(frames=frames)).flatten(0, 1)

    def forward() -> object:
        inputs = lens.processor(text=[PROMPT], return_tensors="pt")  # the lens reads text too
        with torch.no_grad():
            return model(**inputs, decoder_input_ids=tokens, use_cache=False)

    return forward


def plain_forward(lens: AudioLens, frames: int) -> Callable[[], object]:
    codes = lens.random_codes(frames=frames)

    def forward() -> object:
        with torch.no_grad():
            return lens(PROMPT, codes)

    return forward


def steered(lens: AudioLens, layers: int) -> Intervention:
    vector = torch.randn(lens.cfg.d_model)
    return Intervention("resid_post", add(vector), layers=range(layers), coefficient=0.1)


def at_the_shape_of_small() -> None:
    lens = random_musicgen("small")
    model, frames = unwrapped(lens), 47
    theirs = forward_of(model, lens, frames)
    ratio("small: forward", plain_forward(lens, frames), theirs, target=1.02, rounds=7)

    streams = ["resid_pre", "resid_mid", "resid_mid2", "resid_post"]
    codes = lens.random_codes(frames=frames)

    def caching() -> object:
        with torch.no_grad():
            return lens.run_with_cache(PROMPT, codes, names_filter=streams)

    ratio("small: forward caching four residuals a layer", caching, theirs, target=1.10, rounds=7)

    made = {"seconds": 0.4, "progress": False}

    def transformers_generate() -> object:
        inputs = lens.processor(text=[PROMPT], return_tensors="pt")
        return model.generate(
            **inputs, do_sample=True, guidance_scale=3.0, top_k=250, max_new_tokens=23
        )

    def steered_generate() -> object:
        with lens.intervene(steered(lens, 24)):
            return lens.generate(PROMPT, **made)

    ratio(
        "small: generation steered at every layer",
        steered_generate,
        transformers_generate,
        target=1.02,
        rounds=3,
    )

    coefficients = [-1.0, -0.7, -0.4, -0.1, 0.1, 0.4, 0.7, 1.0]
    vector = torch.randn(lens.cfg.d_model)

    def one_by_one() -> None:
        for coefficient in coefficients:
            push = Intervention("resid_post", add(vector), coefficient=coefficient)
            with lens.intervene(push):
                lens.generate(PROMPT, **made)

    def as_a_batch() -> None:
        push = Intervention("resid_post", add(vector), coefficient=coefficients)
        with lens.intervene(push):
            lens.generate([PROMPT] * 8, **made)

    ratio(
        "small: eight coefficients, runs over a batch", one_by_one, as_a_batch, target=2.5, rounds=2
    )


def at_the_shape_of_the_toy() -> None:
    lens = random_musicgen(n_layers=5, d_model=128, n_heads=4, d_text=64)
    model, frames = unwrapped(lens), 201
    ours, theirs = pairs(plain_forward(lens, frames), forward_of(model, lens, frames), rounds=120)
    more = statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
    say("toy: more per forward, in ms", f"{1000 * more:.3f}", "1.0")

    made = {"seconds": 1.0, "progress": False, "guidance_scale": 1.0}
    steps = lens.delay.n_positions(50)

    def generate() -> object:
        return lens.generate(PROMPT, **made)

    # Thirty sites, since what five cost is less than a run's own unrest.
    sites = ["resid_mid", "resid_mid2", "resid_post", "attn_out", "cross_attn_out", "mlp_out"]
    everywhere = Intervention(sites, add(torch.randn(lens.cfg.d_model)), coefficient=0.1)

    def generate_written() -> object:
        with lens.intervene(everywhere):
            return lens.generate(PROMPT, **made)

    written, without = pairs(generate_written, generate, rounds=40)
    more = statistics.median(a - b for a, b in zip(written, without, strict=True))
    each = 1000 * more / (len(sites) * lens.cfg.n_layers * steps)
    say("toy: more per written site and step, in ms", f"{each:.3f}", "0.03")


def imports() -> None:
    def load(name: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {name}"], check=True)

    ratio("import audio_lens over import torch", load("audio_lens"), load("torch"),
          target=1.1, rounds=9)  # fmt: skip


def memory() -> None:
    import resource

    lens = random_musicgen(n_layers=3)
    codes = lens.random_codes(frames=50)

    def run() -> None:
        with lens.intervene(steered(lens, 3)):
            lens.run_with_cache(PROMPT, codes, guidance_scale=3.0)

    def peak() -> float:
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    for _ in range(50):
        run()
    before = peak()
    for _ in range(200):
        run()
    say("200 runs: growth of peak memory, in MiB", f"{peak() - before:.1f}", "0")


BENCHMARKS = {
    "import": imports,
    "memory": memory,
    "toy": at_the_shape_of_the_toy,
    "small": at_the_shape_of_small,
    "patching": patching.at_the_shape_of_small,
    "analysis": analysis.run,
    "steering": steering.run,
}

if __name__ == "__main__":
    names = sys.argv[1:] or list(BENCHMARKS)
    for unknown in set(names) - set(BENCHMARKS):
        sys.exit(f"no benchmark {unknown!r}: there are {', '.join(BENCHMARKS)}.")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), CPU, float32")
    for name in names:
        BENCHMARKS[name]()

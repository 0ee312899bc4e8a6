"""Write docs/sites.md from the site table; `--check` exits 1 when the page is stale.

    python docs/make_sites.py
    python docs/make_sites.py --check

The table, its order and the shapes come from `lens.sites`; the words around it are below.
"""
# ruff: noqa: T201

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from audio_lens.lens.sites import Site, SiteTable
from audio_lens.testing import SHAPES, Shape, random_musicgen

PAGE = Path(__file__).parent / "sites.md"

HEAD = """\
<!-- Written by docs/make_sites.py from the site table. Edit that script, not this page. -->
# Sites

A *site* is a named point in the decoder. You can read every site. You can write most of them.
This page is made from the table that the code itself uses; `print(lens.sites)` shows the same
table for your model, and `lens.check()` tests it.

Names follow TransformerLens. `{i}` stands for the layer. A function that asks for sites takes:

| you write | it means |
|---|---|
| `"blocks.3.attn.hook_z"` | one site |
| `"attn.z"`, `"resid_post"` | the shorthand: drop `blocks.{i}.` and `hook_`; every layer |
| `"blocks.*.hook_mlp_out"`, `"cross_attn.*"` | a glob over full names and shorthands |

A bare `"z"` is an error: self-attention and cross-attention both have one.

## A block

MusicGen's blocks are pre-norm: each sublayer reads a normalised copy of the residual stream and
adds its output to the stream. There are three sublayers, so there is one residual site more than
in a language model. `(+)` is that addition. Time runs downwards. Each block has {{n_block}} sites.

```text
{{drawing}}
```

Before the blocks: each codebook's token is looked up (`embed.hook_codebook`), the embeddings are
summed (`hook_embed`) and positions are added (`hook_pos_embed`). The sum enters block 0. After the
last block: `ln_final.*`, then one unembedding per codebook gives `hook_logits`. The text encoder
runs once: `text.hook_out`, then `text.hook_proj`, which every block's cross-attention reads.

## The table

In order of execution. Shapes are those of musicgen-small:
{{small}}.
`B` is rows, `P` positions, `T` text tokens. The batch axis always counts *rows*: never rows times
codebooks, and never both branches at once.

"""

MELODY = """
## Melody checkpoints

They have no cross-attention: chroma and text are a prefix of the decoder's own sequence, so their
blocks lack `ln_cross.*`, `cross_attn.*`, `hook_cross_attn_out` and `hook_resid_mid2`, and `pos`,
`query` and `key` count the prefix too ([stereo and melody](families.md) says how it is laid out).
All other sites are the same, but for these. Shapes are those of musicgen-melody:
{{melody}}. `A` is the positions of the music alone.

"""

TAIL = """
**Write.** `exact`: the model goes on with exactly the tensor you wrote. `delta`: the site is
computed beside the model, and your change to it is added to what it feeds, so leaving it as it is
changes nothing, to the bit. `no`: read-only; the error says what to write instead.

**Steps.** `every`: fires at each step of a generation, with the positions of that step. `first`:
fires once, at step 0, because its result is kept for the rest of the generation.

**Branches.** With guidance a run has two halves. `both` means that the site carries something in
each. `cond` means that the unconditional half has nothing there which could change its output.

**Axes.** `pos` counts positions, `query` and `key` positions in their two roles. While generating,
`pos` and `query` hold the positions of the step (one, after the first step), and `key` all so far.
`audio_pos` counts the music's positions where `pos` would also count a prefix.
`hook_attn_scores` are scaled and masked: a masked key holds minus infinity. A query that may attend
to nothing has a pattern of zeros.

**Two names to know.** `ln*.hook_normalized` is the LayerNorm's output, weight and bias applied.
`hook_resid_mid` lies after self-attention and `hook_resid_mid2` after cross-attention.

See also [how to use hooks](hooks.md) and [gotchas](gotchas.md).
"""

NAMES = {
    "batch": "B", "pos": "P", "query": "P", "key": "P", "token": "T", "1": "1", "audio_pos": "A"
}  # fmt: skip


def sizes_of(shape: Shape) -> dict[str, int]:
    """Sizes of the axes at a published shape."""
    return {
        "codebook": shape.n_codebooks,
        "vocab": shape.d_vocab,
        "d_model": shape.d_model,
        "head": shape.n_heads,
        "d_head": shape.d_model // shape.n_heads,
        "d_mlp": shape.d_mlp or 4 * shape.d_model,
        "d_text": shape.d_text,
        "chroma": shape.chroma_length,
    }


def in_words(shape: Shape) -> str:
    return (
        f"{shape.n_layers} layers, width {shape.d_model}, {shape.n_heads} heads, "
        f"{shape.n_codebooks} codebooks of {shape.d_vocab} entries"
    )


def families(sites: SiteTable) -> list[Site]:
    """One site per family, in order of execution."""
    first: dict[str, Site] = {}
    for site in sites:
        first.setdefault(site.family, site)
    return list(first.values())


def table(sites: Iterable[Site], shape: Shape) -> str:
    sizes = sizes_of(shape)
    lines = [
        "| site | axes | shape | write | steps | branches | what it is |",
        "|---|---|---|---|---|---|---|",
    ]
    for site in sites:
        size = " ".join(NAMES.get(axis) or str(sizes[axis]) for axis in site.axes)
        branches = "both" if len(site.branches) > 1 else site.branches[0]
        lines.append(
            f"| `{site.family}` | {' '.join(site.axes)} | {size} | {site.write} | {site.steps} "
            f"| {branches} | {site.about} |"
        )
    return "\n".join(lines) + "\n"


def attention(sites: SiteTable, kind: str, norm: str, out: str, reads: str) -> list[str]:
    names = [s.shorthand for s in families(sites) if s.shorthand.startswith(f"{kind}.")]
    inside = [name.removeprefix(f"{kind}.") for name in names]
    return [
        f"  |---> {norm}.scale, {norm}.normalized",
        f"  |       {kind}: {', '.join(inside[:3])}{reads}",
        f"  |              {', '.join(inside[3:5])}",
        f"  |              {', '.join(inside[5:])}",
        f" (+)<-- {out}",
        "  |",
    ]


def drawing(sites: SiteTable) -> str:
    """The block as text; raises if the table has a site of a block that it leaves out."""
    lines = [
        "resid_pre",
        "  |",
        *attention(sites, "attn", "ln1", "attn_out", ""),
        "resid_mid",
        "  |",
        *attention(sites, "cross_attn", "ln_cross", "cross_attn_out", "   <-- k, v: text.proj"),
        "resid_mid2",
        "  |",
        "  |---> ln2.scale, ln2.normalized",
        "  |       mlp: pre",
        "  |            post",
        " (+)<-- mlp_out",
        "  |",
        "resid_post",
    ]
    text = "\n".join(lines)
    for site in families(sites):
        word = site.shorthand.rpartition(".")[2]
        if site.layer is not None and word not in text:
            raise SystemExit(f"the drawing leaves out {site.family}: add it to {__file__}.")
    return text


def page() -> str:
    sites = random_musicgen(n_layers=1).sites
    small, melody = SHAPES["small"], SHAPES["melody"]
    head = HEAD.replace("{{drawing}}", drawing(sites)).replace("{{small}}", in_words(small))
    n_block = sum(site.layer is not None for site in families(sites))
    known = {(site.family, site.axes, site.about, site.branches) for site in sites}
    others = [
        site
        for site in families(random_musicgen(n_layers=1, melody=True).sites)
        if (site.family, site.axes, site.about, site.branches) not in known
    ]
    return (
        head.replace("{{n_block}}", str(n_block))
        + table(families(sites), small)
        + MELODY.replace("{{melody}}", in_words(melody))
        + table(others, melody)
        + TAIL
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 when the page is stale")
    options = parser.parse_args()
    made = page()
    if not options.check:
        PAGE.write_text(made)
        return 0
    if PAGE.is_file() and PAGE.read_text() == made:
        return 0
    print(f"{PAGE.name} is stale: run `python docs/make_sites.py`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

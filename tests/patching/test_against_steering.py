"""Where patching finds a word in the toy, steering acts."""

import json

from audio_lens import AudioLens, activation_patch, metrics
from audio_lens.audio.words import pole_prompts
from audio_lens.lens.loading import CHECKPOINTS


def test_tempo_enters_the_toy_where_its_direction_steers() -> None:
    lens, poles = AudioLens.from_pretrained("toy"), pole_prompts("tempo")
    fast, slow = poles.positive[:8], poles.negative[:8]
    clips = lens.generate(fast, seconds=3.0, seed=list(range(8)), progress=False)
    codes = lens.encode(clips)
    grid = activation_patch(
        lens, clean=(fast, codes), corrupted=(slow, codes), site="cross_attn_out",
        axes=("layer",), metric=metrics.logprob(codes), progress=False,
    )  # fmt: skip
    patched = int(grid.best()["layer"])
    measured = json.loads((CHECKPOINTS["toy"] / "evaluation.json").read_text())
    scan = measured["steering"]["tempo"]["choice"]["scan"]
    for asked in (("one_to_one", "cond"), ("one_to_all", "both")):
        reached = {
            way["source_layer"]: way["reached"]
            for way in scan
            if (way["site"], way["strategy"], way["branch"]) == ("cross_attn_out", *asked)
        }
        assert max(reached, key=reached.__getitem__) == patched
    assert grid.recovery[patched] > 0.25

"""A concept and settings with few clips, for tests."""

from dataclasses import replace

from audio_lens.recipes import timbre
from audio_lens.recipes.study.settings import StudySettings

FEW = replace(timbre, neutral=timbre.neutral[::4], dev=tuple(timbre.neutral[::4][:4]))
SETTINGS = StudySettings(
    seconds=2.0, rows_at_once=8, pairs=12, direction_seconds=2.0, normal_clips=16, pole_seeds=1,
    strategies=("one_to_one",), branches=("both",), scan_prompts=4, scan_nats=(0.1,),
    nats=(0.05, 0.2), finalists=1, dev_seeds=1, compare_seeds=1, compare_nats=(0.05, 0.2),
    doses=(0.5, 1.0), test_seeds=2, random_draws=2, distortion_clips=4, patched_clips=2,
    patched_seconds=1.0, guidance_tried=(6.0,), text_pairs=2, text_steps=(0.0, 1.0),
)  # fmt: skip

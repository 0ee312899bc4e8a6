"""The guard: silence, a repeated frame, random codes, clipping each fail by name; music passes."""

import numpy as np
import pytest
import torch

from audio_lens import AudioLens
from audio_lens.audio.quality import (
    Limits,
    Verdict,
    Vitals,
    code_log_probability,
    quality_guard,
    vitals,
)
from audio_lens.audio.synthesis import draw, render
from audio_lens.errors import InputError

RATE = 16_000


def heard(seed: int) -> Vitals:
    """Of a labelled clip."""
    return vitals(render(draw(seed), 5.0), RATE)


@pytest.fixture(scope="module")
def limits() -> Limits:
    return Limits.from_pool([heard(seed) for seed in range(100)])


@pytest.fixture(scope="module")
def twin() -> Vitals:
    return heard(3)


@pytest.fixture(scope="module")
def toy() -> AudioLens:
    return AudioLens.from_pretrained("toy")


def sound_of(toy: AudioLens, codes: torch.Tensor) -> np.ndarray:
    from audio_lens.lens.generation import decode_codes

    return decode_codes(toy, codes)[0].numpy()


def failures(wave: np.ndarray, twin: Vitals, limits: Limits | None = None, **options) -> set[str]:
    return set(quality_guard(vitals(wave, RATE), twin, limits, **options).failures)


def test_clips_outside_the_pool_pass(limits):
    clips = [heard(seed) for seed in range(1000, 1100)]
    passed = [quality_guard(clip, clip, limits).passed for clip in clips]
    assert np.mean(passed) >= 0.95


def test_silence_fails(twin, limits):
    for given in (None, limits):
        assert failures(np.zeros(5 * RATE), twin, given) == {"silent", "level"}
    half = render(draw(3), 5.0)
    half[3 * RATE :] = 0
    assert "silent" in failures(half, twin, limits)


def test_one_repeated_frame_fails(toy, twin, limits):
    for seed in range(3):
        one = toy.random_codes(frames=1, seed=seed).repeat(1, 1, 250)
        for given in (None, limits):
            assert "loop" in failures(sound_of(toy, one), twin, given)


def test_random_codes_fail(toy, twin, limits):
    for seed in range(3):
        wave = sound_of(toy, toy.random_codes(frames=250, seed=seed))
        assert "flatness" in failures(wave, twin, limits)
        assert "tempo" in failures(wave, twin, limits, tempo="pulse")


def test_random_codes_fail_by_their_probability(toy, twin):
    """Against what the model itself draws, without any help from the sound."""
    prompts = ["pop music with piano"] * 36
    clips = toy.generate(prompts, seed=list(range(36)), seconds=2.0, progress=False)
    own = torch.stack([clip.codes for clip in clips])
    random = toy.random_codes(frames=own.shape[-1], batch=4, seed=0)
    with torch.no_grad():
        own, random = (
            code_log_probability(toy(prompts[: len(codes)], codes), codes).tolist()
            for codes in (own, random)
        )
    heard = [vitals(c.samples, RATE, log) for c, log in zip(clips, own, strict=True)]
    learnt = Limits.from_pool(heard[:24])
    for values in random:
        clip = vitals(clips[0].samples, RATE, values)
        assert set(quality_guard(clip, clip, learnt).failures) == {"codes"}
    outside = [quality_guard(clip, clip, learnt).failures for clip in heard[24:]]
    assert np.mean(["codes" not in failed for failed in outside]) >= 0.8


def test_clipping_fails(twin, limits):
    loud = np.clip(render(draw(3), 5.0) * 30, -1, 1)
    for given in (None, limits):
        assert {"clipped", "level"} <= failures(loud, twin, given)


def test_noise_fails_without_a_pool(twin):
    noise = 0.05 * np.random.default_rng(0).standard_normal(5 * RATE)
    assert failures(noise, twin) == {"flatness"}
    assert failures(noise, twin, tempo="beat") == {"flatness", "tempo"}


def test_a_jump_in_level_fails_in_both_directions(twin):
    wave = render(draw(3), 5.0)
    for gain in (-13, 13):
        changed = failures(wave * 10 ** (gain / 20), twin)
        assert "level" in changed
    assert failures(wave * 10 ** (-11 / 20), twin) == set()


def test_reasons_have_numbers(twin):
    verdict = quality_guard(vitals(np.zeros(5 * RATE), RATE), twin)
    assert not verdict.passed
    assert "silent: 100 % of frames are silent, at most 20 % may be" in str(verdict)
    assert f"-inf LUFS, more than 12 dB from the twin's {twin.loudness:.1f} LUFS" in str(verdict)
    assert str(Verdict({})) == "passed"


def plain(**changes: object) -> Vitals:
    return Vitals(
        **{
            "silent": 0.0,
            "clipped": 0.0,
            "loudness": -25.0,
            "flatness": 0.01,
            "loop": 0.1,
            "pulse": 100.0,
            "beat": 100.0,
        }
        | changes
    )


def test_too_likely_codes_fail_as_too_unlikely_ones_do():
    rng = np.random.default_rng(0)
    pool = [plain(log_probability=tuple(row)) for row in rng.normal(-4, 0.2, (200, 4))]
    limits = Limits.from_pool(pool)
    for codes, passes in (
        ((-4.0,) * 4, True),
        ((-4, -4, -4, -1.0), False),
        ((-4, -9.0, -4, -4), False),
    ):
        clip = plain(log_probability=tuple(map(float, codes)))
        assert quality_guard(clip, clip, limits).passed is passes
    verdict = quality_guard(plain(log_probability=(-4.0, -9.0, -4.0, -4.0)), plain(), limits)
    assert "codebook 1 has a mean log-probability of -9.00 nats, outside -4." in str(verdict)
    assert quality_guard(plain(), plain(), limits).passed  # not measured, not judged


def test_four_codebooks_make_no_more_alarms_than_one():
    rng = np.random.default_rng(1)
    rate = []
    for n in (1, 4):
        draws = rng.normal(-4, 0.2, (4000, n))
        clips = [plain(log_probability=tuple(row)) for row in draws]
        limits = Limits.from_pool(clips[:2000])
        rate.append(np.mean([not quality_guard(c, c, limits).passed for c in clips[2000:]]))
    assert rate == pytest.approx([0.02, 0.02], abs=0.012)


def test_a_small_pool_makes_hardly_more_alarms_than_a_large_one():
    """A new clip is beyond the fourth largest of 160 with a chance of 4 in 161."""
    rng = np.random.default_rng(2)
    beyond = []
    for _ in range(60):
        draws = rng.gumbel(-4, 0.2, (260, 4))  # with one tail longer than the other
        clips = [plain(log_probability=tuple(row)) for row in draws]
        limits = Limits.from_pool(clips[:160])
        beyond += [not quality_guard(c, c, limits).passed for c in clips[160:]]
    assert np.mean(beyond) == pytest.approx(4 / 161, abs=0.008)


def test_limits_come_from_the_pool():
    pool = [plain(flatness=i / 1000, loop=i / 200) for i in range(1, 101)]
    limits = Limits.from_pool(pool, level=6.0)
    assert (limits.flatness, limits.loop, limits.level) == (0.1, 0.5, 6.0)
    stricter = Limits.from_pool(pool, share=0.1)
    assert stricter.flatness == pytest.approx(0.091, abs=0.001)
    unknown = [plain(loop=float("nan"))] * 20
    assert Limits.from_pool(unknown).loop == np.inf


def test_bad_pools_and_clips():
    with pytest.raises(InputError, match="19 clips are too few"):
        Limits.from_pool([plain()] * 19)
    with pytest.raises(InputError, match="give all or none"):
        Limits.from_pool([plain()] * 10 + [plain(log_probability=(-4.0,))] * 10)
    with pytest.raises(InputError, match="share=1"):
        Limits.from_pool([plain()] * 20, share=1.0)
    with pytest.raises(InputError, match="shorter than 2 s"):
        vitals(np.zeros(RATE), RATE)
    limits = Limits.from_pool([plain(log_probability=(-4.0,))] * 20)
    with pytest.raises(InputError, match="2 codebooks, the limits of 1"):
        quality_guard(plain(log_probability=(-4.0, -4.0)), plain(), limits)


def test_log_probability_by_hand_and_by_shape():
    logits = torch.zeros(1, 1, 2, 2)
    logits[0, 0, 1] = torch.tensor([np.log(3.0), 0.0])
    codes = torch.tensor([[[0, 0]]])
    expected = (np.log(0.5) + np.log(0.75)) / 2
    assert float(code_log_probability(logits, codes)) == pytest.approx(expected)


def test_logits_of_other_codes_are_refused(as_users_see_it):
    with pytest.raises(InputError, match="same clips"):
        code_log_probability(torch.zeros(1, 4, 9, 8), torch.zeros(1, 4, 8).long())


def test_codes_that_are_all_alike_give_no_nonsense():
    pool = [plain(log_probability=(-4.0, -3.0 - 0.01 * n)) for n in range(30)]
    pool += [plain(log_probability=(-4.0, -3.1))]
    (low, high), (_, end) = Limits.from_pool(pool).log_probability
    assert low == high == -4.0
    assert -3.0 <= end < -2.5

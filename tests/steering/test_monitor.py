"""Self-monitoring: what was read turns steering up or down, row by row, the same in both runs."""

import numpy as np
import pytest
import torch

from audio_lens import Direction, InputError, Intervention, Probe, SiteError, add
from audio_lens.steering import fading, holding, monitor, until

PROMPTS = ["slow piano", "fast drums"]
UP = Direction({("resid_post", 1): torch.randn(64, generator=torch.Generator().manual_seed(3))})


def first_number(x):
    return x[:, 0]


def heard(lens, schedule, codes=None, *, layer=1, seconds=0.3):
    """The factors that steering had, [row pos], in a generation or over codes; and the clips."""
    found = {}

    def note(tensor, coefficient, hook):
        if hook.branch == "cond":
            for n, position in enumerate(hook.positions):
                column = coefficient.flatten(1)
                found[position] = column[:, n if column.shape[1] > 1 else 0].clone()
        return tensor + 0.1 * coefficient * UP.layer(1)

    with lens.intervene(Intervention("resid_post", note, layers=layer, coefficient=schedule)):
        if codes is None:
            clips = lens.generate(PROMPTS, seconds=seconds, progress=False)
        else:
            clips = lens(PROMPTS, codes, guidance_scale=3.0)
    n = max(found) + 1
    return torch.stack([found[place] for place in range(n)], 1), clips


@pytest.mark.parametrize(
    "options", [{}, {"seconds": 0.1}, {"every": 4}, {"branch": "uncond"}, {"seconds": 0.02}]
)
@pytest.mark.parametrize("respond", [until(0.05), fading(0.1, rate=0.3), holding(0.1, gain=0.5)])
def test_a_generation_and_its_codes_are_turned_alike(lens, respond, options) -> None:
    """And the factors are those of the readings in plain arithmetic."""
    schedule = monitor(first_number, respond, site="resid_post", layer=0, **options)
    factors, clips = heard(lens, schedule)
    codes = torch.stack([clip.codes for clip in clips])
    again, _ = heard(lens, schedule, codes)
    assert torch.allclose(again[:, : factors.shape[1]], factors, atol=1e-3)

    branch = options.get("branch", "cond")
    _, cache = lens.run_with_cache(PROMPTS, codes, names_filter="resid_post", guidance_scale=3.0)
    part = cache.branch(branch)["resid_post", 0]
    read = part[:, part.shape[1] - factors.shape[1] :, 0]
    first = max(lens.cfg.delays) + 1  # BOS and the delay ramp are not read
    expected = [torch.ones(2)] * (first + 1)
    width = max(round(options["seconds"] * 50), 1) if "seconds" in options else 10**6
    for n in range(first, factors.shape[1] - 1):
        factor = expected[-1]
        if (n - first + 1) % options.get("every", 1) == 0:
            factor = respond(read[:, max(first, n + 1 - width) : n + 1].mean(1), factor)
        expected.append(factor)
    assert torch.allclose(factors, torch.stack(expected, 1), atol=1e-3)


def test_rows_are_turned_apart(lens) -> None:
    calls = []

    def odd_row(x):
        calls.append(len(x))
        return torch.tensor([0.0, 1.0])

    schedule = monitor(odd_row, until(0.5), site="resid_post", layer=0)
    factors, _ = heard(lens, schedule)
    assert factors[0].tolist() == [1.0] * factors.shape[1]
    first = max(lens.cfg.delays) + 2
    assert factors[1].tolist() == [1.0] * first + [0.0] * (factors.shape[1] - first)
    assert set(calls) == {2}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_probes_and_directions_are_read(lens) -> None:
    along = monitor(UP, lambda value, factor: value)
    factors, clips = heard(lens, along, layer=2)
    codes = torch.stack([clip.codes for clip in clips])
    _, cache = lens.run_with_cache(PROMPTS, codes, names_filter="resid_post", guidance_scale=3.0)
    stream = cache["resid_post", 1]
    stream = stream[:, stream.shape[1] - factors.shape[1] :]
    first = max(lens.cfg.delays) + 1
    full = stream[:, first:]
    means = full.cumsum(1) / torch.arange(1, full.shape[1] + 1)[:, None]
    expected = means @ UP.unit().layer(1)
    assert torch.allclose(factors[:, first + 1 :], expected[:, :-1], atol=1e-3)

    x = stream.flatten(0, 1)
    labels = np.where((x @ UP.layer(1)) > (x @ UP.layer(1)).median(), "up", "down")
    probe = Probe.fit(x, labels, site="resid_post", layer=1, shuffles=1)
    factors, _ = heard(lens, monitor(probe, lambda value, factor: value), codes, layer=2)
    told = probe.read(means[:, 0])[:, 0].sigmoid()
    assert torch.allclose(factors[:, first + 1], told, atol=1e-3)
    small = Probe.fit(x, labels, kind="mlp", site="resid_post", layer=1, shuffles=1)
    factors, _ = heard(lens, monitor(small, lambda value, factor: value), codes, layer=2)
    assert torch.allclose(factors[:, first + 1], small.read(means[:, 0])[:, 0], atol=1e-3)


def test_a_heads_probe_reads_its_head(lens) -> None:
    z = torch.randn(60, 4, 16, generator=torch.Generator().manual_seed(0))
    labels = np.where(z[:, 2, 0] > 0, "up", "down")
    head = Probe.fit_parts(z, labels, site="attn.z", layer=1, shuffles=1)[2]
    factors, clips = heard(lens, monitor(head, lambda value, factor: value), layer=1)
    codes = torch.stack([clip.codes for clip in clips])
    _, cache = lens.run_with_cache(PROMPTS, codes, names_filter="attn.z", guidance_scale=3.0)
    first = max(lens.cfg.delays) + 1
    stream = cache["attn.z", 1]
    x = stream[:, stream.shape[1] - factors.shape[1] + first]
    assert torch.allclose(factors[:, first + 1], head.read(x[:, 2])[:, 0].sigmoid(), atol=1e-3)


@pytest.mark.parametrize("seconds", [None, 0.1])
def test_what_is_read_where_it_steers_is_what_was_there_before(lens, seconds) -> None:
    """The stream is written in place after it was read: readings must not follow."""
    schedule = monitor(UP, lambda value, factor: 1 + 0 * value, seconds=seconds)
    readings = []

    def note(value, factor):
        readings.append(value)
        return factor

    spied = monitor(UP, note, seconds=seconds)
    with lens.steer(3.0 * UP, schedule=schedule * spied):
        clips = lens.generate(PROMPTS, seconds=0.4, progress=False)
        made, readings[:] = list(readings), []
        lens(PROMPTS, torch.stack([clip.codes for clip in clips]), guidance_scale=3.0)
    n = len(made)
    assert torch.allclose(torch.stack(made), torch.stack(readings[:n]), atol=1e-2)


def test_a_monitor_in_two_blocks_reads_once(lens) -> None:
    counted = []

    def count(x):
        counted.append(1)
        return x[:, 0]

    once = monitor(count, until(1e9), site="resid_post", layer=0)
    with lens.steer(UP, schedule=once), lens.steer(UP, schedule=once):
        lens.generate(PROMPTS, seconds=0.2, progress=False)
    n_positions = lens.delay.n_positions(10)
    assert len(counted) == n_positions - max(lens.cfg.delays) - 1


def test_nothing_is_left_of_a_run(lens) -> None:
    schedule = monitor(first_number, holding(0.1), site="resid_post", layer=0)
    first, _ = heard(lens, schedule)
    second, _ = heard(lens, schedule)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="stop"):
        heard(
            lens,
            monitor(stop, until(1), site="resid_post", layer=0),
        )
    third, _ = heard(lens, schedule)
    assert torch.equal(first, third)


def stop(x):
    raise RuntimeError("stop")


def test_monitors_multiply_and_steer(lens) -> None:
    schedule = 0.5 * monitor(first_number, until(1e9), site="resid_post", layer=0)
    with lens.steer(UP, schedule=schedule, coefficient=[1.0, 2.0]):
        steered = lens.generate(PROMPTS, seconds=0.2, progress=False)
    with lens.steer(UP, coefficient=[0.5, 1.0]):
        same = lens.generate(PROMPTS, seconds=0.2, progress=False)
    for one, other in zip(steered, same, strict=True):
        assert torch.equal(one.codes, other.codes)


@pytest.mark.families("mono")
def test_what_cannot_be_read_is_named(lens) -> None:
    late = monitor(first_number, until(1.0), site="resid_post", layer=2)
    codes = lens.random_codes(frames=7, batch=2)
    with pytest.raises(InputError, match="must read in front of where it steers"):
        heard(lens, late, codes, layer=0)
    heard(lens, late, layer=0)  # step by step, all that came before was read
    for read, respond, match in (
        (lambda x: x, until(1.0), "read gave"),
        (first_number, lambda value, factor: factor / 0, "respond gave"),
    ):
        with pytest.raises(InputError, match=match):
            heard(lens, monitor(read, respond, site="resid_post", layer=0))
    with pytest.raises(InputError, match="give site= and layer="):
        monitor(first_number, until(1.0))
    both = Direction({("resid_post", n): torch.ones(64) for n in (0, 1)})
    with pytest.raises(InputError, match=r"layers \[0, 1\]: say site= and layer="):
        monitor(both, until(1.0))
    monitor(both, until(1.0), layer=1)
    many = Probe.fit(torch.randn(60, 4), np.arange(60) % 3, shuffles=1)
    with pytest.raises(InputError, match="tells 3 classes"):
        monitor(many, until(1.0))
    two = Probe.fit(torch.randn(60, 4), np.arange(60) % 2, kind="mass_mean", shuffles=1)
    with pytest.raises(InputError, match="no probability"):
        monitor(two, until(1.0))
    with pytest.raises(InputError, match="reads where it was fitted"):
        monitor(many, until(1.0), layer=1)
    across = monitor(first_number, until(1.0), site="attn.pattern", layer=1)
    with pytest.raises(SiteError, match="position by position"), lens.steer(UP, schedule=across):
        pass
    with pytest.raises(InputError, match="every=0"):
        monitor(UP, until(1.0), every=0)


def test_an_addition_by_a_monitor_is_what_it_says(lens) -> None:
    codes = lens.random_codes(frames=7, batch=2)
    off = monitor(lambda x: torch.ones(2), until(0.5), site="resid_post", layer=0)
    push = Intervention("resid_post", add(UP.layer(1)), layers=1, coefficient=off)
    with torch.no_grad():
        _, plain = lens.run_with_cache(PROMPTS, codes, names_filter="resid_post")
        with lens.intervene(push):
            _, edited = lens.run_with_cache(PROMPTS, codes, names_filter="resid_post")
    first = plain.layout.audio.start or 0
    a, b = plain["resid_post", 1], edited["resid_post", 1]
    last = first + max(lens.cfg.delays) + 2  # nothing is read before all codebooks hold a code
    assert torch.allclose(b[:, :last], a[:, :last] + UP.layer(1), atol=1e-5)
    assert torch.equal(b[:, last:], a[:, last:])

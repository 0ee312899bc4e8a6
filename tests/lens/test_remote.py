"""A forward trace travels: the lens stays, and the server's own lens stands in for it."""

import json

import nnsight
import pytest
import torch
from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES
from nnsight.intervention.serialization import UnknownPersistentIdError
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import dec, inc

from audio_lens import AudioLens
from audio_lens.errors import AudioLensError, InputError
from audio_lens.testing import random_musicgen

PROMPT = "a slow piano melody"


class Mail(Backend):
    """Keeps what would be sent to a server, and runs nothing."""

    def __call__(self, tracer: object) -> None:
        self.sent = RequestModel.serialize(tracer)


def received(sent: bytes, server: AudioLens) -> dict[str, object]:
    """What a server that holds this lens makes of a request: the variables of its block."""
    tracer = RequestModel.deserialize(sent, server._remoteable_persistent_objects())
    inc()  # as in a trace, so that save() is allowed
    try:
        tracer.execute(tracer.info.code)
    finally:
        dec()
    return tracer.info.frame.f_locals


@pytest.fixture(scope="module")
def client() -> AudioLens:
    """One family is enough: what travels is the same for all."""
    return random_musicgen(n_layers=3, d_model=64, n_heads=4, seed=0)


@pytest.fixture
def by_value() -> object:
    """The package as nnsight sends what is not installed: with the source of all it refers to."""
    before = set(_PICKLE_BY_VALUE_MODULES)
    nnsight.register("audio_lens")
    yield
    _PICKLE_BY_VALUE_MODULES.clear()
    _PICKLE_BY_VALUE_MODULES.update(before)


def expected(client: AudioLens, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    def zero(tensor, *, hook):
        return torch.zeros_like(tensor)

    with torch.no_grad(), client.hooks([("blocks.0.hook_mlp_out", zero)]):
        logits, cache = client.run_with_cache(PROMPT, codes)
    return cache["attn.z", 1], logits


def test_a_rehearsal_reads_and_writes_sites(client):
    codes = client.random_codes(frames=5)
    with torch.no_grad(), client.trace(PROMPT, codes, remote="local") as tracer:
        client.set_site("blocks.0.hook_mlp_out", torch.zeros(1, 8, 64))
        z = client.site("blocks.1.attn.hook_z").save()
        logits = tracer.result.save()
    assert all(map(torch.equal, (z, logits), expected(client, codes)))
    with torch.no_grad():
        assert not torch.equal(client(PROMPT, codes), logits)  # nothing of it is left behind


def test_a_server_uses_its_own_lens(client, by_value):
    codes = client.random_codes(frames=5)
    mail = Mail()
    with torch.no_grad(), client.trace(PROMPT, codes, backend=mail) as tracer:
        client.set_site("blocks.0.hook_mlp_out", torch.zeros(1, 8, 64))
        z = client.site("blocks.1.attn.hook_z").save()  # noqa: F841 - read from what comes back
        logits = tracer.result.save()  # noqa: F841
    assert len(mail.sent) < 10_000  # neither weights nor tokenizer nor the site table
    assert b"audio_lens" not in mail.sent  # nor source: the server has this package
    server = random_musicgen(n_layers=3, d_model=64, n_heads=4, seed=1)
    with torch.no_grad():
        found = received(mail.sent, server)
    theirs = expected(server, codes)
    assert torch.equal(found["z"], theirs[0])
    assert torch.equal(found["logits"], theirs[1])
    assert not torch.equal(found["z"], expected(client, codes)[0])


def test_a_server_with_another_checkpoint_refuses(client):
    mail = Mail()
    with client.trace(PROMPT, client.random_codes(frames=4), backend=mail):
        client.site("blocks.1.attn.hook_z").save()
    other = AudioLens.from_model(random_musicgen(n_layers=1).hf_model, name="another")
    with pytest.raises(UnknownPersistentIdError, match="AudioLens:random"):
        received(mail.sent, other)


@pytest.mark.parametrize("remote", ["local", True])
def test_active_hooks_do_not_travel(client, remote):
    codes = client.random_codes(frames=4)
    with client.hooks([("resid_post", lambda tensor, *, hook: None)]):
        with (
            pytest.raises(AudioLensError, match="hooks do not travel"),
            client.trace(PROMPT, codes, remote=remote),
        ):
            client.site("blocks.1.attn.hook_z").save()
        with (
            pytest.raises(AudioLensError, match="hooks do not travel"),
            client.session(remote=remote),
        ):
            pass


@pytest.mark.parametrize("remote", ["local", True])
def test_decoding_does_not_travel(client, remote):
    with (
        pytest.raises(InputError, match="decoding does not travel"),
        client.trace(
            PROMPT, fn=client.generate, seconds=0.1, progress=False, remote=remote
        ) as tracer,
    ):
        tracer.result.save()


def test_a_server_finds_the_same_checkpoint(monkeypatch):
    name = "somebody/musicgen-new"
    monkeypatch.setattr("nnsight.modeling.huggingface._ID_CACHE", {name: name})
    model = random_musicgen(n_layers=1).hf_model
    key = AudioLens(model, name=name, revision="v2").to_model_key()
    path, _, said = key.partition(":")
    assert path == "audio_lens.lens.lens.AudioLens"
    assert json.loads(said) == {"repo_id": name, "revision": "v2"}
    rebuilt = AudioLens.from_model_key(f'{path}:{{"repo_id": "toy"}}', dispatch=True)
    assert rebuilt.repo_id == "toy"
    assert rebuilt.has_tokenizer

"""What loads, what is refused, and that no weight is ever left at random."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import accelerate
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    EncodecConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

from audio_lens import AudioLens, Intervention, add
from audio_lens.errors import InputError
from audio_lens.lens.loading import (
    check_in_memory,
    check_model_type,
    load_musicgen,
    without_padding_notice,
)
from audio_lens.testing import random_musicgen

pytestmark = pytest.mark.usefixtures("as_users_see_it")

WEIGHTS = "model.safetensors"
FC1 = "decoder.model.decoder.layers.0.fc1.weight"
SHARED, TIED = "text_encoder.shared.weight", "text_encoder.encoder.embed_tokens.weight"
PUSH = torch.randn(32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def original() -> AudioLens:
    return random_musicgen(n_layers=2, d_model=32, n_heads=2, seed=5)


@pytest.fixture(scope="module")
def saved(original, tmp_path_factory) -> Path:
    """Written once; tests change copies of it."""
    folder = tmp_path_factory.mktemp("saved")
    original.hf_model.save_pretrained(folder)
    original.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


@pytest.fixture
def attempts(monkeypatch) -> list[object]:
    """No network; whoever tries to use it is noted, even if the error is caught."""
    tried: list[object] = []

    def refuse(*where: object, **options: object) -> None:
        tried.append(where)
        raise OSError("there is no network here")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def pickle_instead(folder: Path) -> Path:
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    read = json.loads(path.read_text())
    change(read)
    path.write_text(json.dumps(read))


def assert_same_weights(model: torch.nn.Module, original: AudioLens) -> None:
    expected, loaded = original.hf_model.state_dict(), model.state_dict()
    assert loaded.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(loaded[name], weight), name


def refused(folder: Path, said: str, **options: object) -> str:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        load_musicgen(folder, **options)
    return str(caught.value)


# -- what loads -----------------------------------------------------------------------------------


def test_a_folder_is_read_without_network(folder, original, attempts):
    lens = AudioLens.from_pretrained(str(folder))
    assert_same_weights(lens.hf_model, original)
    codes = lens.random_codes(frames=5)
    assert torch.equal(lens("organ", codes), original("organ", codes))
    assert attempts == []


def test_toy_is_read_without_network(attempts):
    model, processor = load_musicgen("toy")
    assert model.name_or_path == "toy"
    assert processor.tokenizer("a slow organ melody").input_ids
    assert attempts == []


def test_shards(folder, original):
    (folder / WEIGHTS).unlink()
    original.hf_model.save_pretrained(folder, max_shard_size="200KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert_same_weights(load_musicgen(folder)[0], original)
    shards[1].unlink()
    assert "tensors there (" in refused(folder, f"{shards[1]} is missing")


def test_as_the_hub_holds_them(folder, original):
    """Files of transformers 4: weight norm's old names, and tables that are now computed."""

    def age(weights: dict[str, Tensor]) -> None:
        for name in list(weights):
            for number, letter in (("0", "g"), ("1", "v")):
                if (
                    stem := name.removesuffix(f".parametrizations.weight.original{number}")
                ) != name:
                    weights[f"{stem}.weight_{letter}"] = weights.pop(name)
        weights["decoder.model.decoder.embed_positions.weights"] = torch.zeros(2048, 32)
        weights["text_encoder.decoder.final_layer_norm.weight"] = torch.ones(32)

    rewrite(folder, age)
    assert any(name.endswith("weight_g") for name in load_file(folder / WEIGHTS))
    model, _ = load_musicgen(folder)
    assert_same_weights(model, original)
    assert model.decoder.model.decoder.embed_positions.weights.any()


@pytest.mark.parametrize("names", [{SHARED}, {TIED}, {SHARED, TIED}])
def test_the_text_embedding_under_either_name(folder, original, names):
    def rename(weights: dict[str, Tensor]) -> None:
        embedding = weights.pop(SHARED)
        weights |= {name: embedding.clone() for name in names}

    rewrite(folder, rename)
    assert_same_weights(load_musicgen(folder)[0], original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(folder, dtype):
    lens = AudioLens.from_pretrained(folder, dtype=dtype)
    # Not of the text encoder: transformers keeps a part of T5 in float32, as float16 overflows.
    assert {weight.dtype for weight in lens.hf_model.decoder.parameters()} == {dtype}
    assert lens.generate("organ", seconds=0.1, progress=False)[0].codes.shape == (4, 5)
    assert lens.check().ok


def melody_model() -> MusicgenMelodyForConditionalGeneration:
    text = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    codec = EncodecConfig(
        num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64, upsampling_ratios=[8, 5]
    )
    decoder = MusicgenMelodyDecoderConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=64,
        pad_token_id=64, bos_token_id=64,
    )  # fmt: skip
    config = MusicgenMelodyConfig(
        text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()
    )
    with without_padding_notice():
        return MusicgenMelodyForConditionalGeneration(config)


def test_melody_checkpoints_load_with_a_tokenizer_where_there_is_no_torchaudio(
    tmp_path, original, monkeypatch, attempts
):
    made = melody_model()
    made.save_pretrained(tmp_path)
    original.processor.tokenizer.save_pretrained(tmp_path)
    described = {
        "processor_class": "MusicgenMelodyProcessor",
        "feature_extractor_type": "MusicgenMelodyFeatureExtractor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(described))

    def without(*where: object, **options: object) -> None:
        raise ImportError("MusicgenMelodyProcessor requires the torchaudio library")

    # It is not installed here; where it is, this still says what happens without.
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", without)
    model, tokenizer = load_musicgen(tmp_path)
    assert type(model) is MusicgenMelodyForConditionalGeneration
    assert all(map(torch.equal, model.state_dict().values(), made.state_dict().values()))
    assert tokenizer("organ").input_ids == original.processor.tokenizer("organ").input_ids
    assert attempts == []


def test_model_types():
    check_model_type("musicgen", "here")
    check_model_type("musicgen_melody", "here")
    with pytest.raises(InputError, match="'here' is a 't5' model, not MusicGen"):
        check_model_type("t5", "here")


# -- devices --------------------------------------------------------------------------------------


def assert_works(lens: AudioLens, original: AudioLens) -> None:
    """Same codes as the original under the same hook, and every site in order."""
    push = Intervention("resid_post", add(PUSH), layers=0)
    codes = []
    for one in (lens, original):
        with one.intervene(push):
            codes.append(one.generate("organ", seconds=0.2, progress=False)[0].codes)
    assert torch.equal(*codes)
    plain = original.generate("organ", seconds=0.2, progress=False)[0].codes
    assert not torch.equal(codes[0], plain)
    assert lens.check().ok


ON_A_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason="places the model on the GPU; the other is on the CPU"
)


@pytest.mark.parametrize("device_map", [pytest.param("auto", marks=ON_A_GPU), "cpu"])
def test_device_maps(folder, original, device_map):
    lens = AudioLens.from_pretrained(folder, device_map=device_map)
    assert_works(lens, original)


@pytest.mark.parametrize("parts", [[""], ["decoder", "text_encoder", "audio_encoder"]])
def test_a_dispatched_model(folder, original, parts):
    """accelerate's hooks wrap the forward of modules, as they do when several devices share it."""
    model = MusicgenForConditionalGeneration.from_pretrained(folder)
    accelerate.dispatch_model(model, dict.fromkeys(parts, "cpu"), force_hooks=True)
    assert hasattr(model.decoder.model.decoder.layers[0].fc1, "_hf_hook")
    assert_works(AudioLens.from_model(model, original.processor), original)


def test_weights_that_are_offloaded_are_refused(folder, tmp_path):
    device_map = {"decoder": "disk", "text_encoder": "cpu", "audio_encoder": "cpu"}
    refused(
        folder,
        "the device map offloads",
        device_map=device_map,
        offload_folder=str(tmp_path / "offload"),
    )
    with pytest.raises(InputError, match=r"offloads 2 weights \(weight and 1 more"):
        check_in_memory(torch.nn.Linear(2, 2, device="meta"))


# -- the hub --------------------------------------------------------------------------------------


def test_a_hub_name_without_network(attempts, tmp_path):
    with pytest.raises(InputError, match="could not be fetched from the hub") as caught:
        load_musicgen("somebody/musicgen-new", cache_dir=tmp_path)
    assert "hf download somebody/musicgen-new" in str(caught.value)
    assert attempts


def cached(folder: Path, cache: Path) -> Path:
    """The folder as the hub's cache would hold it, after a download."""
    repository, commit = cache / "models--somebody--musicgen-new", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(folder, repository / "snapshots" / commit))


def test_a_hub_name_that_was_downloaded_before(folder, original, attempts, tmp_path):
    cached(folder, tmp_path / "cache")
    model, processor = load_musicgen("somebody/musicgen-new", cache_dir=tmp_path / "cache")
    assert_same_weights(model, original)
    assert model.name_or_path == model.config.name_or_path == "somebody/musicgen-new"
    assert processor is not None


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_only_what_is_needed_is_fetched(folder, monkeypatch, allow_pickle):
    pickle_instead(folder)
    asked = []

    def snapshot_download(name: str, *, allow_patterns: list[str], revision: str) -> str:
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    name, options = "somebody/musicgen-new", {"revision": "v2", "allow_pickle": allow_pickle}
    if allow_pickle:
        load_musicgen(name, **options)
    else:
        with pytest.raises(InputError, match="pickled weights"):
            load_musicgen(name, **options)
    wanted = [pattern for _, _, patterns in asked for pattern in patterns]
    assert {one[:2] for one in asked} == {(name, "v2")}
    assert "model*.safetensors" in wanted
    assert [one for one in wanted if one.endswith(".bin")] == (
        ["pytorch_model*.bin"] if allow_pickle else []
    )


# -- what is refused ------------------------------------------------------------------------------


def test_pickled_weights_are_refused_unless_allowed(folder, original):
    path = pickle_instead(folder)
    said = refused(folder, f"{path} holds pickled weights")
    assert "allow_pickle=True" in said
    model, _ = load_musicgen(folder, allow_pickle=True)
    assert_same_weights(model, original)


def test_safetensors_are_preferred(folder, original):
    shutil.copy(folder / WEIGHTS, folder / "kept")
    pickle_instead(folder).write_bytes(b"never read")
    shutil.move(folder / "kept", folder / WEIGHTS)
    assert_same_weights(load_musicgen(folder, allow_pickle=True)[0], original)


def test_a_pickle_behind_an_index_of_safetensors_is_refused(folder):
    path = pickle_instead(folder)
    index = {"metadata": {}, "weight_map": {FC1: path.name}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refused(folder, f"{path} holds pickled weights")


class Bomb:
    """Runs code when it is unpickled without care."""

    went_off = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Bomb, "went_off", True)


@pytest.mark.parametrize("damage", ["bomb", "cut"])
def test_pickles_that_are_no_weights(folder, damage):
    path = pickle_instead(folder)
    if damage == "bomb":
        torch.save({FC1: Bomb()}, path)
    else:
        path.write_bytes(path.read_bytes()[:5000])
    refused(folder, f"{path} cannot be read as pickled weights", allow_pickle=True)
    assert not Bomb.went_off


def test_a_file_that_is_cut_short_names_the_first_tensor_that_is_lost(folder):
    path = folder / WEIGHTS
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    ends = {
        name: entry["data_offsets"][1]
        for name, entry in json.loads(raw[8 : 8 + length]).items()
        if name != "__metadata__"
    }
    lost = sum(end >= ends[FC1] for end in ends.values())
    path.write_bytes(raw[: 8 + length + ends[FC1] - 1])  # one byte of it is not there
    refused(folder, f"{path} is cut short")
    refused(folder, f"so '{FC1}' is not all there (tensors lost: {lost})")
    path.write_bytes(raw[: 8 + length + ends[FC1]])  # it is there, and nothing behind it
    assert FC1 not in refused(folder, f"(tensors lost: {lost - 1})")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda raw: b"", "cut short, or no safetensors file: its 0 bytes"),
        (lambda raw: raw[:100], "its 100 bytes end within its header"),
        (lambda raw: raw + b"!", "is damaged: it has"),
        (lambda raw: (20).to_bytes(8, "little") + b"x" * 40, "its header cannot be read"),
        (lambda raw: (4).to_bytes(8, "little") + b"[3] ", "its header cannot be read"),
        (lambda raw: b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    ],
)
def test_files_that_are_no_safetensors(folder, content, said):
    path = folder / WEIGHTS
    path.write_bytes(content(path.read_bytes()))
    assert str(path) in refused(folder, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop(FC1), f"lacks tensors that its config.json asks for: {FC1} [128, 32]"),
        (lambda w: w.pop(SHARED), f"asks for: {TIED} [99, 32], {SHARED} [99, 32]"),
        (
            lambda w: w.pop("audio_encoder.quantizer.layers.0.codebook.embed"),
            "audio_encoder.quantizer.layers.0.codebook.embed [256, 16]",
        ),
        (
            lambda w: w.update({FC1: torch.zeros(3, 4)}),
            f"of another shape than its config.json says: {FC1} is [3, 4], expected [128, 32]",
        ),
        (
            lambda w: w.update({FC1.replace("layers.0", "layers.2"): torch.zeros(128, 32)}),
            f"leaves no place: {FC1.replace('layers.0', 'layers.2')}",
        ),
        (
            lambda w: w.update({"audio_encoder.more": torch.zeros(1)}),
            "leaves no place: audio_encoder.more",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config(folder, change, said, caplog):
    rewrite(folder, change)
    refused(folder, said)
    assert "LOAD REPORT" not in caplog.text  # which speaks of newly initialised weights


def test_many_tensors_are_counted(folder):
    edit_json(folder / "config.json", lambda c: c["decoder"].update(num_hidden_layers=4))
    refused(folder, "and 28 more")  # two layers of sixteen, of which four are named


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "config.json cannot be read as JSON"),
        ("[]", "config.json holds a list"),
        ("{}", "a 'None' model, not MusicGen"),
        ('{"model_type": "t5"}', "a 't5' model, not MusicGen"),
        ('{"model_type": "musicgen", "decoder": "x"}', "no model that transformers can build"),
    ],
)
def test_config_files(folder, text, said):
    (folder / "config.json").write_text(text)
    assert str(folder) in refused(folder, said)


def test_folders_that_lack_something(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no checkpoint: it has no config.json")
    refused(tmp_path / "nowhere", "no folder at")
    (folder / WEIGHTS).unlink()
    refused(folder, "has a config.json but no weights: expected model.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text("{}")
    refused(folder, "has no weight_map")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "holds an adapter")


def test_weights_that_the_config_names(folder, original):
    """transformers would read these, so these are what is checked."""
    edit_json(folder / "config.json", lambda c: c.update(transformers_weights="ours.safetensors"))
    refused(folder, "expected ours.safetensors")
    (folder / WEIGHTS).rename(folder / "ours.safetensors")
    assert_same_weights(load_musicgen(folder)[0], original)


def test_without_tokenizer_files_there_is_no_processor(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    lens = AudioLens.from_pretrained(folder)
    assert lens.processor is None
    assert lens.generate(None, seconds=0.1, progress=False)[0].codes.shape == (4, 5)
    with pytest.raises(InputError, match="has no tokenizer"):
        lens.generate("organ", seconds=0.1, progress=False)


def test_tokenizer_files_that_are_not_all_there(folder):
    (folder / "processor_config.json").unlink()
    assert load_musicgen(folder)[1]("organ").input_ids  # a tokenizer in the processor's place
    (folder / "tokenizer.json").write_text("{")
    refused(folder, f"the tokenizer of {folder} cannot be read")
    (folder / "tokenizer.json").unlink()
    refused(folder, "but neither tokenizer.json nor spiece.model")


@pytest.mark.parametrize(
    "option",
    ["trust_remote_code", "ignore_mismatched_sizes", "use_safetensors", "weights_only",
     "output_loading_info", "state_dict", "gguf_file", "variant", "subfolder"],
)  # fmt: skip
def test_options_that_would_load_something_unchecked(folder, option):
    refused(folder, option, **{option: True})


def test_a_folder_has_no_revision(folder):
    refused(folder, "which has no revision 'main'", revision="main")

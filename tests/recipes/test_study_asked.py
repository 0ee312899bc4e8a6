"""What a study is asked for: plans, settings, and what is refused before anything is made."""

from dataclasses import replace

import numpy as np
import pytest
from few import FEW, SETTINGS

from audio_lens import AudioLens, InputError
from audio_lens.cli import main
from audio_lens.errors import AudioLensError
from audio_lens.recipes import tempo, timbre
from audio_lens.recipes.study.layers import layer_influence
from audio_lens.recipes.study.planning import plan_for
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.recipes.study.study import Study
from audio_lens.testing import random_musicgen


@pytest.fixture(scope="module")
def toy():
    return AudioLens.from_pretrained("toy")


def test_a_budget_leaves_out_what_it_says(toy, tmp_path) -> None:
    whole = tempo.study(toy, tmp_path / "new").plan()
    smaller = tempo.study(toy, tmp_path / "new").plan(whole.hours / 2)
    assert smaller.clips < whole.clips
    assert smaller.settings.dropped[0] in str(smaller)
    with pytest.raises(InputError, match="the smallest study of tempo takes about"):
        tempo.study(toy, tmp_path / "new").plan(1e-6)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("concept", "asked", "match"),
    [
        (replace(FEW, neutral=(), dev=()), {}, "0 different dev prompts"),
        (replace(FEW, positive=FEW.positive[:2], negative=FEW.negative[:2], contexts=()), {},
         "2 different positive prompts of 2: a study needs 6"),
        (tempo, {"settings": SETTINGS}, "a tempo is not heard in less than 6 s"),
        (FEW, {"settings": replace(SETTINGS, sites=("resid_pots",))}, "resid_post"),
        (FEW, {"settings": replace(SETTINGS, pool="end_of_text")}, "end_of_text"),
        (FEW, {"others": [replace(tempo, name="isotropic")]}, "is a kind of controls"),
        (FEW, {"others": [timbre]}, "the name of the concept itself"),
        (FEW, {"others": [tempo, tempo]}, "two concepts of one name"),
    ],
)  # fmt: skip
def test_what_a_later_stage_could_not_use_is_refused_at_once(
    tmp_path, concept, asked, match
) -> None:
    with pytest.raises(AudioLensError, match=match):
        Study(random_musicgen(n_layers=1), concept, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"strategies": ("one_to_al",)}, "did you mean 'one_to_all'"),
        ({"branches": ("cnd",)}, "did you mean 'cond'"),
        ({"nats": (0.5, float("nan"))}, "give numbers above 0"),
        ({"doses": (0.5, 2.0)}, "1 must be among them"),
        ({"seconds": 1.0}, "cannot be judged"),
        ({"normal_clips": 3}, "normal_clips=3: give 7 at least"),
        ({"random_draws": 0}, "random_draws=0"),
        ({"control_kinds": ("isotropc",)}, "did you mean 'isotropic'"),
        ({"control_kinds": ()}, "one at least"),
        ({"branches": ()}, "one at least"),
        ({"seconds": float("inf")}, "a finite number"),
        ({"guidance_scale": 1.0}, "leave cond out"),
        ({"control_seeds": 5}, "of which there are test_seeds=4"),
        ({"test_first_seed": 1}, "must be reported on others"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(asked, match, as_users_see_it) -> None:
    with pytest.raises(InputError, match=match):
        StudySettings(**asked)


def test_another_model_or_measure_is_another_study(tmp_path) -> None:
    def study(seed=0, **said):
        concept = replace(FEW, **said)
        return Study(random_musicgen(n_layers=1, seed=seed), concept, tmp_path)

    study().ledger.file("rows")
    study()
    with pytest.raises(InputError, match="its weights is"):
        study(seed=1)
    with pytest.raises(InputError, match="its own_measure is"):
        study(own_measure=lambda audio, rate: float(np.max(audio)))
    with pytest.raises(InputError, match="its prompts_sha256 is"):
        study(contexts=FEW.negative)


def test_a_rehearsal_does_not_pass_for_a_study(tmp_path) -> None:
    lens = random_musicgen(n_layers=1)
    rehearsal = StudySettings.quick()
    timbre.study(lens, tmp_path / "out", settings=rehearsal).ledger.file("rows")
    with pytest.raises(InputError, match="holds a rehearsal"):
        plan_for(timbre, lens, tmp_path / "out")
    assert plan_for(timbre, lens, tmp_path / "out", quick=True).settings == rehearsal


def test_tempo_is_heard_by_the_beat_on_checkpoints(toy) -> None:
    assert tempo.on(toy).heard == "pulse_bpm"
    real = tempo.on(random_musicgen(n_layers=1))
    assert (real.heard, real.guard) == ("beat_bpm", "beat")
    assert timbre.on(random_musicgen(n_layers=1)) == timbre


def test_layers_of_a_melody_model_are_patched_where_prompts_are_as_long(tmp_path) -> None:
    lens = random_musicgen(n_layers=2, melody=True)
    study = Study(lens, FEW, tmp_path / "out", settings=replace(SETTINGS, rows_at_once=4))
    with pytest.warns(UserWarning, match="numbers of text tokens"):
        _ = study.activations
    rows = study.hearing.prompted("poles +", FEW.positive[:3], (0, 1))
    found = layer_influence(
        study.hearing, study.direction, {"+": 1.0, "-": -1.0}, study.activations, rows,
        replace(study.settings, patched_clips=4, patched_seconds=0.16),
    )  # fmt: skip
    assert set(found.recovery) <= {0, 1}
    assert set(found.reached) == set(found.p) == {0, 1}


def test_the_command_plans(tmp_path, capsys) -> None:
    out = str(tmp_path / "study")
    assert main(["study", "tempo", "--out", out, "--plan", "--quick"]) == 0
    assert "in all" in capsys.readouterr().out
    assert main(["study", "tempo", "--out", out, "--plan", "--control-seeds", "5"]) == 1
    assert "controls stand beside test clips" in capsys.readouterr().err
    assert main(["study", "temper", "--out", out, "--plan"]) == 1
    assert "no concept 'temper'" in capsys.readouterr().err

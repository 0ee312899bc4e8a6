"""A study: every stage on the toy, resumable, with a report and a listening test."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pandas
import pytest
import torch

from audio_lens import AudioLens, Direction, InputError
from audio_lens.cli import main
from audio_lens.errors import AudioLensError
from audio_lens.recipes import tempo, timbre
from audio_lens.recipes.study.baselines import wrong_layer
from audio_lens.recipes.study.beside import stand_beside
from audio_lens.recipes.study.choosing import Choice, reach, ways
from audio_lens.recipes.study.comparing import Compared
from audio_lens.recipes.study.doses import dose_response
from audio_lens.recipes.study.findings import primary_tests
from audio_lens.recipes.study.hearing import Way
from audio_lens.recipes.study.layers import layer_influence
from audio_lens.recipes.study.planning import plan_for
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.recipes.study.study import Study
from audio_lens.steering.distortion import distortion
from audio_lens.testing import random_musicgen

FEW = replace(timbre, neutral=timbre.neutral[::4], dev=tuple(timbre.neutral[::4][:4]))
SETTINGS = StudySettings(
    seconds=2.0, rows_at_once=8, pairs=12, direction_seconds=2.0, normal_clips=16, pole_seeds=1,
    strategies=("one_to_one",), branches=("both",), scan_prompts=4, scan_strengths=(0.25,),
    strengths=(0.25, 0.5), finalists=1, dev_seeds=1, compare_seeds=1, compare_strengths=(0.25, 0.5),
    doses=(0.5, 1.0), test_seeds=2, random_draws=2, distortion_clips=4, patched_clips=2,
    patched_seconds=1.0, guidance_tried=(6.0,), text_pairs=2, text_steps=(0.0, 1.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def toy():
    return AudioLens.from_pretrained("toy")


@pytest.fixture(scope="module")
def study(toy, tmp_path_factory):
    return FEW.study(toy, tmp_path_factory.mktemp("s") / "out", settings=SETTINGS, progress=False)


def test_the_poles_are_audible_in_the_toy(study) -> None:
    assert study.poles.audible
    assert study.poles.values["+"].value > study.poles.values["-"].value


def test_steering_moves_the_toy_both_ways(study) -> None:
    sides = study.dose_response.sides
    assert sides["+"].effect.value > 0 > sides["-"].effect.value
    assert {sides[sign].coefficient for sign in "+-"} <= set(study.dose_response.coefficients)
    assert study.dose_response.effect.value[study.dose_response.coefficients == 0] == 0


def test_prompts_with_and_without_drums_are_shown_apart(study) -> None:
    found = study.groups
    assert set(found["prompts that"]) == {"name drums", "name none"}
    assert found.groupby("sign")["prompts"].sum().tolist() == [len(FEW.test)] * 2


def test_controls_and_baselines_stand_beside(study) -> None:
    assert {(b.kind, b.sign) for b in study.beside} == {
        (kind, sign) for kind in ("isotropic", "matched", "flipped") for sign in "+-"
    }
    for stood in study.beside:
        assert len(stood.effects) == 2
        assert 1 <= stood.rank <= 3
    said = study.baselines.set_index(["baseline", "sign"])["change"]
    assert said["the word in the prompt", "+"] == study.poles.shifts["+"]
    assert np.isfinite(said["guidance 6 in place of 3", ""])
    sound = study.text.groupby("coefficient")["value"].median()
    assert sound[1.0] > sound[0.0]


def test_layers_are_asked_in_three_ways(study) -> None:
    frame = study.layers.to_dataframe()
    assert list(frame.index) == list(range(study.lens.cfg.n_layers))
    assert frame["patched"].notna().all()


def test_strategies_are_compared_by_what_was_heard_and_bent(study) -> None:
    assert {(each.way.site, each.sign) for each in study.comparison.ways} == {
        (site, sign) for site in ("resid_post", "cross_attn_out") for sign in "+-"
    }
    twins = [
        study.clip(row) for row in study.hearing.twins(FEW.dev, (0,)).values()
    ][: SETTINGS.distortion_clips]  # fmt: skip
    for each in study.comparison.ways:
        rows = study.hearing.steered(
            "real", "real", study.direction, each.way, prompts=FEW.dev, seeds=(0,),
            coefficients=each.coefficients,
        )  # fmt: skip
        assert each.nats[0] == each.effects[0] == 0
        for dose, nats, effect in zip(each.coefficients, each.nats, each.effects, strict=True):
            heard = [row["change"] for row in rows if row["coefficient"] == dose]
            assert effect == pytest.approx(np.median(np.nan_to_num(heard)))
            bent = distortion(
                study.lens, twins, direction=study.direction.at(each.way.site),
                coefficients=[dose], **each.way.options(),
            )  # fmt: skip
            assert nats == pytest.approx(bent.mean())


def test_ways_are_compared_between_what_was_tried_and_not_beyond() -> None:
    way = Compared(Way("one_to_one", 0), "+", (0.0, 0.5, 1.0), (0.0, 0.1, 0.3), (0.0, 1.0, 2.0))
    assert way.at(0.2) == pytest.approx(1.5)
    assert np.isnan(way.at(0.4))
    assert np.isnan(replace(way, nats=(0.0, 0.1, 0.1)).at(0.05))


def test_the_direction_is_taken_in_other_ways_too(study) -> None:
    found = study.taken.set_index(["taken", "sign"])
    assert set(study.taken["taken"]) == {"real", "same_codes", "first_step"}
    assert found.loc[("real", "+"), "cosine"] == pytest.approx(1)
    assert -1 <= found.loc[("same_codes", "+"), "cosine"] < 1
    assert (found["nats"] > 0).all()
    assert len(list((study.ledger.folder / "directions").iterdir())) == 2


def test_selections_of_words_are_those_of_the_pairs_that_were_used(study) -> None:
    found = study.robustness.set_index("words")
    pairs = study.activations.at("resid_post").pairs["resid_post", 1]
    rows = [n for n, pair in enumerate(study._pairs) if pair in timbre.selections["core"]]
    cosine = torch.cosine_similarity(pairs[rows].mean(0), pairs.mean(0), dim=0)
    assert found.loc["core", "pairs"] == len(rows)
    assert found.loc["core", "layer 1"] == pytest.approx(float(cosine))


def test_side_effects_begin_with_what_was_wanted(study) -> None:
    first = study.side_effects.iloc[0]
    assert (first["measure"], first["wanted over this"]) == ("spectral_centroid", 1.0)
    assert len(study.side_effects) == 18


def test_primary_tests_are_corrected_over_all_that_were_made(study) -> None:
    alone, twice = primary_tests(study), primary_tests(study, study)
    assert list(alone["sign"]) == ["+", "-"]
    assert (alone["corrected p"] >= alone["p"]).all()
    assert twice["corrected p"].min() == pytest.approx(min(1, 4 * alone["p"].min()))


def test_a_second_study_of_the_folder_hears_nothing_again(study, toy, monkeypatch) -> None:
    told = study.findings()
    again = FEW.study(toy, study.out, settings=SETTINGS, progress=False)

    def no_more(*_, **__):
        raise AssertionError("heard again")

    monkeypatch.setattr(again.hearing, "_play", no_more)
    monkeypatch.setattr("audio_lens.recipes.study.study.gather_poles", no_more)
    assert again.findings() == told
    assert again.choice == study.choice


def test_the_plan_counts_what_is_made(study) -> None:
    study.findings()
    cost = {each.stage: each.clips for each in study.costs(SETTINGS)}
    made = {file.stem: 0 for file in (study.ledger.folder / "rows").glob("*.jsonl")}
    for stage in made:
        made[stage] = len(study.ledger.rows(stage))
    assert cost["normal"] == made["pool"] + made["pool +"] + made["pool -"]
    assert cost["poles"] == made["poles +"] + made["poles -"]
    assert cost["twins"] >= made["twins"] > 0
    assert cost["controls"] == made["controls"]
    # What several stages ask for is made once.
    asked = sum(cost[stage] for stage in ("scan", "finalists", "dose", "compare"))
    assert asked >= made["real"] > asked / 2


def test_the_report_stands_alone(study) -> None:
    page = study.report().read_text()
    links = re.findall(r"""(?:src|href)=["']([^"'#]+)""", page)
    assert {link.split(",")[0] for link in links} == {
        "data:audio/mpeg;base64",
        "data:image/png;base64",
    }
    assert page.count("<audio") == 3 * len(FEW.test)
    for sentence in study.findings():
        assert sentence[:20].split("<")[0] in page.replace("&#x27;", "'")
    folder = study.ledger.folder
    assert (folder / "table.tex").read_text().count("\\\\") == 3
    rows = pandas.read_csv(folder / "rows.csv")
    assert len(rows) == len(study.rows) == len(pandas.read_parquet(folder / "rows.parquet"))
    assert {"prompt", "seed", "coefficient", "change", "failed", "pulse_bpm"} <= set(rows)
    assert (rows.loc[rows["coefficient"] == 0, "change"] == 0).all()
    first = page
    assert study.report().read_text() == first
    assert json.loads((folder / "choice.json").read_text())["strategy"] == study.choice.way.strategy


def test_votes_are_counted_against_the_key(study, tmp_path) -> None:
    page = study.listening_test(trials=2).read_text()
    key = json.loads((study.ledger.folder / "listen_key.json").read_text())
    for secret in ("steered", "isotropic", "catch", "expected"):
        assert secret not in page
    right = {n: trial["expected"] or "same" for n, trial in enumerate(key["trials"])}
    careless = dict.fromkeys(right, "A")
    for name, votes in (("one", right), ("two", careless)):
        (tmp_path / name).write_text(json.dumps({"study": key["study"], "votes": votes}))
    found = study.votes(tmp_path / "one", tmp_path / "two")
    assert (found["expected"] == 1).all()
    assert (found["left out"] == 1).all()
    assert set(found["kind"]) == {"steered", "random", "prompted"}
    study.listening_test(trials=2)
    with pytest.raises(InputError, match="this study is"):  # of the page before
        study.votes(tmp_path / "one")


def test_a_listening_test_does_not_tell_which_clips_are_the_same(study) -> None:
    page = study.listening_test(trials=2).read_text()
    sounds = re.findall(r"src='([^']+)'", page)
    assert len(sounds) == len(set(sounds))
    assert study.listening_test(trials=2).read_text() != page


def test_reach_is_a_share_of_the_prompted_shift_and_nothing_where_music_breaks() -> None:
    whole = [
        {"prompt": prompt, "change": change, "failed": ""}
        for prompt, change in (("a", 0.3), ("b", 0.5), ("c", float("nan")))
    ]
    assert reach(whole, 0.6) == pytest.approx(0.5)
    assert reach(whole, -0.6) == pytest.approx(-0.5)
    broken = [
        {"prompt": str(n), "change": 0.6, "failed": "" if n < 8 else "level"} for n in range(10)
    ]
    assert reach(broken, 0.6) == float("-inf")


def test_every_way_of_steering_is_a_candidate() -> None:
    candidates = ways(random_musicgen(n_layers=5), StudySettings())
    assert len(candidates) == len(set(candidates)) == 44
    assert {way.site for way in candidates} == {"resid_post", "cross_attn_out"}
    assert {way.strategy for way in candidates} == {"one_to_one", "one_to_all", "all_to_all"}
    deep = random_musicgen(n_layers=20, melody=True)
    few = ways(deep, StudySettings(branches=("both",)))
    assert len(few) == 50
    assert {way.site for way in few} == {"resid_post", "attn_out"}
    assert {0, 19} <= {way.source_layer for way in few}


def test_the_wrong_layer_is_the_worst_of_the_chosen_way() -> None:
    scan = [
        {**asdict(Way("one_to_one", layer, branch)), "reached": reached}
        for layer, branch, reached in ((2, "both", 0.9), (0, "both", 0.1), (1, "cond", 0.0))
    ]
    chosen = Choice(Way("one_to_one", 2), {"+": 1.0, "-": -1.0}, {"+": 0.9, "-": 0.9}, tuple(scan))
    assert wrong_layer(chosen) == Way("one_to_one", 0)
    assert wrong_layer(replace(chosen, way=Way("all_to_all"))) is None


def test_a_budget_leaves_out_what_it_says(toy, tmp_path) -> None:
    whole = tempo.study(toy, tmp_path / "new").plan()
    smaller = tempo.study(toy, tmp_path / "new").plan(whole.hours / 2)
    assert smaller.clips < whole.clips
    assert smaller.settings.dropped[0] in str(smaller)
    with pytest.raises(InputError, match="the smallest study of tempo takes about"):
        tempo.study(toy, tmp_path / "new").plan(1e-6)
    assert not (tmp_path / "new").exists()


def other_direction():
    return Direction({("resid_post", 0): torch.ones(64)})


@pytest.mark.parametrize(
    ("concept", "asked", "match"),
    [
        (replace(FEW, neutral=(), dev=()), {}, "0 different dev prompts"),
        (replace(FEW, positive=FEW.positive[:2], negative=FEW.negative[:2], contexts=()), {},
         "2 different positive prompts of 2: a study needs 6"),
        (tempo, {"settings": SETTINGS}, "a tempo is not heard in less than 6 s"),
        (FEW, {"settings": replace(SETTINGS, sites=("resid_pots",))}, "resid_post"),
        (FEW, {"settings": replace(SETTINGS, pool="end_of_text")}, "end_of_text"),
        (FEW, {"others": {"isotropic": other_direction()}}, "is a kind of controls"),
        (FEW, {"others": {"tempo": other_direction()}}, "take it at every layer"),
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
        ({"strengths": (0.5, float("nan"))}, "give numbers above 0"),
        ({"doses": (0.5, 2.0)}, "1 must be among them"),
        ({"seconds": 1.0}, "cannot be judged"),
        ({"normal_clips": 3}, "normal_clips=3: give 7 at least"),
        ({"random_draws": 0}, "random_draws=0"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(asked, match) -> None:
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


def heard(change, n=8, **said):
    """Rows of eight prompts with one change, at each dose."""
    made = {"failed": "", "suspect": False, "seed": 0, "value": 1.0, **said}
    return [{**made, "prompt": str(place), "change": change} for place in range(n)]


def at_doses(by_dose):
    return [{**row, "coefficient": dose} for dose, rows in by_dose.items() for row in rows]


def test_a_way_that_breaks_the_music_is_worse_than_one_that_does_nothing() -> None:
    broken = [{**row, "failed": "level"} for row in heard(5.0)]
    assert reach(broken, 1.0) < reach(heard(-0.1), 1.0) < reach(heard(0.5), 1.0)


def test_the_dose_response_keeps_its_signs_and_its_edge_apart() -> None:
    broken = [{**row, "failed": "codes"} for row in heard(3.0, n=24)]
    rows = at_doses({-1.0: heard(-0.5, 24), 0.0: heard(0.0, 24), 1.0: heard(1.5, 24), 2.0: broken})
    choice = Choice(Way(), {"+": 2.0, "-": -1.0}, {"+": 1.0, "-": 0.5})
    found = dose_response(rows, choice, {"+": 3.0, "-": -1.0}, draws=200)
    up, down = found.sides["+"], found.sides["-"]
    assert (up.usable.last_pass, up.usable.first_fail) == (1.0, 2.0)
    assert up.at_edge.value == pytest.approx(1.5)
    assert (up.share.value, down.share.value) == pytest.approx((1.0, 0.5))
    assert down.usable.first_fail is None


def test_controls_are_compared_on_the_same_seeds_and_what_is_unheard_is_no_comfort() -> None:
    choice = Choice(Way(), {"+": 1.0, "-": -1.0}, {"+": 1.0, "-": 1.0})
    real = at_doses({d: [*heard(2.0 * d), *heard(9.0, seed=1)] for d in (-1.0, 1.0)})
    draws = [at_doses({d: heard(change) for d in (-1.0, 1.0)}) for change in (0.1, -0.4)]
    nats = {1.0: 0.1, -1.0: 0.2}
    up, down = stand_beside(real, draws, "isotropic", choice, nats)
    assert (up.rank, up.p, up.nats, down.nats) == (1, 1 / 3, 0.1, 0.2)
    assert up.share_of_real == pytest.approx(0.385 / 2.0)
    unheard = at_doses({d: heard(float("nan")) for d in (-1.0, 1.0)})
    up, _ = stand_beside(real, [*draws, unheard], "isotropic", choice, nats)
    assert up.rank == 2
    assert up.share_of_real == float("inf")


def test_silence_is_missing_and_no_infinite_change() -> None:
    louder = replace(FEW, heard="loudness", per_doubling=None)
    assert np.isnan(louder.change(float("-inf"), -20.0))
    assert np.isnan(louder.change(-20.0, float("-inf")))


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
    way = asdict(Way("one_to_one", 0))
    chosen = Choice(Way(), {"+": 1.0, "-": -1.0}, {}, ({**way, "reached": 0.5},))
    found = layer_influence(study.hearing, chosen, study.activations, rows, clips=4, frames=8)
    assert set(found.recovery) <= {0, 1}
    assert found.reached == {0: 0.5}


def test_the_command_plans(tmp_path, capsys) -> None:
    out = str(tmp_path / "study")
    assert main(["study", "tempo", "--out", out, "--plan", "--quick"]) == 0
    assert "in all" in capsys.readouterr().out
    assert main(["study", "temper", "--out", out, "--plan"]) == 1
    assert "no concept 'temper'" in capsys.readouterr().err

"""A study: every stage on the toy, resumable, with a report and a listening test."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from few import FEW, SETTINGS

from audio_lens import AudioLens, Clip, InputError
from audio_lens.analysis.poles import difference_in_means
from audio_lens.audio.closeness import log_mel_distance
from audio_lens.recipes import tempo, timbre
from audio_lens.recipes.study.closeness import closeness
from audio_lens.recipes.study.findings import primary_tests
from audio_lens.recipes.study.listening import kept_listening_test
from audio_lens.steering.distortion import distortion


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
        (kind, sign) for kind in ("isotropic", "matched", "flipped", "tempo") for sign in "+-"
    }
    for stood in study.beside:
        draws = 1 if stood.kind == "tempo" else 2
        assert len(stood.effects) == draws
        assert 1 <= stood.rank <= draws + 1
    said = study.baselines.set_index(["baseline", "sign"])["change"]
    assert said["the word in the prompt", "+"] == study.poles.shifts["+"]
    assert np.isfinite(said["guidance 6 in place of 3", ""])
    sound = study.text.groupby("coefficient")["value"].median()
    assert sound[1.0] > sound[0.0]


def test_the_other_concept_is_a_control_of_the_same_length(study) -> None:
    (other,) = study.controls("tempo")
    for key, vector in study.direction.vectors.items():
        assert other.vectors[key].norm() == pytest.approx(float(vector.norm()), rel=1e-5)
    taken = difference_in_means(
        study.lens, positive=[tempo.positive[n] for n in SETTINGS.drawn(len(tempo.positive))],
        negative=[tempo.negative[n] for n in SETTINGS.drawn(len(tempo.negative))],
        site=("resid_post", "cross_attn_out"), seconds=SETTINGS.direction_seconds,
        seed=SETTINGS.direction_seed, guidance_scale=SETTINGS.guidance_scale,
        rows_at_once=SETTINGS.rows_at_once, progress=False,
    )  # fmt: skip
    assert other.cosine(taken)["resid_post", 0] == pytest.approx(1, abs=1e-5)
    assert any("the direction of tempo" in sentence for sentence in study.findings())


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
    assert any(len(each.coefficients) > 1 for each in study.comparison.ways)
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
    rows = [
        n
        for n, pair in enumerate(SETTINGS.drawn(len(timbre.positive)))
        if pair in timbre.selections["core"]
    ]
    cosine = torch.cosine_similarity(pairs[rows].mean(0), pairs.mean(0), dim=0)
    assert found.loc["core", "pairs"] == len(rows)
    assert found.loc["core", "layer 1"] == pytest.approx(float(cosine))


def test_side_effects_begin_with_what_was_wanted(study) -> None:
    first = study.side_effects.iloc[0]
    assert (first["measure"], first["wanted over this"]) == ("spectral_centroid", 1.0)
    assert len(study.side_effects) == 18


def test_closeness_is_told_beside_that_of_another_seed(study) -> None:
    found = study.closeness.set_index(["beside the twin", "sign"])
    assert list(found.index) == [("steered", "+"), ("steered", "-"), ("another seed", "")]
    assert (found["clips"] == len(FEW.test)).all()
    first = SETTINGS.test_first_seed
    by_hand = [
        log_mel_distance(*(study.clip(r).samples for r in pair), 16000, aligned=True)
        for pair in (
            [r for r in study.rows if r["prompt"] == prompt and r["seed"] == first
             and r["coefficient"] in (0, study.choice.coefficients["-"])]
            for prompt in FEW.test
        )
    ]  # fmt: skip
    assert found.loc[("steered", "-"), "log-mel, dB"] == pytest.approx(np.median(by_hand), rel=1e-3)
    unmoved = replace(study.choice, coefficients={"+": 0.0, "-": 0.0})
    same = closeness(study.rows, unmoved, study.clip).iloc[0]
    assert same["chroma"] == pytest.approx(1)
    assert same["log-mel, dB"] == 0


def test_primary_tests_are_corrected_over_all_that_were_made(study) -> None:
    alone, twice = primary_tests(study), primary_tests(study, study)
    assert list(alone["sign"]) == ["+", "-"]
    assert (alone["corrected p"] >= alone["p"]).all()
    assert twice["corrected p"].min() == pytest.approx(min(1, 4 * alone["p"].min()))


def test_a_second_study_of_the_folder_hears_nothing_again(study, toy, monkeypatch) -> None:
    told, _ = study.findings(), study.report()
    again = FEW.study(toy, study.out, settings=SETTINGS, progress=False)

    def no_more(*_, **__):
        raise AssertionError("heard again")

    monkeypatch.setattr(again.hearing, "_play", no_more)
    monkeypatch.setattr("audio_lens.recipes.study.hearing.distortion_of_codes", no_more)
    monkeypatch.setattr("audio_lens.recipes.study.study.gather_poles", no_more)
    assert again.findings() == told
    again.report()
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
    listed = pandas.read_csv(folder / "clips" / "clips.csv")
    assert len(listed) == 3 * len(FEW.test) == len({*listed["file"]})
    for file, prompt, seed, dose in listed[["file", "prompt", "seed", "coefficient"]].values:
        (row,) = (
            r for r in study.rows
            if (r["prompt"], r["seed"], r["coefficient"]) == (prompt, seed, dose)
        )  # fmt: skip
        written = Clip.load(folder / "clips" / file).samples
        np.testing.assert_allclose(written, study.clip(row).samples.clip(-1, 1), atol=1e-4)
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


def test_the_command_keeps_a_test_that_votes_may_be_under_way_for(study, tmp_path) -> None:
    page = study.listening_test(trials=2)
    assert kept_listening_test(study) == page
    key = json.loads((study.ledger.folder / "listen_key.json").read_text())
    vote = tmp_path / "vote.json"
    vote.write_text(json.dumps({"study": key["study"], "votes": {"0": "A"}}))
    with pytest.raises(InputError, match="give each listener once"):
        study.votes(vote, vote)
    (study.ledger.folder / "listen_key.json").unlink()
    assert kept_listening_test(study) is None

"""What a study's numbers allow one to say, in sentences that are made of the numbers."""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from audio_lens.analysis.significance import holm
from audio_lens.recipes.study.beside import scatter
from audio_lens.recipes.study.strengths import SIGNS

if TYPE_CHECKING:
    from pandas import DataFrame

    from audio_lens.recipes.study.doses import Side
    from audio_lens.recipes.study.study import Study

_MOST_RANDOM = 0.25
"""Of an effect, by the 95th percentile of controls."""
_SIGNIFICANT = 0.05


def findings(study: "Study") -> Iterator[str]:
    """One sentence each; what cannot be told is said to be so."""
    concept, poles = study.concept, study.poles
    said = {"+": concept.poles[1], "-": concept.poles[0]}
    if study.settings.rehearsal:
        yield "A rehearsal: these numbers mean nothing."
    asked = poles.shift_estimates
    yield (
        f"Asked in words, the model moves {asked['-']:+.2f} and {asked['+']:+.2f} "
        f"{concept.change_unit} from neutral prompts ({concept.heard})."
    )
    corrected = primary_tests(study).set_index("sign")["corrected p"]
    scattered = scatter(study.rows, concept, n_seeds=study.settings.control_seeds)
    for sign in SIGNS:
        yield _effect(study, sign, said[sign], float(corrected[sign]))
        yield from _beside(study, sign, said[sign], float(corrected[sign]), scattered)
    yield from _scatter(study, scattered)
    yield from (_trend(study, sign, said[sign]) for sign in SIGNS)
    yield from _strategies(study)
    yield _largest_side_effect(study)


def primary_tests(*studies: "Study") -> "DataFrame":
    """The tests that were fixed in advance, one per study and sign, corrected over all of them.

    Give the studies of all concepts that were asked of a model: two make four tests.
    """
    import pandas

    sides = [(study, sign, study.dose_response.sides[sign]) for study in studies for sign in SIGNS]
    corrected = holm([side.p for *_, side in sides])
    return pandas.DataFrame(
        [
            {
                "concept": study.concept.name,
                "sign": sign,
                "coefficient": side.coefficient,
                "change": f"{side.effect_with_missing:+.2f} {study.concept.change_unit}",
                "of prompted": f"{side.share:.0%}",
                "p": side.p,
                "corrected p": p,
            }
            for (study, sign, side), p in zip(sides, corrected, strict=True)
        ]
    )


def _effect(study: "Study", sign: str, said: str, p: float) -> str:
    side: Side = study.dose_response.sides[sign]
    unit = study.concept.change_unit
    if not side.may_be_claimed:
        return (
            f"{said}: no claim. {side.missing:.0%} of clips have no value, of their twins "
            f"{side.missing_of_twins:.0%}."
        )
    if not _shown(side, sign, p):
        return (
            f"{said}: not shown. At {side.coefficient:+g} the change is "
            f"{side.effect_with_missing:+.2f} {unit} (p = {p:.3f}; on clips that have a value "
            f"{side.effect:+.2f}{_undoubted(study, side)})."
        )
    return (
        f"{said}: at {side.coefficient:+g} the change is {side.effect_with_missing:+.2f} {unit}"
        f"{_percent(study, side.effect_with_missing.value)} (p = {p:.4f}; on clips that have a "
        f"value {side.effect:+.2f}{_undoubted(study, side)}), {side.share:.0%} of what words do; "
        f"on dev prompts it was {side.dev_share:.0%}. Usable {side.usable}{_edge(side)}."
    )


def _edge(side: "Side") -> str:
    return f", where the change is {side.at_edge:+.2f}" if side.usable.last_pass else ""


def _percent(study: "Study", change: float) -> str:
    """A change of a rate as people say it, in percent."""
    if study.concept.per_doubling is None:
        return ""
    return f", {2 ** (change / study.concept.per_doubling) - 1:+.0%},"


def _undoubted(study: "Study", side: "Side") -> str:
    if not study.concept.needs_pulse:
        return ""
    return (
        f", without those whose tempo is likely heard at another level "
        f"{side.effect_without_suspects:+.2f}"
    )


def _shown(side: "Side", sign: str, p: float) -> bool:
    """Whether an effect is there, towards its own side, however missing and doubtful rows count."""
    effects = (side.effect, side.effect_with_missing, side.effect_without_suspects)
    same_way = all(each.tells and each.value * SIGNS[sign] > 0 for each in effects)
    return side.may_be_claimed and p <= _SIGNIFICANT and same_way


def _beside(study: "Study", sign: str, said: str, p: float, scattered: float) -> Iterator[str]:
    side = study.dose_response.sides[sign]
    shown = _shown(side, sign, p)
    # NaN, of single seeds, tells nothing of scatter.
    too_few = scattered > _MOST_RANDOM * abs(side.effect.value)
    for stood in study.beside:
        if stood.sign != sign:
            continue
        verdict = ""
        if shown:
            holds = stood.share_of_real <= _MOST_RANDOM
            if holds:
                verdict = ", so the effect holds"
            elif too_few:
                verdict = ", which other seeds alone may scatter by: too few clips to tell"
            else:
                verdict = ", so the effect does not hold"
        if stood.kind in study.other_concepts:
            if not isfinite(stood.effects[0]):
                yield f"{said}: under the direction of {stood.kind} nothing could be measured."
                continue
            yield (
                f"{said}: the direction of {stood.kind}, as long and put there in its place, moves "
                f"it by {stood.effects[0]:+.2f} {study.concept.change_unit}: "
                f"{stood.share_of_real:.0%} of the effect{verdict}."
            )
            continue
        yield (
            f"{said}: beside {len(stood.effects)} {stood.kind} controls of the same length its "
            f"rank is {stood.rank} (p = {stood.p:.3f}); their 95th percentile is "
            f"{stood.share_of_real:.0%} of the effect{verdict}."
        )


def _scatter(study: "Study", found: float) -> Iterator[str]:
    n_seeds = study.settings.control_seeds
    if not isfinite(found):
        return
    sizes = {sign: abs(side.effect.value) for sign, side in study.dose_response.sides.items()}
    shares = " and ".join(f"{found / size:.0%} ({sign})" for sign, size in sizes.items() if size)
    yield (
        f"Unsteered clips of the same prompts and other seeds, {n_seeds} a prompt as in the "
        f"controls, differ in the median by up to {found:.2f} {study.concept.change_unit} (95th "
        f"percentile), {shares} of the effects: so far a control may scatter that moves nothing."
    )


def _trend(study: "Study", sign: str, said: str) -> str:
    trend, unit = study.dose_response.trends[sign], study.concept.change_unit
    if trend is None:
        return f"{said}: the usable range holds too few coefficients for a trend."
    told = (
        f"{said}: inside the usable range the slope is {trend.slope:+.2f} {unit} per unit of "
        f"coefficient, the rank correlation of prompts {trend.spearman:+.2f}: "
    )
    if not (trend.slope.tells and trend.spearman.tells):
        return told + "too few clips to tell a trend."
    return told + ("more is more." if trend.slope.value > 0 else "more is less.")


def _strategies(study: "Study") -> Iterator[str]:
    """Which way moves furthest where all bend the model as much; exploratory."""
    import pandas

    frame = study.comparison.to_dataframe()
    for sign in SIGNS:
        known = frame[(frame["sign"] == sign) & frame["effect"].notna()]
        if len(known) < 2:
            continue
        best = known.loc[(known["effect"] * SIGNS[sign]).idxmax()]
        layer = best["source_layer"]
        where = "" if pandas.isna(layer) else f" of layer {int(layer)}"
        moved = f"{best['effect']:+.2f} {study.concept.change_unit}"
        yield (
            f"Exploratory, on dev prompts, sign {sign}: of {len(known)} ways that reach "
            f"{best['nats']:.3f} nats per code, {best['strategy']}{where} at {best['site']} in the "
            f"branch {best['branch']} moves furthest ({moved})."
        )


def _largest_side_effect(study: "Study") -> str:
    alike = (study.concept.heard, *study.concept.companions)
    others = study.side_effects[~study.side_effects["measure"].isin(alike)]
    sizes = others["in spreads of twins"].abs()
    if sizes.isna().all():
        return "Exploratory: no side effect could be measured."
    worst = others.loc[sizes.idxmax()]
    return (
        f"Exploratory: the largest side effect is on {worst['measure']}: "
        f"{worst['in spreads of twins']:+.2f} spreads of the twins (sign {worst['sign']}); the "
        f"wanted effect is {worst['wanted over this']:.1f} times as large."
    )


def methods(study: "Study") -> str:
    """A paragraph for a paper, written from the configuration."""
    settings, concept, choice = study.settings, study.concept, study.choice
    n_pairs = study.direction.provenance.get("n_positive")
    dropped = "".join(f" To keep to a budget: {cut}." for cut in settings.dropped)
    return (
        f"Steering of {concept.name} in {study.lens.cfg.model_name} was studied with audio_lens. "
        f"Directions are differences in mean activations ({settings.pool}, conditional half) "
        f"between {n_pairs} matched pairs of prompts{_made_by(study)}. Site, layer, strategy, "
        f"branch and coefficient ({choice.way}) were chosen on {len(concept.dev)} dev prompts with "
        f"{settings.dev_seeds} seeds and frozen. Effects are changes of {concept.heard} from the "
        f"unsteered clip of the same prompt and seed, on {len(concept.test)} test prompts with "
        f"{settings.test_seeds} seeds of {settings.seconds:g} s, guidance "
        f"{settings.guidance_scale:g}: the median over prompts of each prompt's mean over seeds, "
        f"with a percentile bootstrap that draws prompts and then seeds. The two primary tests, "
        f"one per sign at the chosen coefficient, flip signs by prompt and are corrected by Holm "
        f"over both; all else is exploratory. Controls are {settings.random_draws} directions each "
        f"that are {_kinds(settings.control_kinds)}{_other_concepts(study)}, rescaled to the "
        f"direction's length at every layer, on the first {settings.control_seeds} of the seeds."
        f"{dropped}"
    )


_SAID = {
    "isotropic": "isotropic",
    "matched": "drawn with the covariance of the activations",
    "flipped": "made with labels flipped within pairs",
}


def _kinds(kinds: Sequence[str]) -> str:
    *most, last = (_SAID[kind] for kind in kinds)
    return f"{', '.join(most)} or {last}" if most else last


def _other_concepts(study: "Study") -> str:
    names = ", ".join(study.other_concepts)
    return f", and the direction of {names}" if names else ""


def _made_by(study: "Study") -> str:
    if study.settings.pool in ("first_step", "end_of_text"):
        return ""
    return f", each generating {study.settings.direction_seconds:g} s"

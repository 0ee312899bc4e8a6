"""What a study is asked for: refused while nothing is lost, and written down."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from audio_lens.analysis.collect import Gathering
from audio_lens.analysis.controls import KINDS
from audio_lens.errors import InputError
from audio_lens.provenance import function_sha256, prompts_sha256, versions, weights_sha256

if TYPE_CHECKING:
    from audio_lens.recipes.study.study import Study

_LEAST_FOR_TEMPO = 6.0


def check(study: "Study") -> None:
    """Refuse what a later stage could not use.

    Raises:
        InputError: too few prompts, or one twice; clips too short for a tempo; a site, pool or
            other concept that cannot be had.
    """
    concept, settings = study.concept, study.settings
    for what, prompts, least in (
        ("dev", concept.dev, 2), ("test", concept.test, 3), ("positive", concept.positive, 6),
    ):  # fmt: skip
        if len(set(prompts)) < len(prompts) or len(prompts) < least:
            raise InputError(
                f"{concept.name}: {len(set(prompts))} different {what} prompts of "
                f"{len(prompts)}: a study needs {least} at least, each once. Choices are made "
                f"on neutral= prompts named in dev=, and reported on the others."
            )
    if concept.needs_pulse and settings.seconds < _LEAST_FOR_TEMPO:
        raise InputError(
            f"seconds={settings.seconds:g}: a tempo is not heard in less than "
            f"{_LEAST_FOR_TEMPO:g} s."
        )
    Gathering(  # checks sites and pool
        study.lens, list(concept.positive[:1]), site=settings.sites_of(study.lens),
        pool=settings.pool, seconds=settings.direction_seconds,
    )  # fmt: skip
    for name in study.other_concepts:
        if name in (*KINDS, concept.name):
            taken = "a kind of controls" if name in KINDS else "the name of the concept itself"
            raise InputError(f"others: {name!r} is {taken}; give another name.")


def configuration(study: "Study") -> dict[str, Any]:
    """What tells a study from others, as its folder keeps it."""
    concept, revision = study.concept, study.lens.revision
    return {
        "model": study.lens.cfg.model_name,
        **({} if revision is None else {"revision": revision}),
        "weights": weights_sha256(study.lens.hf_model),
        "concept": concept.name,
        "heard": concept.heard,
        "own_measure": concept.own_measure and function_sha256(concept.own_measure),
        "prompts_sha256": study.prompts_sha256,
        "others": {
            name: prompts_sha256([each.positive, each.negative])
            for name, each in study.other_concepts.items()
        },
        "settings": asdict(study.settings),
        "versions": versions(),
    }

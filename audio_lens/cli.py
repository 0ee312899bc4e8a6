"""The door from a shell: thin calls of the functions that a notebook would use."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from audio_lens import __version__
from audio_lens.errors import AudioLensError

_CONTROL_KINDS_HELP = "isotropic, matched, flipped (all); a study that was begun may be given more"
_CONTROL_SEEDS_HELP = "of each test prompt (1); a study that was begun may be given more"
_MODEL_HELP = "hub name, folder, toy or toy-melody (default: %(default)s)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 1 on a failed check or bad input."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except AudioLensError as error:
        print(f"audio-lens: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="audio-lens", description="Interpretability for music transformers."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="steer tempo and timbre on the toy, measured")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder (%(default)s)")
    demo.add_argument("--model", default="toy", help=_MODEL_HELP)
    demo.add_argument("--quick", action="store_true", help="a rehearsal: its numbers mean nothing")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    demo.set_defaults(command=_demo)

    generate = commands.add_parser("generate", help="make a clip from a prompt")
    generate.add_argument("prompt")
    generate.add_argument("--out", type=Path, default=Path("clip.wav"), help="%(default)s")
    generate.add_argument("--seconds", type=float, default=8.0, help="%(default)s")
    generate.add_argument("--seed", type=int, default=0, help="%(default)s")
    generate.add_argument("--model", default="toy", help=_MODEL_HELP)
    generate.set_defaults(command=_generate)

    sites = commands.add_parser("sites", help="print the site table")
    sites.add_argument("model", nargs="?", default="toy", help=_MODEL_HELP)
    sites.set_defaults(command=_sites)

    probe = commands.add_parser("probe", help="what can be read off the activations, by layer")
    probe.add_argument("tasks", nargs="*", metavar="TASK", help="of the labelled clips (all)")
    probe.add_argument("--model", default="toy", help=_MODEL_HELP)
    probe.add_argument("--clips", type=int, default=500, help="of each task (%(default)s)")
    probe.add_argument("--site", nargs="+", default=["resid_post"], help="(%(default)s)")
    probe.add_argument("--folder", type=Path, help="your own audio, in place of labelled clips")
    probe.add_argument("--label", help="of --folder: the column of its labels.csv to be asked for")
    probe.add_argument("--seconds", type=float, help="of --folder: how much of each file is heard")
    probe.add_argument("--group", help="of --folder: a column of what belongs together")
    probe.add_argument("--out", type=Path, default=Path("runs/probe"), help="folder (%(default)s)")
    probe.set_defaults(command=_probe)

    study = commands.add_parser("study", help="a whole study of tempo or timbre, with its report")
    study.add_argument("concept", help="tempo or timbre")
    study.add_argument("--model", default="toy", help=_MODEL_HELP)
    study.add_argument("--out", type=Path, help="folder (runs/CONCEPT); go on with what it holds")
    study.add_argument("--plan", action="store_true", help="print clips, minutes and disk; no more")
    study.add_argument("--budget", type=float, help="hours; what does not fit is left out and said")
    study.add_argument("--control-kinds", nargs="+", metavar="KIND", help=_CONTROL_KINDS_HELP)
    study.add_argument("--control-seeds", type=int, help=_CONTROL_SEEDS_HELP)
    study.add_argument("--quick", action="store_true", help="a rehearsal: its numbers mean nothing")
    study.add_argument("--quiet", action="store_true", help="no progress bars")
    study.set_defaults(command=_study)

    check = commands.add_parser("check", help="read and write every site; 1 on any failure")
    check.add_argument("model", nargs="?", default="toy", help=_MODEL_HELP)
    check.set_defaults(command=_check)
    return parser


def _demo(options: argparse.Namespace) -> int:
    # Two processes of one thread make half as many clips again as one process of two threads.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        reports = [
            pool.submit(_demo_of, name, options, progress=not options.quiet and name == "tempo")
            for name in ("tempo", "timbre")
        ]
        for report in reports:
            print(report.result(), end="\n\n")
    print(f"Clips with their unsteered twins, curves, rows and directions: {options.out}/")
    if options.model in ("toy", "toy-melody"):
        print("The toy shows that the tool works, not how MusicGen works.")
    return 0


def _demo_of(name: str, options: argparse.Namespace, *, progress: bool) -> str:
    import torch

    from audio_lens.lens.lens import AudioLens
    from audio_lens.recipes.demo import QUICK, DemoSettings, report, run_demo, write

    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    settings = QUICK if options.quick else DemoSettings()
    lens = AudioLens.from_pretrained(options.model)
    outcome = run_demo(lens, name, settings=settings, progress=progress)
    write(outcome, options.out / name, settings, lens.cfg.model_name)
    return report(outcome)


def _generate(options: argparse.Namespace) -> int:
    from audio_lens.audio.clip import check_ending
    from audio_lens.lens.lens import AudioLens

    check_ending(options.out)  # before a minute of work is lost
    lens = AudioLens.from_pretrained(options.model)
    clips = lens.generate(options.prompt, seconds=options.seconds, seed=options.seed)
    print(clips[0].save(options.out))
    return 0


def _probe(options: argparse.Namespace) -> int:
    from audio_lens.audio.folder import labelled_folder
    from audio_lens.errors import InputError
    from audio_lens.lens.lens import AudioLens
    from audio_lens.recipes.probing import (
        ProbingSettings,
        labelled_tasks,
        probe_tasks,
        report,
        write,
    )

    data: dict[str, Any] = {}
    if options.folder is not None:
        if options.tasks or options.label is None or options.seconds is None:
            raise InputError("--folder takes --label and --seconds, and no TASK.")
        data[options.label] = labelled_folder(
            options.folder, options.label, seconds=options.seconds, group=options.group
        )
    elif options.label or options.seconds or options.group:
        raise InputError("--label, --seconds and --group are of --folder: give that too.")
    lens = AudioLens.from_pretrained(options.model)
    data = data or labelled_tasks(lens, options.tasks or None, n=options.clips)
    settings = ProbingSettings(site=tuple(options.site))
    found = probe_tasks(lens, data, settings=settings)
    print(report(found))
    print(f"Every score, and curves over layers: {write(found, options.out, settings, lens)}/")
    return 0


def _study(options: argparse.Namespace) -> int:
    from audio_lens.lens.lens import AudioLens
    from audio_lens.recipes.concept import concept
    from audio_lens.recipes.study.listening import kept_listening_test
    from audio_lens.recipes.study.planning import plan_for

    wanted = concept(options.concept)
    out = options.out or Path("runs") / wanted.name
    lens = AudioLens.from_pretrained(options.model)
    planned = plan_for(
        wanted, lens, out,
        budget=options.budget, quick=options.quick,
        control_kinds=options.control_kinds, control_seeds=options.control_seeds,
    )  # fmt: skip
    print(planned)
    if options.plan:
        return 0
    study = wanted.study(lens, out, settings=planned.settings, progress=not options.quiet)
    for sentence in study.findings():
        print(f"- {sentence}")
    # Votes may be under way for a page that was written before.
    page = kept_listening_test(study) or study.listening_test()
    print(f"Report: {study.report()}\nListening test: {page}")
    return 0


def _sites(options: argparse.Namespace) -> int:
    from audio_lens.lens.lens import AudioLens

    print(AudioLens.from_pretrained(options.model).sites)
    return 0


def _check(options: argparse.Namespace) -> int:
    from audio_lens.lens.lens import AudioLens

    report = AudioLens.from_pretrained(options.model).check()
    print(report)
    for failure in report.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 0 if report.ok else 1

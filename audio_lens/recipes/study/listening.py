"""A blind listening test as a page that needs no network, and its votes read back."""

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest

from audio_lens.errors import InputError
from audio_lens.lens.generation import decode_codes
from audio_lens.recipes.study.ledger import write_whole
from audio_lens.recipes.study.strengths import SIGNS

if TYPE_CHECKING:
    from pandas import DataFrame

    from audio_lens.recipes.study.ledger import Row
    from audio_lens.recipes.study.study import Study

_UNHEARD = 1e-3
PAGE, KEY = "listen.html", "listen_key.json"


@dataclass(frozen=True)
class Trial:
    """Two clips and which of them should be heard as more of the concept."""

    kind: str
    """`steered` or `random` (against the unsteered twin), `prompted` (the poles asked for in
    words) or `catch` (a clip against itself)."""
    sign: str
    """Of the steering; the positive pole is asked for in every trial."""
    expected: str
    """`"A"` or `"B"`; of a catch trial neither, `""`."""
    prompt: str


def write_listening_test(study: "Study", *, trials: int = 8, seed: int | None = None) -> Path:
    """Write the page and, apart from it, the key; returns the page's path.

    Listeners get `listen.html` alone: it holds the sounds and no word of what they are. Their votes
    are saved by their browser as a JSON file, which `read_votes` reads.

    Args:
        study: With its dose-response, controls and poles heard, or heard now.
        trials: Of each kind and sign.
        seed: Of the order of trials, and of A and B; drawn if None, since listeners who know it
            know the key.
    """
    rng = np.random.default_rng(seed)
    pairs = list(_pairs(study, trials, rng))
    order = rng.permutation(len(pairs))
    made, sounds = [], []
    for place in order:
        kind, sign, prompt, less, more = pairs[place]
        swapped = bool(rng.integers(2))
        expected = "" if kind == "catch" else "A" if swapped else "B"
        made.append(Trial(kind, sign, expected, prompt))
        sounds.append([more, less] if swapped else [less, more])
    heard = as_addresses(study, [row for pair in sounds for row in pair])
    name = f"{_name(study)} {token_hex(8)}"  # votes belong to one page, not to the next
    page = "\n".join(_page(study, name, list(zip(heard[::2], heard[1::2], strict=True))))
    file = study.ledger.file(PAGE)
    key = {"study": name, "trials": [asdict(trial) for trial in made]}
    file.unlink(missing_ok=True)  # a page never lies beside the key of another
    write_whole(study.ledger.file(KEY), json.dumps(key, indent=1) + "\n")
    write_whole(file, page)
    return file


def kept_listening_test(study: "Study") -> Path | None:
    """The page that was written before, with its key; votes may be under way for it."""
    file, key = study.ledger.folder / PAGE, study.ledger.folder / KEY
    return file if file.is_file() and key.is_file() else None


def _pairs(
    study: "Study", n: int, rng: np.random.Generator
) -> Iterator[tuple[str, str, str, "Row", "Row"]]:
    """Kind, sign, prompt, the clip with less of the concept and the one with more."""
    twins = {(r["prompt"], r["seed"]): r for r in study.rows if r["coefficient"] == 0}
    (random,) = study.control_clips("isotropic", study.controls("isotropic")[:1])
    taken: set[tuple[str, int]] = set()
    # Those of which there are fewest first: every trial shall have a twin of its own.
    for kind, rows in (("random", random), ("steered", study.rows)):
        for sign, dose in study.choice.coefficients.items():
            for row in _some([r for r in rows if r["coefficient"] == dose], n, taken, rng):
                pair = [twins[row["prompt"], row["seed"]], row]
                less, more = pair if SIGNS[sign] > 0 else pair[::-1]
                yield kind, sign, row["prompt"], less, more
    for row in _some(list(twins.values()), max(n // 2, 1), taken, rng):
        yield "catch", "", row["prompt"], row, row
    lows, highs = (study.prompted(sign) for sign in ("-", "+"))
    for place in rng.permutation(len(lows))[:n]:
        yield "prompted", "", highs[place]["prompt"], lows[place], highs[place]


def _some(
    rows: Sequence["Row"], n: int, taken: set[tuple[str, int]], rng: np.random.Generator
) -> Iterator["Row"]:
    """Drawn, spread over prompts; those whose twin is in no trial yet come first.

    A twin that comes back is known again, and with it which clip is the steered one.
    """
    left, said = [rows[place] for place in rng.permutation(len(rows))], Counter[str]()
    for _ in range(min(n, len(left))):
        held = [((row["prompt"], row["seed"]) in taken, said[row["prompt"]]) for row in left]
        row = left.pop(held.index(min(held)))
        taken.add((row["prompt"], row["seed"]))
        said[row["prompt"]] += 1
        yield row


def as_addresses(study: "Study", rows: Sequence["Row"]) -> list[str]:
    """Each clip as an address that holds its sound, compressed, as loud as it is.

    A clip that occurs again is softer by a hundredth of a decibel, so that its address is another
    and does not tell that it is the same.
    """
    waves = decode_codes(study.lens, study.ledger.codes(rows).to(study.lens.cfg.device))
    seen: Counter[tuple[str, int]] = Counter()
    found = []
    for row, wave in zip(rows, waves, strict=True):
        key = row["codes"], row["place"]
        softer = (1 - _UNHEARD) ** seen[key]
        found.append(_as_address(wave.cpu().numpy() * softer, study.lens.cfg.sample_rate))
        seen[key] += 1
    return found


def _as_address(wave: np.ndarray, sample_rate: int) -> str:
    """A sound as a `data:` address, MP3."""
    import soundfile

    kept = io.BytesIO()
    soundfile.write(kept, wave.T, sample_rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(kept.getvalue()).decode()}"


_SCRIPT = """
const votes = {};
function vote(n, said) {
  votes[n] = said;
  document.querySelectorAll(`#t${n} button`).forEach(
    b => b.style.fontWeight = b.value === said ? "bold" : "normal");
  document.getElementById("n").textContent = Object.keys(votes).length;
}
function save() {
  const rater = document.getElementById("rater").value || "unnamed";
  const text = JSON.stringify({study: STUDY, rater: rater, votes: votes});
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = "votes-" + rater.replace(/[^A-Za-z0-9]+/g, "-") + ".json";
  link.click();
}
"""


def _page(study: "Study", name: str, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    asked = study.concept.poles[1]
    yield "<!doctype html><meta charset='utf-8'><title>Listening test</title>"
    yield (
        "<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto;"
        "padding: 0 1rem } div { padding: 0.6rem 0; border-bottom: 1px solid #ddd }</style>"
    )
    yield f"<h1>Which one is {html.escape(asked)}?</h1>"
    yield (
        f"<p>{len(pairs)} pairs of clips. Listen to both, as often as you like, and say which is "
        f"{html.escape(asked)}; some pairs may not differ. Then save your votes and send the file "
        f"back.</p><p>Your name or a number: <input id='rater'></p>"
    )
    for n, (first, second) in enumerate(pairs):
        players = "".join(
            f"<audio controls preload='none' src='{sound}'></audio> " for sound in (first, second)
        )
        buttons = "".join(
            f"<button value='{said}' onclick='vote({n}, \"{said}\")'>{shown}</button> "
            for said, shown in (("A", "first"), ("B", "second"), ("same", "cannot tell"))
        )
        yield f"<div id='t{n}'>{n + 1}. {players}<br>{buttons}</div>"
    yield f"<p><span id='n'>0</span> of {len(pairs)} <button onclick='save()'>save votes</button>"
    known = json.dumps(name).replace("</", "<\\/")
    yield f"<script>const STUDY = {known};{_SCRIPT}</script>"


def _name(study: "Study") -> str:
    return f"{study.concept.name} {study.lens.cfg.model_name} {study.prompts_sha256[:12]}"


def read_votes(study: "Study", *files: str | Path) -> "DataFrame":
    """How often the expected clip was named, by kind and sign, over all listeners.

    Answers of "cannot tell" count as half. A listener who names one of two equal clips in more than
    half of the catch trials is left out, and said to be so in the column `left out`. Intervals are
    Wilson's, over votes, as if they were independent: they are not quite, so read them as the least
    uncertainty that there is.

    Raises:
        InputError: no test was written, votes of another study, or answers to no trial.
    """
    import pandas

    file = study.ledger.folder / KEY
    if not file.is_file():
        raise InputError(f"no listening test in {study.ledger.folder}: write one first.")
    key = json.loads(file.read_text())
    trials = [Trial(**trial) for trial in key["trials"]]
    given = [Path(name) for name in files]
    for file, other in combinations(given, 2):
        if file.is_file() and other.is_file() and file.read_bytes() == other.read_bytes():
            raise InputError(f"{other} holds the same votes as {file}: give each listener once.")
    ballots = [_ballot(file, key["study"], len(trials)) for file in given]
    if not ballots:
        raise InputError("give the files of at least one listener.")
    kept = [ballot for ballot in ballots if _careful(ballot, trials)]
    lines = []
    for kind, sign in dict.fromkeys((t.kind, t.sign) for t in trials if t.kind != "catch"):
        said = [
            {trials[n].expected: 1.0, "same": 0.5}.get(answer, 0.0)
            for ballot in kept
            for n, answer in ballot.items()
            if (trials[n].kind, trials[n].sign) == (kind, sign)
        ]
        lines.append(
            {
                "kind": kind,
                "sign": sign,
                "votes": len(said),
                **_share(said),
                "listeners": len(kept),
                "left out": len(ballots) - len(kept),
            }
        )
    return pandas.DataFrame(lines)


def _ballot(file: Path, study: str, n: int) -> dict[int, str]:
    try:
        said: Any = json.loads(file.read_text())
        votes = {int(place): answer for place, answer in said["votes"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{file} holds no votes of a listening test: {error}.") from error
    if said.get("study") != study:
        raise InputError(f"{file}: votes of {said.get('study')!r}, this study is {study!r}.")
    for place, answer in votes.items():
        if not 0 <= place < n or answer not in ("A", "B", "same"):
            raise InputError(f"{file}: {answer!r} to trial {place}: there are {n} trials.")
    return votes


def _careful(ballot: Mapping[int, str], trials: Sequence[Trial]) -> bool:
    named = [answer != "same" for n, answer in ballot.items() if trials[n].kind == "catch"]
    return not named or float(np.mean(named)) <= 0.5


def _share(said: Sequence[float]) -> dict[str, float]:
    if not said:
        return dict.fromkeys(("expected", "low", "high"), float("nan"))
    found = binomtest(round(sum(said)), len(said)).proportion_ci(method="wilson")
    return {"expected": float(np.mean(said)), "low": float(found.low), "high": float(found.high)}

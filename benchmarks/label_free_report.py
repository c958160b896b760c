"""The page docs/label-free.md."""

from collections.abc import Mapping, Sequence
from typing import Any

SIDES = ("hidden", "with")
PAGE = """\
# Without transcripts

A folder of audio is enough: `whisper-router run --audio DIR`. The strong model's text is then the reference,
and decider, policies and guarantees are about *differing from it*. `--audio` writes a corpus of kind `folder`
into params.yaml:

    ingest:
      root: DIR
      corpora: [{{name: calls, kind: folder, path: .}}]

Every audio file in the folder and below it is an utterance. The first folder below `path` is the speaker
(`speaker_level: 2`: the second); a file that lies in none is a speaker of its own. In any other layout rows
with an empty text are taken under `reference: strong`; rows with a text keep it. Files over 30 s have no
label, as ever: cut recordings into utterances first.

- Figures of rows with transcripts and of rows without are never pooled. `evaluate` measures the test rows
  with transcripts and, in a table of their own (`data/metrics/unlabelled.json`), those without; where no test
  row has a transcript, all figures are of rows without. `calibrate` and the drift baseline take the
  calibration rows with transcripts if there are any, else the others. Only training takes both.
- The strong model's WER, 0 by definition, is no quality: tables say "reference" in its place.
- An utterance in which the strong model hears no words has no reference and is left out; `label` says how
  many.
- A text that stands in two splits is dropped only where it is known before decoding: rows without transcripts
  are compared by their audio alone.
- **What this cannot see: which model is right where they differ.** An utterance on which the weak model is
  right and the strong one wrong counts as an error of the weak one, so more goes to the strong model than
  must; errors that both make alike are not seen at all. If the weak model is the better one for your audio,
  this mode cannot find out: transcribe some utterances by hand.

## How far it is off

{weak} -> {strong} on {utterances} utterances of {speakers} speakers that have transcripts: once with them,
once with the transcripts hidden, from the same decodes. {draws} times the speakers are divided at random
(40 % train, 10 % dev, 25 % calibration, 25 % test); each time the cascade's decider is trained and every
policy calibrated each way, and both are measured on the test speakers, with their transcripts. All figures
are means over the divisions.

With transcripts the WER is {wer_weak:.1%} for {weak} and {wer_strong:.1%} for {strong}, and {need_strong:.0%}
of the utterances need {strong}. Without, {differs:.1%} of the words of {strong}'s text differ, in
{differ:.0%} of the utterances; of these {need_strong_of_differ:.0%} really need {strong}. On
{weak_better:.0%} of all utterances {weak} makes fewer errors than {strong}, which stays unseen.

AUROC of the decider for needing {strong} by the transcripts: trained without them
{auroc_hidden_of_with:.1%}, with them {auroc_with_of_with:.1%}. For differing from {strong}'s text:
{auroc_hidden_of_hidden:.1%} and {auroc_with_of_hidden:.1%}.

{choices}

Always {weak}: WER {division_weak:.1%}; always {strong}: {division_strong:.1%}.

What is promised and what is observed on the test speakers; "hidden" of differing from {strong}'s text, "with"
of more errors than {strong}. A division's test split has noise of its own, so an observed rate may be above
its bound more often than the promise allows the true one.

{promises}

`python benchmarks/label_free.py --table TABLE`; arms on CTranslate2, int8; {cpu}.
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _choices(made: Mapping[str, Any]) -> str:
    strong = made["models"]["strong"]
    columns = {
        "threshold": ("threshold", ".3f"),
        "strong_share": (f"to {strong}", ".0%"),
        "wer": ("WER by transcripts", ".1%"),
        "differs": (f"words that differ from {strong}'s text", ".1%"),
    }
    header = [f"{title}: {side}" for title, _ in columns.values() for side in SIDES]
    rows = [
        [
            row["policy"],
            *(format(row[side][key], form) for key, (_, form) in columns.items() for side in SIDES),
        ]
        for row in made["policies"]
    ]
    return _table(["policy", *header], rows)


def _promises(made: Mapping[str, Any]) -> str:
    header = ["policy", "bound"]
    for side in SIDES:
        header += [f"{side}: observed", "divisions above", "with a promise"]
    header.append("hidden: more errors, by transcripts")
    rows = []
    for row in made["policies"]:
        if row["figure"] is None:
            continue
        cells = [row["policy"], f"{row['target']:.0%}"]
        for side in SIDES:
            found = row[side]
            promised = found["promised"] if row["policy"].startswith("guarantee") else "-"
            cells += [f"{found['observed']:.1%}", f"{found['above']} of {made['draws']}", str(promised)]
        rows.append([*cells, f"{row['hidden']['observed_with_transcripts']:.1%}"])
    return _table(header, rows)


def document(made: Mapping[str, Any]) -> str:
    """The page."""
    division = made["division"]
    return PAGE.format(
        **made["models"],
        **made["labels"],
        **{name: value for name, value in division.items() if name.startswith("auroc")},
        division_weak=division["wer_weak"],
        division_strong=division["wer_strong"],
        choices=_choices(made),
        promises=_promises(made),
        **{name: made[name] for name in ("utterances", "speakers", "draws", "cpu")},
    )

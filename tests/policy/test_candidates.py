"""The verdict's candidates: what a fold knows of a policy is of the other folds."""

from dataclasses import replace

import numpy as np
import pytest
from policy.test_folds import BOUND, FOLDS, OPTIONS, SAMPLE

from whisper_router.policy.candidates import candidate, fold_candidates
from whisper_router.policy.choose import Sample
from whisper_router.policy.folds import thresholds
from whisper_router.policy.make import make_policy
from whisper_router.policy.options import VerdictOptions
from whisper_router.verdict import choose_policy, judge

CHOSEN = {options.kind: options for options in OPTIONS[:4]}


def made_of(sample: Sample):
    policies = {name: make_policy(name, options, sample, BOUND) for name, options in CHOSEN.items()}
    at = {name: thresholds(CHOSEN[name], policy, sample) for name, policy in policies.items()}
    candidates = {name: candidate(policy, sample, at[name]) for name, policy in policies.items()}
    return candidates, fold_candidates(candidates, policies, {"d": sample}, at, 50, 0)


def test_what_a_fold_knows_does_not_depend_on_what_happened_in_it():
    _, known = made_of(SAMPLE)
    assert [set(SAMPLE.folds[fold.rows]) for fold in known] == [{fold} for fold in range(FOLDS)]
    inside = SAMPLE.folds == 2
    errors = np.where(inside, 9, SAMPLE.pair.weak_errors)
    _, changed = made_of(replace(SAMPLE, pair=replace(SAMPLE.pair, weak_errors=errors)))
    for name in CHOSEN:
        for field in ("calibration_rise", "calibration_saving"):
            before, after = (getattr(folds[2].candidates[name], field) for folds in (known, changed))
            assert before == after
    assert any(
        known[0].candidates[name].calibration_rise != changed[0].candidates[name].calibration_rise
        for name in CHOSEN
    )


def test_the_verdict_s_figures_are_of_each_fold_with_what_the_others_prefer():
    candidates, known = made_of(SAMPLE)
    options, models = VerdictOptions(currency="macs"), {"weak": "a", "strong": "b"}
    # one fold must prefer another policy than all folds do, whatever the sample
    all_prefer = choose_policy(candidates, options.tolerance, "macs")
    other = next(name for name in CHOSEN if name != all_prefer)
    worst = {
        name: replace(one, calibration_rise=-1.0 if name == other else 1.0)
        for name, one in known[0].candidates.items()
    }
    known[0] = replace(known[0], candidates=worst)
    verdict = judge(SAMPLE.pair, candidates, models, options, 50, 0, "text", known)
    strong = np.zeros(len(SAMPLE.scores), bool)
    for fold in known:
        preferred = choose_policy(fold.candidates, options.tolerance, "macs")
        strong[fold.rows] = candidates[preferred].strong[fold.rows]
    errors = np.where(strong, SAMPLE.pair.strong_errors, SAMPLE.pair.weak_errors)
    assert verdict.policy == all_prefer
    assert verdict[all_prefer].wer == pytest.approx(errors.sum() / SAMPLE.pair.words.sum(), abs=1e-6)
    assert verdict[all_prefer].strong_share == pytest.approx(strong.mean(), abs=1e-6)


def test_utterances_of_a_split_have_no_folds():
    assert made_of(replace(SAMPLE, folds=None))[1] == []

"""Great Expectations on a table: an expectation that does not hold warns, or fails the stage by name."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from whisper_router.checks.options import Severities, Severity
from whisper_router.checks.suites import Check
from whisper_router.errors import UserError
from whisper_router.files import write_json
from whisper_router.progress import say

EXAMPLES = 5
GX_SEVERITY = {"warn": "warning", "fail": "critical"}


class CheckFailedError(UserError):
    """Expectations that did not hold, by name."""


@dataclass(frozen=True)
class Verdict:
    """What became of a check."""

    name: str
    meaning: str
    remedy: str
    severity: Severity
    passed: bool
    unexpected: int
    examples: tuple[str, ...]

    def complaint(self) -> str:
        """What did not hold, where, and what to do."""
        rows = "row" if self.unexpected == 1 else "rows"
        count = f"{self.unexpected} {rows}: " if self.unexpected else ""
        more = ", ..." if self.unexpected > len(self.examples) else ""
        return f"{self.name}: {self.meaning} Not so: {count}{', '.join(self.examples)}{more}. {self.remedy}"


def run_checks(
    name: str,
    frame: pd.DataFrame,
    checks: Sequence[Check],
    severities: Severities,
    output: Path,
    docs: Path,
) -> list[Verdict]:
    """Validate a table; write the verdicts as JSON without run id or clock, and Data Docs beside.

    Expectations that only warn are printed. One on a column without any value is left out: texts, where no
    row has a transcript.

    Raises
    ------
    CheckFailedError
        Names the expectations of severity ``fail`` that did not hold, with examples and remedies. The
        verdicts are written all the same.
    """
    checks = [check for check in checks if frame[check.arguments["column"]].notna().any()]
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.absolute())}
    site: Any = {"class_name": "SiteBuilder", "store_backend": store}
    context.add_data_docs_site(site_name=name, site_config=site)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for check in checks:
        kind = getattr(gx.expectations, check.expectation)
        severity = GX_SEVERITY[getattr(severities, check.name)]
        said = f"{check.name}: {check.meaning} Remedy: {check.remedy}"
        meta = {"name": check.name}
        suite.add_expectation(kind(**check.arguments, meta=meta, description=said, severity=severity))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=batch, suite=suite)
    )
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[definition],
        actions=[UpdateDataDocsAction(name="docs", site_names=[name])],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]},
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": frame})
    validation: Any
    (validation,) = outcome.run_results.values()
    by_name = {check.name: check for check in checks}
    made = {}
    for result in validation.results:
        check = by_name[result.expectation_config.meta["name"]]
        made[check.name] = _verdict(check, getattr(severities, check.name), result)
    verdicts = [made[check.name] for check in checks]
    write_json(
        output, {"suite": name, "rows": len(frame), "verdicts": [asdict(verdict) for verdict in verdicts]}
    )
    missed = [verdict for verdict in verdicts if not verdict.passed]
    for verdict in missed:
        if verdict.severity == "warn":
            say(f"{name}: warning: {verdict.complaint()}")
    failed = [verdict for verdict in missed if verdict.severity == "fail"]
    if failed:
        lines = [f"  {verdict.complaint()}" for verdict in failed]
        names = ", ".join(verdict.name for verdict in failed)
        raise CheckFailedError(f"{name}: expectation {names} failed\n" + "\n".join(lines))
    return verdicts


def _verdict(check: Check, severity: Severity, result: Any) -> Verdict:
    details = result.result
    found = details.get("unexpected_index_list") or []
    examples = sorted(str(row["id"]) for row in found)[:EXAMPLES]
    if not result.success and not examples:
        missing = sorted(map(str, details.get("partial_missing_list") or []))
        unknown = sorted(map(str, details.get("partial_unexpected_list") or []))
        examples = [f"no {name}" for name in missing] + [f"unknown {name}" for name in unknown]
        observed = details.get("observed_value")
        if not examples and observed is not None:
            examples = [f"it is {observed:.4g}" if isinstance(observed, float) else f"it is {observed}"]
    if result.exception_info.get("raised_exception"):
        severity, examples = "fail", [str(result.exception_info.get("exception_message"))]
    count = int(details.get("unexpected_count") or 0)
    return Verdict(
        check.name, check.meaning, check.remedy, severity, bool(result.success), count, tuple(examples)
    )

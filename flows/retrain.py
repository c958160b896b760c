"""retrain: new audio -> the DAG -> a registered version -> the gate -> the champion.

    python -m flows.retrain                          # once, now
    python -m flows.retrain --check                  # would it get through? seconds, nothing is changed
    python -m flows.retrain --status                 # what the last ones did, what runs, what waits
    python -m flows.retrain --serve --cron "0 3 * * *"   # on this machine, by schedule, until stopped

With a Prefect server and a process work pool: prefect.yaml.

exit codes:
  0  a version was promoted, or there was nothing to do; --check: everything holds
  1  an error; --check: something does not hold
  2  wrong usage
  3  the gate failed: the version is registered and does not serve
"""

import argparse
import os
import sys

from whisper_router import environment
from whisper_router.errors import UserError

GATE_FAILED = 3


def _check() -> None:
    """Print what each check found; exit code 1 where one does not hold."""
    from whisper_router.preflight import check

    findings = check()
    for finding in findings:
        print(finding)
    sys.exit(0 if all(finding.holds for finding in findings) else 1)


def _status(as_json: bool) -> None:
    from whisper_router.retrain_status import lines, status

    found = status()
    print(found.model_dump_json() if as_json else "\n".join(lines(found)))


def _retrain(serve: bool, cron: str) -> None:
    """Check before Prefect is imported and started; the flow does again, for what a schedule starts."""
    from whisper_router.preflight import require_ready
    from whisper_router.retrain_state import errors_kept

    with errors_kept():
        require_ready()
    from flows.retrain_flow import retrain
    from flows.stage import main
    from whisper_router.run import prefect_server

    with prefect_server() as url:
        os.environ["PREFECT_API_URL"] = url
        if serve:
            retrain.serve(name="retrain", cron=cron)
        elif main(retrain).ending == "gate failed":
            sys.exit(GATE_FAILED)


def _command() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="say what would stop a retraining, and what to do")
    what.add_argument("--status", action="store_true", help="the last retrainings, and what waits")
    what.add_argument("--serve", action="store_true", help="stay and run by schedule")
    parser.add_argument("--cron", default="0 3 * * *", help="with --serve (default: every night at 3)")
    parser.add_argument("--json", action="store_true", help="with --status: one JSON object")
    arguments = parser.parse_args()
    environment.prepare()
    try:
        if arguments.check:
            _check()
        elif arguments.status:
            _status(arguments.json)
        else:
            _retrain(arguments.serve, arguments.cron)
    except UserError as error:
        sys.exit(f"retrain: {error}")


if __name__ == "__main__":
    _command()

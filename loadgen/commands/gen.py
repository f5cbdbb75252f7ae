"""`slackwater-loadgen gen`: a plan as a file, which any number of runs can use with `source=work:FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.errors import BadInput, ExitCode
from loadgen.plan import workload
from loadgen.plan.build import build
from loadgen.report.text import plan_summary
from loadgen.run.prepare import BLOCK, data_folder

if TYPE_CHECKING:
    from loadgen.options import GenOptions


def main(options: GenOptions) -> ExitCode:
    """Write the plan and say what is in it.

    Raises:
        BadInput: classes that cannot be planned, or a file that cannot be written.
        BadData: a row of a source that cannot be used.
    """
    plan = build(options.scenario, data_folder(options.scenario), BLOCK)
    path = Path(options.output)
    # Nobody finds half a plan: it has its name only when it is whole.
    part = path.with_name(f"{path.name}.part")
    try:
        workload.write(plan, part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BadInput("-o", "", options.output, error.strerror or "cannot be written") from error
    sys.stdout.write(plan_summary(plan, workload.plan_hash(plan)))
    return ExitCode.OK

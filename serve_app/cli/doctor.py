"""`model-runtime doctor`: prints what is wrong and what to do, in lines or as JSON."""

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from serve_app.doctor.examination import examine
from serve_app.doctor.findings import Finding, Level

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.FAULT: "bold red"}


def run(options: argparse.Namespace) -> int:
    """Returns 1 where there is a fault."""
    console = Console(highlight=False, soft_wrap=True)
    findings = []
    for finding in examine(options.config, options.models, options.port):
        findings.append(finding)
        if not options.json:
            console.print(line_of(finding))
    faults = sum(finding.level is Level.FAULT for finding in findings)
    if options.json:
        print(json.dumps({"faults": faults, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        console.print(f"\n{faults} fault{'' if faults == 1 else 's'}" if faults else "\nnothing is wrong")
    return 1 if faults else 0


def line_of(finding: Finding) -> Text:
    """Coloured where it is printed on a terminal."""
    line = Text.assemble((f"{finding.level:<8}", _STYLES[finding.level]), f"{finding.what}: {finding.said}")
    if finding.cure:
        line.append(f"\n{'':<8}→ {finding.cure}")
    return line

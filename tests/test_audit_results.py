"""The table of results/audit holds to its record."""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results" / "audit"


def test_every_finding_of_the_record_is_in_the_table_and_no_other():
    record = json.loads((RESULTS / "findings.json").read_text(encoding="utf-8"))
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    table = {(row[0], row[1]): {code.strip() for code in row[3].split(",")} for row in rows if len(row) == 6}
    table.pop(("repository", "function"))
    table.pop(("---", "---"))
    found = {}
    for loss in record["losses"]:
        if not loss["ok"]:
            key = loss["repository"], loss["function"].split(", its settings")[0]
            found.setdefault(key, set()).update(finding["code"] for finding in loss["findings"])
    assert table == found
    commits = {loss["repository"]: loss["commit"] for loss in record["losses"]}
    assert {(row[0], row[1]) for row in rows if len(row) == 2} >= {(name, sha[:12]) for name, sha in commits.items()}
    assert f"{len(record['losses'])} audits of the losses of {len(commits)} public repositories" in text
    assert f"{len(found)} losses" in text

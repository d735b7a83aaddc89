"""Lists each distribution that requirement files need, with its version and its entries in site-packages.

Runs as `PYTHON closure.py CHECKOUT PACK '["requirements.txt", ...]'`, without booting ComfyUI.
"""

import json
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def closure(requirements: list[Requirement]) -> dict[str, metadata.Distribution]:
    """Follow the requirements, with their extras and this machine's markers, to all distributions."""
    found: dict[str, metadata.Distribution] = {}
    seen = set()
    while requirements:
        requirement = requirements.pop()
        for extra in {"", *requirement.extras}:
            name = requirement.name.lower().replace("_", "-").replace(".", "-")
            if (name, extra) in seen or (
                requirement.marker and not requirement.marker.evaluate({"extra": ""})
            ):
                continue
            seen.add((name, extra))
            found[name] = distribution = metadata.distribution(requirement.name)
            for needed in map(Requirement, distribution.requires or []):
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    needed.marker = None
                    requirements.append(needed)
    return found


def entries(distribution: metadata.Distribution) -> list[str]:
    """Name the files and folders that a distribution has at the top of site-packages."""
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
    return sorted(str(distribution.locate_file(top)) for top in tops)


lines = [
    line.partition("#")[0].strip()
    for file in json.loads(sys.argv[3])
    for line in Path(file).read_text(encoding="utf-8").splitlines()
]
found = closure([Requirement(line) for line in lines if line])
print(json.dumps({name: {"version": one.version, "entries": entries(one)} for name, one in found.items()}))

"""One table of the counts of all samples, from the summary of each."""

import json
from pathlib import Path

COLUMNS = ["records", "bases", "viral", "viral_bases", "host", "no_call", "regions"]

lines = ["\t".join(["sample", *COLUMNS])]
for sample, path in zip(snakemake.params.samples, snakemake.input, strict=True):
    counts = json.loads(Path(path).read_text())["counts"]
    lines.append("\t".join([sample, *(str(counts[column]) for column in COLUMNS)]))
Path(snakemake.output[0]).write_text("\n".join(lines) + "\n")
